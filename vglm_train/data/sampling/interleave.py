"""Several members take turns by their shares."""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np

PERIOD = 2**16  # turns; the shares of three members or more that need a longer one are rounded to fit


class Interleave:
    """Each turn goes to the member furthest behind its share; the earlier in the list where two are.

    With whole weights that sum to T the choice repeats after T turns, so one period answers for every turn. Of two
    members the first has had its share of the turns, rounded, after any number of them: no table is needed, and no
    share is rounded. After any number of turns no member is a whole turn above its share.
    """

    def __init__(self, shares: Sequence[float | Fraction]) -> None:
        self.weights = whole_weights(shares)
        self.period = sum(self.weights)
        if len(self.weights) > 2:
            self._deal()

    def _deal(self) -> None:
        """Write down one period."""
        weights = np.array(self.weights, dtype=np.int64)
        self.members = np.zeros(self.period, dtype=np.uint16)  # [T] the member of each turn
        self.before = np.zeros(self.period, dtype=np.int32)  # [T] turns of the same member earlier in the period
        behind = np.zeros(len(weights), dtype=np.int64)  # in turns times T
        had = np.zeros(len(weights), dtype=np.int64)
        for turn in range(self.period):
            behind += weights
            member = int(behind.argmax())
            self.members[turn], self.before[turn] = member, had[member]
            behind[member] -= self.period
            had[member] += 1

    def at(self, turn: int) -> tuple[int, int]:
        """The member of turn number `turn`, and how many turns it had before."""
        if len(self.weights) == 1:
            return 0, turn
        if len(self.weights) == 2:
            had = self._had(turn)
            return (0, had) if self._had(turn + 1) > had else (1, turn - had)
        periods, within = divmod(turn, self.period)
        member = int(self.members[within])
        return member, periods * self.weights[member] + int(self.before[within])

    def _had(self, turns: int) -> int:
        """Turns of the first of two members among so many; a half is its own, as the earlier in the list."""
        return (2 * turns * self.weights[0] + self.period) // (2 * self.period)

    @property
    def shares(self) -> list[float]:
        """As they will be, after rounding."""
        return [weight / self.period for weight in self.weights]


def whole_weights(shares: Sequence[float | Fraction]) -> list[int]:
    """The smallest whole numbers in the same proportion; of three or more that sum above PERIOD they are rounded, each
    at least 1.
    """
    exact = [Fraction(str(share)) if isinstance(share, float) else Fraction(share) for share in shares]
    assert exact
    assert all(share > 0 for share in exact)
    unit = lcm(*(share.denominator for share in exact))
    whole = [int(share * unit) for share in exact]
    common = gcd(*whole)
    whole = [number // common for number in whole]
    total = sum(whole)
    if total <= PERIOD or len(whole) < 3:
        return whole
    rounded = [max(1, number * PERIOD // total) for number in whole]
    left = [Fraction(number * PERIOD, total) - share for number, share in zip(whole, rounded)]
    for index in sorted(range(len(left)), key=lambda n: -left[n])[: max(0, PERIOD - sum(rounded))]:
        rounded[index] += 1
    return rounded
