"""Several members take turns by their shares."""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np

PERIOD = 2**16  # turns; shares that need a longer one are rounded to fit


class Interleave:
    """Each turn goes to the member furthest behind its share; the earlier in the list where two are.

    With whole weights that sum to T the choice repeats after T turns, so one period answers for every turn. After any
    number of turns no member is a whole turn above its share.
    """

    def __init__(self, shares: Sequence[float | Fraction]) -> None:
        self.weights = np.array(whole_weights(shares), dtype=np.int64)
        self.period = int(self.weights.sum())
        self.members = np.zeros(self.period, dtype=np.uint16)  # [T] the member of each turn
        self.before = np.zeros(self.period, dtype=np.int32)  # [T] turns of the same member earlier in the period
        behind = np.zeros(len(self.weights), dtype=np.int64)  # in turns times T
        had = np.zeros(len(self.weights), dtype=np.int64)
        for turn in range(self.period if len(self.weights) > 1 else 0):
            behind += self.weights
            member = int(behind.argmax())
            self.members[turn], self.before[turn] = member, had[member]
            behind[member] -= self.period
            had[member] += 1

    def at(self, turn: int) -> tuple[int, int]:
        """The member of turn number `turn`, and how many turns it had before."""
        periods, within = divmod(turn, self.period)
        member = int(self.members[within])
        return member, periods * int(self.weights[member]) + int(self.before[within])

    @property
    def shares(self) -> list[float]:
        """As they will be, after rounding."""
        return [int(weight) / self.period for weight in self.weights]


def whole_weights(shares: Sequence[float | Fraction]) -> list[int]:
    """The smallest whole numbers in the same proportion; rounded, each at least 1, where they sum above PERIOD."""
    exact = [Fraction(str(share)) if isinstance(share, float) else Fraction(share) for share in shares]
    assert exact
    assert all(share > 0 for share in exact)
    unit = lcm(*(share.denominator for share in exact))
    whole = [int(share * unit) for share in exact]
    common = gcd(*whole)
    whole = [number // common for number in whole]
    total = sum(whole)
    if total <= PERIOD:
        return whole
    rounded = [max(1, number * PERIOD // total) for number in whole]
    left = [Fraction(number * PERIOD, total) - share for number, share in zip(whole, rounded)]
    for index in sorted(range(len(left)), key=lambda n: -left[n])[: max(0, PERIOD - sum(rounded))]:
        rounded[index] += 1
    return rounded
