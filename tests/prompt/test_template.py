"""What every template shares: batches, and that it goes to loader workers."""

import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from made_tokenizers import ice_text, words_folder
from tokenizers.normalizers import Replace
from torch.utils.data import DataLoader

from vglm_train.batch import PromptBatch
from vglm_train.config.language import Language, Prompt
from vglm_train.prompt.build import build_template
from vglm_train.prompt.chatglm import build_chatglm
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer
from vglm_train.prompt.template import Encoded, Template
from vglm_train.prompt.tokenizers import build_tokenizer

NO = -100
PIECES = ["▁<img>", "▁</img>", "Q", "A", ":", "a", "▁a", "dog"]  # from 6 on
MASK, SOP, EOP = 15, 18, 19


@pytest.fixture
def made(tmp_path: Path) -> Template:
    file = ice_text(tmp_path, PIECES)
    return build_template(Prompt(), Language(tokenizer=str(file)), build_chatglm(file), 2)


@pytest.fixture
def words(tmp_path: Path) -> Template:
    folder = words_folder(tmp_path / "words", ["a", "▁dog"], "<s>")
    language = Language(family="causal", config="config.json", tokenizer=str(folder))
    return build_template(Prompt(style="blip2"), language, build_tokenizer(language), 2)


def test_batch(made):
    rows = [made.encode(Dialogue("a", "a")), None, made.encode(Dialogue("dog", "a dog"))]
    batch = made.collate(rows)
    assert batch["input_ids"].tolist() == [
        [6, 3, 3, 7, 8, 10, 11, 4, 9, 10, MASK, SOP, 12, EOP, 3, 3],
        [3] * 16,
        [6, 3, 3, 7, 8, 10, 13, 4, 9, 10, MASK, SOP, 12, 5, 13, EOP],
    ]
    assert batch["attention_mask"].sum(1).tolist() == [14, 2, 16]
    assert batch["attention_mask"][1].tolist() == [True, True, *[False] * 14]
    assert [row.nonzero()[:, 0].tolist() for row in batch["visual_mask"]] == [[1, 2], [0, 1], [1, 2]]
    assert batch["labels"].tolist() == [
        [*[NO] * 11, SOP, 12, EOP, NO, NO],
        [NO] * 16,
        [*[NO] * 11, SOP, 12, 5, 13, EOP],
    ]
    kinds = {name: tensor.dtype for name, tensor in batch.items()}
    assert kinds == {
        "input_ids": torch.int64,
        "attention_mask": torch.bool,
        "visual_mask": torch.bool,
        "labels": torch.int64,
        "targets": torch.int64,
    }
    assert batch["labels"].flatten()[batch["targets"]].tolist() == [SOP, 12, EOP, SOP, 12, 5, 13, EOP]
    PromptBatch(pixels=torch.zeros(3, 3, 2, 2), valid=torch.tensor([True, False, True]), **batch)


def test_batch_of_prompts_has_labels_of_the_same_shape(made):
    batch = made.collate([made.encode_prompt(Dialogue("a", None)), made.encode_prompt(Dialogue("a dog", None))])
    assert batch["labels"].shape == batch["input_ids"].shape
    assert (batch["labels"] == NO).all()
    assert batch["input_ids"][1, -1] == SOP


def test_batch_of_damaged_rows(made, words):
    for template in (made, words):
        batch = template.collate([None, None])
        assert batch["visual_mask"].all()
        assert batch["input_ids"].shape == (2, 2)


@pytest.mark.parametrize(
    "row",
    [
        Encoded([3] * 5, (4,), []),
        Encoded([3], (0,), []),
        Encoded([3] * 5, (-1,), []),
        Encoded([3] * 5, (0, 1), []),
        Encoded([3] * 5, (2, 0), []),
    ],
)
def test_a_wrong_number_of_places(made, row):
    with pytest.raises(ValueError, match=f"a row of {len(row.input_ids)} ids has pictures at .* template needs 2"):
        made.collate([made.encode_prompt(Dialogue("a", None)), row])


def test_an_answer_of_which_nothing_is_left(tmp_path):
    folder = words_folder(tmp_path, ["a"])
    language = Language(family="causal", config="config.json", tokenizer=str(folder))
    tokenizer = build_tokenizer(language)
    tokenizer.tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    with pytest.raises(EmptyAnswer, match="leaves nothing"):
        build_template(Prompt(style="blip2"), language, tokenizer, 2).encode(Dialogue("", "\u200b"))


def encoded(number: int, template: Template) -> Encoded:
    return template.encode(Dialogue("a", "a dog"[: 1 + number]))


class Rows:
    def __init__(self, template: Template) -> None:
        self.template = template

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> Encoded:
        return encoded(number, self.template)


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_goes_to_loader_workers(made, words, how):
    for template in (made, words) if how == "fork" else (made,):
        loader = DataLoader(
            Rows(template), batch_size=4, num_workers=1, collate_fn=template.collate, multiprocessing_context=how
        )
        (batch,) = loader
        here = template.collate([encoded(number, template) for number in range(4)])
        assert all(torch.equal(batch[name], here[name]) for name in here)


def test_pickling_keeps_the_ids(made, words):
    for template in (made, words):
        again = pickle.loads(pickle.dumps(template))
        row = partial(template.encode, Dialogue("a dog </s>", "a dog"))
        assert again.encode(Dialogue("a dog </s>", "a dog")) == row()
