"""Properties of the Q-Former that hold for any weights."""

from dataclasses import replace

import pytest
import tiny
import torch

from vglm_train.model.qformer.qformer import QFormer, grouped

CONFIG = replace(tiny.MODEL.qformer, layers=4)
IMAGE_WIDTH, QUERIES = 24, CONFIG.queries


@pytest.fixture
def qformer() -> QFormer:
    torch.manual_seed(0)
    made = QFormer(CONFIG, IMAGE_WIDTH, tiny.VOCABULARY)
    for parameter in made.parameters():  # far from initialisation, where attention is nearly uniform
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(3, 5, IMAGE_WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def text() -> tuple[torch.Tensor, torch.Tensor]:
    batch = tiny.batch(0, 3)
    assert len(set(batch.text_mask.sum(1).tolist())) > 1, "unequal lengths are the point"
    return batch.text_ids, batch.text_mask


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-5)


def test_caption_over_the_cache_is_the_joint_causal_pass(qformer, image, text):
    keys = qformer.image_keys(image)
    queries, cache = qformer.queries(keys)
    joint_queries, joint_text = qformer.joint(keys, *text, "causal")
    assert close(queries, joint_queries)
    assert close(qformer.caption(cache, *text), joint_text)


def test_separate_is_two_passes(qformer, image, text):
    keys = qformer.image_keys(image)
    queries, words = qformer.joint(keys, *text, "separate")
    assert close(queries, qformer.queries(keys)[0])
    assert close(words, qformer.text(*text))


def test_queries_alone_are_those_of_the_whole_pass(qformer, image, text):
    keys = qformer.image_keys(image)
    queries, words = qformer.joint(keys, *text, text=False)
    assert torch.equal(queries, qformer.joint(keys, *text)[0])
    assert words.shape[1] == 0


def test_one_sequence_for_contrast_and_caption_is_three_passes(qformer, image, text):
    ids, mask = text
    caption_ids = ids.roll(1, 0)
    keys = qformer.image_keys(image)
    queries, words, caption = qformer.contrast_and_caption(keys, ids, caption_ids, mask)
    expected, cache = qformer.queries(keys)
    assert close(queries, expected)
    assert close(words, qformer.text(ids, mask))
    assert close(caption, qformer.caption(cache, caption_ids, mask))


@pytest.mark.parametrize(("attend", "sees"), [("causal", False), ("separate", False), ("full", True)])
def test_whether_queries_see_text(qformer, image, text, attend, sees):
    ids, mask = text
    keys = qformer.image_keys(image)
    other = torch.where(ids > 3, (ids + 7) % 40 + 4, ids)
    before, after = (qformer.joint(keys, words, mask, attend)[0] for words in (ids, other))
    assert torch.equal(before, after) is not sees


def test_a_word_does_not_see_the_next_one_under_causal(qformer, image, text):
    ids, _ = text
    mask = torch.ones_like(ids, dtype=torch.bool)
    _, cache = qformer.queries(qformer.image_keys(image))
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % tiny.VOCABULARY
    before, after = qformer.caption(cache, ids, mask), qformer.caption(cache, changed, mask)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5], after[:, 5])


def test_padding_is_not_read(qformer, image, text):
    ids, mask = text
    noise = ids.where(mask, torch.full_like(ids, 7))
    keys = qformer.image_keys(image)
    assert close(qformer.text(ids, mask)[mask], qformer.text(noise, mask)[mask])
    assert close(qformer.joint(keys, ids, mask)[0], qformer.joint(keys, noise, mask)[0])


def test_grouped_rows_are_the_same_rows_alone(qformer, image, text):
    ids, mask = text
    keys, other = qformer.image_keys(image[:1]), qformer.image_keys(image[1:2])
    together, _ = qformer.joint(grouped(keys, 2, other), ids, mask)  # image 0 with texts 0 and 1, image 1 with text 2
    for row, alone in enumerate((keys, keys, other)):
        expected, _ = qformer.joint(alone, ids[row : row + 1], mask[row : row + 1])
        assert close(together[row : row + 1], expected)


def test_selected_keys_and_their_gradient_are_those_of_indexing(qformer, image):
    rows = torch.tensor([2, 0, 2, 2])
    grads = []
    for select in (True, False):
        source = image.clone().requires_grad_()
        keys = qformer.image_keys(source if select else source[rows])
        keys = qformer.select(keys, rows) if select else keys
        output, _ = qformer.queries(keys)
        (output * torch.arange(output.numel()).view_as(output).cos()).sum().backward()
        grads.append((output.detach(), source.grad))
    assert close(grads[0][0], grads[1][0])
    assert close(grads[0][1], grads[1][1])


def test_text_positions_start_at_zero_in_every_pass(qformer, image, text):
    ids, mask = text
    with torch.no_grad():
        qformer.embeddings.positions.weight[ids.shape[1] :] = float("nan")  # a later position would show
    keys = qformer.image_keys(image)
    _, cache = qformer.queries(keys)
    for output in (qformer.text(ids, mask), qformer.caption(cache, ids, mask), *qformer.joint(keys, ids, mask)):
        assert output.isfinite().all()


def test_without_text_it_has_no_text_weights():
    bare = QFormer(CONFIG, IMAGE_WIDTH, None)
    whole = QFormer(CONFIG, IMAGE_WIDTH, tiny.VOCABULARY)
    dropped = set(whole.state_dict()) - set(bare.state_dict())
    assert set(bare.state_dict()) < set(whole.state_dict())
    assert dropped
    assert all(".text_mlp." in name or name.startswith("embeddings.") for name in dropped)
    bare.load_state_dict({name: value for name, value in whole.state_dict().items() if name not in dropped})
    image = torch.randn(2, 5, IMAGE_WIDTH)
    for module in (bare, whole):
        module.eval()
    assert torch.equal(bare.queries(bare.image_keys(image))[0], whole.queries(whole.image_keys(image))[0])


def test_cross_attention_stands_in_every_second_block(qformer):
    assert [block.cross is not None for block in qformer.blocks] == [True, False, True, False]


def test_recomputed_activations_change_nothing(image, text):
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        made = QFormer(replace(CONFIG, dropout=0.1), IMAGE_WIDTH, tiny.VOCABULARY).train()
        made.recompute = recompute
        torch.manual_seed(5)
        queries, words = made.joint(made.image_keys(image), *text)
        (queries.sum() + words.square().sum()).backward()
        results.append([queries, *(parameter.grad for parameter in made.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_initialised_as_bert():
    made = QFormer(replace(CONFIG, width=64, mlp_width=256, heads=4), IMAGE_WIDTH, 1000)
    for name, parameter in made.named_parameters():
        if parameter.ndim == 2 and parameter.numel() > 2000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
