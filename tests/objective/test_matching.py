"""Hard negatives and the matching loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from vglm_train.objective.matching import (
    IMAGE_FOR_TEXT,
    TEXT_FOR_IMAGE,
    _kernels,
    gumbel_noise,
    matching_loss,
    sample_negatives,
)

ROWS = torch.arange(1000, 1064)


def test_noise_depends_on_its_four_keys_alone():
    whole = gumbel_noise(7, TEXT_FOR_IMAGE, ROWS, ROWS)
    for start in range(0, 64, 16):  # as four ranks would draw it
        part = gumbel_noise(7, TEXT_FOR_IMAGE, ROWS[start : start + 16], ROWS)
        assert torch.equal(part, whole[start : start + 16])
    assert not torch.equal(whole, whole.T), "anchor and candidate are not the same thing"
    for other in (
        gumbel_noise(8, TEXT_FOR_IMAGE, ROWS, ROWS),
        gumbel_noise(7, IMAGE_FOR_TEXT, ROWS, ROWS),
        gumbel_noise(7, TEXT_FOR_IMAGE, ROWS + 64, ROWS + 64),
    ):
        assert (other == whole).float().mean() < 0.01


def test_noise_never_changes_between_versions():
    """Resuming an old run must draw what it would have drawn; these numbers are the contract."""
    noise = gumbel_noise(42, TEXT_FOR_IMAGE, torch.tensor([0, 1]), torch.tensor([0, 1]))
    by_hand = [[_gumbel_in_python(42, 1, anchor, candidate) for candidate in (0, 1)] for anchor in (0, 1)]
    assert torch.allclose(noise, torch.tensor(by_hand), atol=1e-6)  # a logarithm of about 1 keeps its error, 2^-24


def _gumbel_in_python(seed: int, direction: int, anchor: int, candidate: int) -> float:
    """The same with Python's own integers."""
    wrap, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & wrap
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & wrap
        return x ^ (x >> 31)

    row = mix((mix((seed * golden + direction) & wrap) + anchor * golden) & wrap)
    uniform = ((mix((row + candidate * golden) & wrap) >> 41) + 0.5) / 2**23
    return -math.log(-math.log(uniform))


def test_noise_is_gumbel():
    noise = gumbel_noise(3, IMAGE_FOR_TEXT, torch.arange(1000), torch.arange(1000)).double()
    assert noise.isfinite().all()
    assert abs(noise.mean() - 0.577216) < 0.01
    assert abs(noise.var() - math.pi**2 / 6) < 0.02
    assert abs(torch.corrcoef(noise[:2])[0, 1]) < 0.1
    assert abs(torch.corrcoef(noise[:, :2].T)[0, 1]) < 0.1


def test_large_seeds_are_taken():
    assert gumbel_noise(2**63 - 1, TEXT_FOR_IMAGE, ROWS, ROWS).isfinite().all()


def test_negatives_are_drawn_with_the_probability_of_the_softmax():
    logits = torch.tensor([2.0, 0.5, -1.0, 1.0])
    allowed = torch.tensor([False, True, True, True])
    draws = 20_000
    noise = gumbel_noise(5, TEXT_FOR_IMAGE, torch.arange(draws), torch.arange(4))
    drawn = sample_negatives(logits.expand(draws, 4), allowed.expand(draws, 4), noise)
    found = torch.bincount(drawn, minlength=4) / draws
    expected = F.softmax(logits.masked_fill(~allowed, -torch.inf), 0)
    assert found[0] == 0
    assert torch.allclose(found, expected, atol=0.015)  # four standard deviations


def test_a_positive_is_never_drawn_however_alike():
    ids = torch.arange(64) // 4
    allowed = ids[:, None] != ids
    logits = 1000.0 * (~allowed).float()
    for seed in range(20):
        drawn = sample_negatives(logits, allowed, gumbel_noise(seed, TEXT_FOR_IMAGE, ROWS, ROWS))
        assert not (ids[drawn] == ids).any()


def test_loss_and_accuracy():
    logits = torch.tensor([[[0.0, 2.0], [1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 0.0], [1.0, 0.0]]])
    labels = torch.tensor([1, 0, 0, 1, 0, 0])
    each = F.cross_entropy(logits.view(6, 2), labels, reduction="none")
    total, right = matching_loss(logits, torch.tensor([True, True]))
    assert torch.isclose(total, each.sum())
    assert right == 4  # a tie goes to "no match"
    total, right = matching_loss(logits, torch.tensor([True, False]))
    assert torch.isclose(total, each[:3].sum())
    assert right == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel needs a GPU")
def test_the_kernels_noise_is_the_formulas():
    assert _kernels() is not None
    rows, candidates = torch.arange(1000, 1064), torch.arange(200_000)
    found = gumbel_noise(7, TEXT_FOR_IMAGE, rows.cuda(), candidates.cuda()).cpu()
    expected = gumbel_noise(7, TEXT_FOR_IMAGE, rows, candidates)
    # 13 million draws of 8 million values: those nearest to 0 and 1 are among them
    assert found.min() < -2.7
    assert found.max() > 16
    assert (found - expected).abs().max() <= 4e-6, "two logarithms, each right to some units of 2^-24"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel needs a GPU")
def test_the_kernel_takes_whatever_positions_there_are():
    for rows, candidates in ((0, 5), (3, 0), (1, 1), (2, 1025)):
        own, others = torch.arange(rows), torch.arange(2 * candidates)[::2] + 2**40
        strided = (torch.arange(2 * candidates, device="cuda") + 2**40)[::2]
        found = gumbel_noise(1, IMAGE_FOR_TEXT, own.cuda(), strided)
        assert found.shape == (rows, candidates)
        assert torch.allclose(found.cpu(), gumbel_noise(1, IMAGE_FOR_TEXT, own, others), rtol=0, atol=4e-6)
