"""ITC by tiles against the dense formula: value, every gradient, accuracy and the hard negatives."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from precision import EXACT
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vglm_train.objective.contrastive import contrastive_loss, count_correct, similarities
from vglm_train.objective.contrastive_tiles import (
    Pairs,
    Statistics,
    _by_cosines,
    _kernels,
    gradients,
    merge,
    scan,
    tile_bytes,
)
from vglm_train.objective.matching import IMAGE_FOR_TEXT, TEXT_FOR_IMAGE, gumbel_noise, sample_negatives

SEED, FIRST_ROW, SMOOTHING = 7, 640, 0.1


def made(ids: list[int], valid: list[bool], seed: int = 0, queries: int = 3, width: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images, texts = (
        torch.randn(*shape, width, dtype=torch.float64, generator=generator)
        for shape in ((len(ids), queries), (len(ids),))
    )
    return {
        "images": F.normalize(images, dim=-1),
        "texts": F.normalize(texts, dim=-1),
        "temperature": torch.tensor([0.07], dtype=torch.float64),
        "image_ids": torch.tensor(ids),
        "valid": torch.tensor(valid),
    }


def dense(case: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the objective computes of one micro-batch."""
    learned = {name: case[name].clone().requires_grad_() for name in ("images", "texts", "temperature")}
    images, texts, temperature = learned.values()
    valid, same = case["valid"], case["image_ids"][:, None] == case["image_ids"]
    logits = [x / temperature for x in similarities(images, texts, images, texts)]
    with patch.object(Tensor, "float", Tensor.double):  # the targets, which it brings to fp32
        losses = [contrastive_loss(x, same & valid, valid, valid, SMOOTHING) for x in logits]
    loss = (losses[0] + losses[1]) / 2
    loss.backward()
    rows = torch.arange(FIRST_ROW, FIRST_ROW + len(valid))
    found = {f"{name} gradient": x.grad for name, x in learned.items()}
    for name, direction, each in zip(("text", "image"), (TEXT_FOR_IMAGE, IMAGE_FOR_TEXT), logits):
        negatives = sample_negatives(each.detach(), ~same & valid, gumbel_noise(SEED, direction, rows, rows))
        found[name] = negatives.where(valid & (~same & valid).any(1), 0)
    right = sum(count_correct(x.detach(), same & valid, valid, valid) for x in logits)
    return {**found, "loss": loss.detach(), "right": right}


def tiled(case: dict[str, Tensor], tile: int, ranks: int = 1) -> dict[str, Tensor]:
    """By tiles, with the images divided among `ranks`, row by row in turn."""
    n, valid = len(case["valid"]), case["valid"]
    every = [torch.arange(rank, n, ranks) for rank in range(ranks)]
    parts = [Pairs(**{**case, "images": case["images"][own]}, own=own, first_row=FIRST_ROW, tile=tile) for own in every]
    scanned = [scan(pairs, SEED) for pairs in parts]
    texts = merge(torch.cat([of_texts.stacked() for _, of_texts in scanned]), case["texts"])
    images = Statistics.empty(n, case["texts"])
    found = {"images gradient": torch.zeros_like(case["images"])}
    found |= {f"{name} gradient": torch.zeros_like(case[name]) for name in ("texts", "temperature")}
    for pairs, (of_images, _) in zip(parts, scanned):
        image, text, temperature = gradients(pairs, of_images, texts, SMOOTHING)
        found["images gradient"][pairs.own] = image
        found["texts gradient"] += text
        found["temperature gradient"] += temperature
        for name in Statistics.__slots__:
            getattr(images, name)[pairs.own] = getattr(of_images, name)
    losses = (images.losses(valid.sum(), SMOOTHING) + texts.losses(valid.sum(), SMOOTHING)) / 2
    found["loss"] = losses[valid].sum()
    found["right"] = (images.right + texts.right)[valid].sum()
    possible = valid & (case["image_ids"][:, None] != case["image_ids"][valid]).any(1)
    return found | {
        "text": images.negative.long().where(possible, 0),
        "image": texts.negative.long().where(possible, 0),
    }


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_tiles_are_the_dense_formula(data):
    n = data.draw(st.integers(2, 24))
    ids = data.draw(st.lists(st.integers(0, n // 2), min_size=n, max_size=n))
    valid = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    case = made(ids, valid, data.draw(st.integers(0, 9)))
    wanted = dense(case)
    found = tiled(case, data.draw(st.sampled_from((1, 16, 60, 1 << 20))), data.draw(st.integers(1, 3)))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].double(), value.double(), **EXACT, msg=lambda m, k=name: f"{k}: {m}")


def test_damaged_rows_may_hold_anything_however_low_the_temperature():
    """A row that takes no part may be far more similar than any that does: exp of that must not spoil the rest."""
    case = made([1, 2, 3, 4], [True, True, True, False])
    case = {name: x.float() if x.is_floating_point() else x for name, x in case.items()}
    case["temperature"].fill_(0.005)
    case["texts"][:3], case["texts"][3] = -case["images"][0, 0], case["images"][0, 0]
    case["images"][0] = case["images"][0, :1]
    found = tiled(case, 16)
    assert all(value.isfinite().all() for value in found.values())
    assert not found["texts gradient"][3].any()


def test_what_stands_for_one_negative_is_a_sample_of_the_softmax():
    """Over many positions in the stream, hard negatives come as often as the softmax says."""
    case = made([0, 1, 2, 3], [True] * 4)
    case["temperature"].fill_(0.5)
    logits = similarities(case["images"], case["texts"], case["images"], case["texts"])[0] / 0.5
    share = logits[0, 1:].softmax(0)
    counts, number = torch.zeros(4), 1000
    for start in range(0, 4 * number, 4):
        pairs = Pairs(**case, own=torch.arange(4), first_row=start, tile=8)
        counts[scan(pairs, SEED)[0].negative[0].long()] += 1
    assert counts[0] == 0
    deviation = (share * (1 - share) / number).sqrt()
    assert ((counts[1:] / number - share).abs() < 4 * deviation).all()


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_the_precision_of_products_is_put_back(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        pairs = Pairs(**made([0, 1], [True, True]), own=torch.arange(2), first_row=0, tf32=True)
        scan(pairs, None)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


class Largest(TorchDispatchMode):
    """The most elements of any result within it."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **keywords or {})
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_matrix_of_all_pairs_is_ever_made():
    n, tile, queries, width = 96, 256, 3, 5
    case = made(list(range(n)), [True] * n, queries=queries, width=width)
    with Largest() as largest:
        pairs = Pairs(**case, own=torch.arange(n), first_row=0, tile=tile)
        gradients(pairs, *scan(pairs, SEED), SMOOTHING)
    assert max(tile, n * queries * width) >= largest.elements
    assert largest.elements < n * n


def test_few_pairs_need_no_whole_tile():
    assert tile_bytes(16 * 16, 4) == 16 * 16 * 8 * 8
    assert tile_bytes(65_536**2, 32) == 2**29


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel needs a GPU")
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 4, 1030), (3, 32, 2048)])
def test_the_kernels_gradients_are_the_formulas(sizes):
    torch.manual_seed(0)
    (r, _, c), device = sizes, torch.device("cuda")
    cosines = torch.randn(sizes, device=device).tanh()
    pairs = (torch.randint(0, 9, (r,)), torch.randint(0, 9, (c,))), (torch.rand(r) > 0.2, torch.rand(c) > 0.1)
    pairs += (torch.rand(r) + 14, torch.rand(c) + 14), (torch.rand(r), torch.rand(c))
    terms = [tuple(x.to(device) for x in each) for each in pairs]
    terms += [torch.tensor(0.01, device=device), torch.tensor([0.07], device=device)]
    formula, kernel = cosines.clone(), cosines.clone()
    expected, found = _by_cosines(formula, *terms), _kernels().gradient_of_cosines(kernel, *terms)
    assert (kernel - formula).abs().max() <= 2e-6 * formula.abs().max(), (
        "some units of 2^-24, of two exponentials and a division"
    )
    assert abs(found - expected) <= 2e-6 * (formula.abs().amax(1) / 0.07).sum()
    if r > 1:
        cosines[1, 0, 3], terms[1][0][1], terms[1][1][3] = float("nan"), True, True
        assert _kernels().gradient_of_cosines(cosines, *terms).isnan(), "a cosine that is no number must be seen"
        assert cosines[1, :, 3].isnan().any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")
def test_a_gpu_gives_the_same_gradients_and_negatives():
    assert _kernels() is not None
    ids, valid = [number // 2 for number in range(600)], [number % 7 > 0 for number in range(600)]
    case = {
        name: x.float() if x.is_floating_point() else x for name, x in made(ids, valid, queries=8, width=64).items()
    }
    found = []
    for device in ("cpu", "cuda"):
        here = {name: x.to(device) for name, x in case.items()}
        pairs = Pairs(**here, own=torch.arange(600, device=device), first_row=FIRST_ROW, tile=2**14)
        images, texts = scan(pairs, SEED)
        grads = gradients(pairs, images, texts, SMOOTHING)
        found.append([x.cpu() for x in (images.negative, texts.negative, *grads)])
    for cpu, gpu in zip(*found):
        # a sum of 600 terms in another order
        assert (cpu - gpu).abs().max() <= 2e-5 * cpu.abs().max()
