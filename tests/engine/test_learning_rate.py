"""Learning rate at the points that matter, as spelled-out numbers."""

from dataclasses import dataclass

import pytest

from vglm_train.config.run import Length, Optim
from vglm_train.engine.optim import learning_rate


@dataclass(frozen=True)
class Span:
    total_samples: int = 10_000
    warmup_samples: int = 2_000
    epoch_samples: int = 1_000


def optim(decay: str, **changes) -> Optim:
    return Optim(lr=1e-4, min_lr=1e-5, warmup_lr=1e-6, warmup=Length(samples=2_000), decay=decay, **changes)


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        (0, 1e-6),  # the first step runs at warmup_lr
        (500, 2.575e-5),
        (1_000, 5.05e-5),
        (1_999, 9.99505e-5),
        (2_000, 1e-4),  # the peak
        (4_000, 8.681980515339463e-5),  # 1e-5 + 9e-5 * (1 + cos 45 degrees) / 2
        (6_000, 5.5e-5),  # half way down
        (8_000, 2.318019484660536e-5),
        (10_000, 1e-5),
        (99_999, 1e-5),  # a run made longer than planned stays at the floor
    ],
)
def test_cosine(samples, rate):
    assert learning_rate(samples, optim("cosine"), Span()) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(("samples", "rate"), [(0, 1e-6), (1_000, 5.05e-5), (2_000, 1e-4), (10_000, 1e-4)])
def test_constant(samples, rate):
    assert learning_rate(samples, optim("constant"), Span()) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        (0, 1e-6),
        (250, 5.05e-5),
        (500, 1e-4),  # warm-up ends inside epoch 0 ...
        (999, 1e-4),  # ... which then keeps the peak
        (1_000, 9.779754323328192e-5),  # epoch 1 of 10: 1e-5 + 9e-5 * (1 + cos 18 degrees) / 2
        (1_999, 9.779754323328192e-5),  # a staircase
        (5_000, 5.5e-5),
        (9_999, 1.220245676671809e-5),  # the last epoch does not reach min_lr, as in LAVIS
    ],
)
def test_cosine_per_epoch_is_a_staircase(samples, rate):
    assert learning_rate(samples, optim("cosine_per_epoch"), Span(warmup_samples=500)) == pytest.approx(rate, rel=1e-12)


def test_cosine_per_epoch_cuts_a_warmup_longer_than_epoch_0():
    span = Span(warmup_samples=2_000)
    assert learning_rate(999, optim("cosine_per_epoch"), span) == pytest.approx(5.04505e-5, rel=1e-12)
    assert learning_rate(1_000, optim("cosine_per_epoch"), span) == pytest.approx(9.779754323328192e-5, rel=1e-12)


@pytest.mark.parametrize("decay", ["cosine", "constant", "cosine_per_epoch"])
def test_no_warmup_starts_at_the_peak(decay):
    assert learning_rate(0, optim(decay), Span(warmup_samples=0)) == 1e-4


def test_warmup_as_long_as_the_run_ends_at_the_peak():
    span = Span(warmup_samples=10_000)
    assert learning_rate(9_999, optim("cosine"), span) == pytest.approx(9.99901e-5, rel=1e-9)
    assert learning_rate(10_000, optim("cosine"), span) == 1e-4
