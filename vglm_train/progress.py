"""Progress of long commands in one style: a bar with rate and time left, JSON lines, or nothing.

VGLM_PROGRESS says which (`vglm --progress bar|json|off COMMAND` sets it). Without it there is a bar where stderr is a
terminal, and nothing elsewhere: a log keeps what is said, not what moves.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeVar, get_args

from tqdm import tqdm

from vglm_train.errors import UserError

VARIABLE = "VGLM_PROGRESS"
Style = Literal["bar", "json", "off"]
STYLES = get_args(Style)
EVERY = 1.0  # seconds between two JSON lines
DELAY = 2.0  # seconds that what is short stays silent
Item = TypeVar("Item")


def style() -> Style:
    """How progress is shown here. UserError for a value of the variable that is none."""
    named = os.environ.get(VARIABLE)
    if not named:
        return "bar" if sys.stderr.isatty() else "off"
    if named not in STYLES:
        raise UserError(f"{VARIABLE}={named}: give one of {', '.join(STYLES)}")
    return named  # type: ignore[return-value]


class Progress:
    """How much of something is done. A context manager: at its end a last line says how far it came."""

    def __init__(self, total: int | None, unit: str, text: str, shown: bool = True, already: int = 0) -> None:
        """`unit`: B for bytes, else a noun in the singular; `shown`: False on all processes but the first; `already`:
        done before this start, which says nothing of the rate."""
        self.total, self.unit, self.text, self.n, self._already = total, unit, text, already, already
        self.style: Style = style() if shown else "off"
        self._start = time.monotonic()
        self._next = self._start + DELAY
        self._bar: Any = None
        if self.style == "bar":
            layout = (
                None
                if total is None
                else "{desc}: {percentage:3.0f} %|{bar}| {n_fmt}/{total_fmt} " + ("{rate_fmt}, {remaining} left")
            )
            self._bar = tqdm(
                total=total, unit=unit, desc=text, unit_scale=unit == "B", unit_divisor=1024, delay=DELAY,
                mininterval=0.2, dynamic_ncols=True, bar_format=layout, initial=already,
            )  # fmt: skip

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.n += count
        if self._bar is not None:
            self._bar.update(count)
        elif self.style == "json" and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self._print(False)

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, each of which counts as one once the next is asked for."""
        with self:
            for item in items:
                yield item
                self.update()

    def close(self) -> None:
        """No call follows."""
        if self._bar is not None:
            self._bar.close()
        elif self.style == "json":
            self._print(True)
        self.style = "off"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _print(self, ended: bool) -> None:
        seconds = time.monotonic() - self._start
        new = self.n - self._already
        left = seconds * (self.total - self.n) / new if self.total and new else None
        line = {
            "progress": self.text, "done": self.n, "total": self.total, "unit": self.unit,
            "seconds": round(seconds, 1), "left": None if left is None else round(left, 1), "ended": ended,
        }  # fmt: skip
        print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`, `2 d 04 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24:02d} h"
