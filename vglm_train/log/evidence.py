"""What a run's rows show: recent values with their noise, and how far a value has moved from its best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles
from typing import Protocol

ERRORS = 2.0  # standard errors that two values must be apart
CERTAIN = 4.0  # the same where one of the two is the best of many, which noise alone makes too good
ROWS, PART = 10, 20  # a recent value is the mean of the last so many rows, or of a twentieth if that is more
LEAST = 3  # rows that show noise
FALL = 4  # rows that show a fall
SLOW, LITTLE = 2.0, 0.1  # a rate so many times lower is told, unless more than this share of the time is waiting


class Logged(Protocol):
    """What a run has logged."""

    def series(self, name: str) -> tuple[Sequence[float], Sequence[float]]:
        """Steps and finite values of a metric; empty where the run has none."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The mean of some rows, with its standard error; None if there are too few rows to know it."""

    value: float
    error: float | None
    step: float  # of the last of these rows

    def below(self, level: float, errors: float = ERRORS) -> bool:
        """Whether it is certainly below, by so many standard errors; never of too few rows."""
        return self.error is not None and self.value + errors * self.error < level

    def above(self, level: float, errors: float = ERRORS) -> bool:
        return self.error is not None and self.value - errors * self.error > level

    def __str__(self) -> str:
        return f"{self.value:.3f}" if self.error is None else f"{self.value:.3f} \u00b1 {self.error:.3f}"


def recent(run: Logged, name: str) -> Recent | None:
    """The newest rows of a metric, of its later half at most; None where it has no finite value."""
    steps, values = run.series(name)
    return _mean(steps, values, len(values) - _width(values)) if values else None


def first(run: Logged, name: str) -> Recent | None:
    """The same of the first rows."""
    steps, values = run.series(name)
    return _mean(steps, values[: _width(values)], 0) if values else None


RATE, WAIT = "perf/samples_per_second", "perf/data_wait_fraction"


def samples_per_second(run: Logged, rows: int = 10) -> float | None:
    """Of the time of the newest rows together: a slow row counts by the time that it took."""
    rates = [rate for rate in run.series(RATE)[1][-rows:] if rate > 0]
    return len(rates) / sum(1 / rate for rate in rates) if rates else None


def waiting(run: Logged, rows: int = 10) -> float | None:
    """The share of the time of the newest rows together in which data was waited for."""
    steps, waits = run.series(WAIT)
    rates = dict(zip(*run.series(RATE)))
    newest = list(zip(steps, waits))[-rows:]
    times = [1 / rates[step] if rates.get(step) else 1.0 for step, _ in newest]
    return sum(time * wait for time, (_, wait) in zip(times, newest)) / sum(times) if times else None


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Samples a second that were usual, the last step that had them, and those of now."""

    usual: float
    step: float
    now: float
    waiting: float  # share of the time

    @property
    def factor(self) -> float:
        return self.usual / self.now


def slowdown(run: Logged, rows: int = 10) -> Slowdown | None:
    """Whether the newest rows are far slower than the fastest quarter of the run, and not because of its data.

    The middle of the newest rows, so that a single slow one is none. Of the whole run not the middle: a slow half of it
    would be the usual.
    """
    steps, rates = run.series(RATE)
    wait = waiting(run, rows)
    if wait is None or wait > LITTLE or len(rates) < 2 * rows:
        return None
    usual, now = quantiles(rates, n=4)[2], median(rates[-rows:])
    if now <= 0 or usual < SLOW * now:
        return None
    step = next(step for step, rate in zip(reversed(steps), reversed(rates)) if rate >= usual)
    return Slowdown(usual, step, now, wait)


def falling(run: Logged, name: str, level: float) -> bool:
    """Whether the newest rows are each below `level` and below all rows before.

    A fall that has just begun looks like noise to the mean of the rows that it is part of. Noise alone has its lowest
    four of eight rows at the end once in 70 times, and more rarely of more rows.
    """
    values = run.series(name)[1]
    newest, before = values[-FALL:], values[:-FALL]
    return len(before) >= FALL and max(newest) < min(level, *before)


def fallen(run: Logged, name: str) -> bool | None:
    """Whether a metric is certainly lower now than in its first rows; None where there are too few rows to tell.

    The first rows of a loss that falls at once differ much, as noise would. Then it must be below each of the very
    first ones.
    """
    early, late, values = first(run, name), recent(run, name), run.series(name)[1]
    if early is None or late is None or early.error is None or late.error is None:
        return None
    if late.value < early.value - ERRORS * math.hypot(early.error, late.error):
        return True
    return len(values) >= 2 * LEAST and late.value + CERTAIN * late.error < min(values[:LEAST])


@dataclass(frozen=True, slots=True)
class Rise:
    """A loss that was lower: its best rows and its newest."""

    best: Recent
    now: Recent


def rise(run: Logged, name: str) -> Rise | None:
    """Whether a loss is certainly above its best, by a tenth of all that it had fallen; None if not."""
    steps, values = run.series(name)
    now, width = recent(run, name), _width(values)
    if now is None or now.error is None or len(values) < 2 * width:
        return None
    means = {start: fmean(values[start : start + width]) for start in range(0, len(values) - width, width)}
    start = min(means, key=means.__getitem__)
    best = _mean(steps, values[: start + width], start)  # its noise alone: noise takes longer than all means
    if best.error is None:
        return None
    noise, fallen = CERTAIN * math.hypot(now.error, best.error), means[0] - best.value
    higher = now.value - best.value
    return Rise(best, now) if higher > max(noise, 0.1 * fallen, 0.02 * abs(best.value)) else None


def _width(values: Sequence[float]) -> int:
    """Rows of a recent value: of few rows their later half, so that it does not begin with the first."""
    return min(max(ROWS, len(values) // PART), max(LEAST, len(values) // 2), len(values))


def _mean(steps: Sequence[float], values: Sequence[float], start: int) -> Recent:
    """Of values[start:]."""
    part = values[start:]
    mean, error = fmean(part), None
    if len(part) >= LEAST:  # by hand: `statistics` computes in fractions, a millisecond for a few hundred rows
        error = math.sqrt(math.fsum((value - mean) * (value - mean) for value in part) / (len(part) - 1) / len(part))
    return Recent(mean, error, steps[len(values) - 1])
