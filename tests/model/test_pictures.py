"""Rows with several pictures through the whole model."""

from dataclasses import replace

import pytest
import tiny_language
import torch
from tiny_language import END, PAD, QUERIES, SOP

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.model.visual_language import VisualLanguageModel


@pytest.fixture(scope="module")
def model() -> VisualLanguageModel:
    return tiny_language.build(tiny_language.CHATGLM).eval()


def batch(rows: list[tuple[list[int], list[int]]], pixels: torch.Tensor) -> PromptBatch:
    """Rows of pictures' first places and ids behind the last of them; all places before that are pictures' or id 7."""
    lengths = [starts[-1] + QUERIES + len(ids) for starts, ids in rows]
    ids = torch.full((len(rows), max(lengths)), PAD)
    visual = torch.zeros(ids.shape, dtype=torch.bool)
    labels = torch.full(ids.shape, IGNORED)
    for row, (starts, behind) in enumerate(rows):
        ids[row, : starts[-1]] = 7
        ids[row, starts[-1] + QUERIES : lengths[row]] = torch.tensor(behind)
        for start in starts:
            visual[row, start : start + QUERIES] = True
        answer = lengths[row] - len(behind) + behind.index(SOP)
        labels[row, answer : lengths[row]] = ids[row, answer : lengths[row]]
    attention = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    return PromptBatch(pixels=pixels, valid=torch.ones(len(rows), dtype=torch.bool), input_ids=ids,
                       attention_mask=attention, visual_mask=visual, labels=labels)  # fmt: skip


TWO = ([1, 2 + QUERIES], [9, SOP, 10, 11, END])
ONE = ([1], [8, SOP, 12, END])


@torch.no_grad()
def test_pictures_go_to_their_rows_in_order(model: VisualLanguageModel) -> None:
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together, _ = model.score(batch([TWO, ONE], pixels))
    first, _ = model.score(batch([TWO], pixels[:2]))
    second, _ = model.score(batch([ONE], pixels[2:]))
    torch.testing.assert_close(together, torch.cat([first, second]), atol=1e-5, rtol=0)  # padding changes sums' order
    visual = model.visual_tokens(model.encode_image(pixels))
    assert not torch.allclose(visual[0], visual[1])
    embeds = model.fuse(visual, batch([TWO, ONE], pixels))
    assert torch.equal(embeds[0, 1 : 1 + QUERIES], visual[0])
    assert torch.equal(embeds[0, 2 + QUERIES : 2 + 2 * QUERIES], visual[1])
    assert torch.equal(embeds[1, 1 : 1 + QUERIES], visual[2])


@pytest.mark.parametrize("pictures", [2, 4])
def test_other_numbers_of_pictures(model: VisualLanguageModel, pictures: int) -> None:
    given = batch([TWO, ONE], torch.zeros(pictures, 3, 16, 16))
    with pytest.raises(ValueError, match=f"image positions for {pictures} images of {QUERIES} tokens each"):
        model.score(given)


def test_a_picture_split_between_rows(model: VisualLanguageModel) -> None:
    given = batch([TWO, ONE], torch.zeros(3, 3, 16, 16))
    given.visual_mask[0, 1], given.visual_mask[1, 1 + QUERIES] = False, True
    with pytest.raises(ValueError, match="the prompts have"):
        model.score(given)


@torch.no_grad()
def test_queries_read_the_question_and_nothing_of_its_padding() -> None:
    base = tiny_language.CHATGLM
    reading = replace(base, qformer=replace(base.qformer, reads_question=True, spread=0.3))
    model = tiny_language.build(reading).eval()
    assert model.qformer.blocks[-1].text_mlp is None
    features = model.encode_image(torch.full((2, 3, 16, 16), 90, dtype=torch.uint8))
    ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    mask = ids != 0
    found = model.visual_tokens(features, ids, mask)
    assert not torch.allclose(found[0], found[1]), "one picture, two questions"
    short = model.visual_tokens(features[1:], ids[1:, :3], mask[1:, :3])
    torch.testing.assert_close(found[1:], short, atol=1e-5, rtol=0)  # sums over fewer places
    given = batch([ONE, ONE], torch.full((2, 3, 16, 16), 90, dtype=torch.uint8))
    asked = replace(given, question_ids=ids, question_mask=mask)
    scored, _ = model.score(asked)
    expected, _ = model.language.score(model.fuse(found, given), given)
    assert torch.equal(scored, expected)
