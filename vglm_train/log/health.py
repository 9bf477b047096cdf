"""How a run is doing, as notes that `health_words.py` puts in words: for the console and for the page.

Pure functions of what was logged. A note is a code with the numbers that its words show.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import get_args

from vglm_train.config.data import Language
from vglm_train.config.metric_names import LOSS_GAP, LOSS_GAP_LOW, language_metric
from vglm_train.log import evidence
from vglm_train.log.alarms import CHECK_EVERY, ITM_SPAN, Alarms, blind_since
from vglm_train.log.health_words import Note
from vglm_train.log.held_out import held_out
from vglm_train.log.history import History
from vglm_train.log.jsonl import Row
from vglm_train.log.learned import learned
from vglm_train.log.run_info import RunInfo

STARVED = 0.2  # share of time waiting for data that is a fault
MUCH_DAMAGED = 0.01  # of the samples


class Health:
    """What was logged so far, and what it says."""

    def __init__(self, info: RunInfo | None, history: History | None = None) -> None:
        """`info`: None for a folder without facts.json, of which little can be said."""
        self.info, self.history = info, history or History()
        self._above: dict[str, bool] = {}  # loss -> whether its newest held-out scores are above chance
        self._itm_learned, self._next = False, 0.0  # whether it ever was, certainly; step of the next look

    def add(self, step: int, row: Row) -> None:
        """Take a row."""
        self.history.add(step, row)
        for name, _ in Alarms.WATCHED if "train/loss" not in row else ():
            if scores := held_out(name, row):
                self._above[name] = any(score.above for score in scores)
        if not self._itm_learned and self.info and "train/loss_itm" in row and step >= self._next:
            self._next = step + CHECK_EVERY * self.info.total_steps
            self._itm_learned = self._looks_learned(self.info)

    def _looks_learned(self, info: RunInfo) -> bool:
        """Of ITM, with so much certainty that no noise of later rows has to take it back."""
        return bool(info.weights.get("itm")) and learned(self.history, "itm", info, evidence.CERTAIN) in (
            "learned",
            "begun",
        )

    def notes(self) -> list[Note]:
        """The state of learning first, then what is wrong, what is so, and the time that is left."""
        if not self.history.rows:
            return [Note("no_row", "fact")]
        learning, blind = self._learning(), list(self._blind())
        if learning.code == "learning" and "itm_blind_too" in {note.code for note in blind}:
            learning = Note("words_only", "fact")  # the total falls by ITG
        notes = [learning, *blind, *self._wasted()]
        left = self.seconds_left()
        return notes if left is None else [*notes, Note("left", "fact", {"seconds": left})]

    def seconds_left(self) -> float | None:
        """At the rate of the newest rows, without evaluations and checkpoints; None where it is unknown or over."""
        rate = evidence.samples_per_second(self.history)
        if self.info is None or not rate or self.history.last_step >= self.info.total_steps:
            return None
        return (self.info.total_steps - self.history.last_step) * self.info.global_batch / rate

    def _learning(self) -> Note:
        """By the losses alone: in warm-up, falling, risen again, or neither."""
        history, info = self.history, self.info
        rows, losses = (history.series(name)[0] for name in ("train/lr", "train/loss"))
        last = losses[-1] if losses else 0.0
        if not history.finite.get("train/loss", True) or (rows and rows[-1] > last):  # rows without a finite step
            return Note("not_finite", "bad", {"step": last})
        for name in sorted(n for n in history.names() if n.startswith("train/loss_")):
            if found := evidence.rise(history, name):
                best, now = found.best, found.now
                loss = name.removeprefix("train/loss_").upper()
                return Note("risen", "warn", {"loss": loss, "step": best.step, "best": best.value, "now": now.value})
        fallen = evidence.fallen(history, "train/loss")
        if fallen is None:
            return Note("too_few", "fact", {"rows": history.rows})
        if fallen:
            return Note("learning", "ok")
        if info and history.last_step <= info.warmup_steps:
            return Note("warm_up", "fact", {"steps": info.warmup_steps})
        if len(history.series("train/loss")[1]) < 2 * evidence.LEAST:
            return Note("too_few", "fact", {"rows": history.rows})
        return Note("flat", "warn")

    def _blind(self) -> Iterable[Note]:
        """Whether pictures are not used, which a falling total does not tell."""
        if self.info is None:
            return
        alarms = self._alarms(self.info)
        if "itc" in alarms:
            yield Note("itc_blind", "bad")
        if "itm" in alarms:
            since = blind_since(self._points("itm", 0), self.info)
            yield Note("itm_blind_too" if "itc" in alarms else "itm_blind", "bad", {"since": since})
        itm = evidence.recent(self.history, "train/loss_itm")
        past_warm_up = self.history.last_step > self.info.warmup_steps
        if (
            "itm" not in alarms
            and itm is not None
            and past_warm_up
            and not (self._itm_learned or self._above.get("itm"))
        ):
            yield Note("itm_not_yet", "fact", {"now": itm.value})
        for language in get_args(Language):
            low = self.history.last(language_metric(language, LOSS_GAP_LOW))
            gap = self.history.last(language_metric(language, LOSS_GAP))
            if low is not None and gap is not None and low <= 0:
                yield Note("gap_blind", "bad", {"language": language, "gap": gap})

    def _alarms(self, info: RunInfo) -> list[str]:
        """Losses whose alarm holds at the newest row; no alarm looks further back than ITM's."""
        first = self.history.last_step - ITM_SPAN * (info.total_steps - info.warmup_steps)
        found = []
        for name, alarm in Alarms.WATCHED:
            if info.weights.get(name) and not self._above.get(name) and alarm(self._points(name, first), info):
                found.append(name)
        return found

    def _points(self, name: str, first: float) -> list[tuple[int, float, float]]:
        """(step, loss, share of right answers or NaN) of the rows from step `first` on."""
        right = dict(self._since(f"train/{name}_accuracy", first))
        losses = self._since(f"train/loss_{name}", first)
        return [(int(step), loss, right.get(step, math.nan)) for step, loss in losses]

    def _since(self, name: str, first: float) -> list[tuple[float, float]]:
        steps, values = self.history.series(name)
        start = bisect_left(steps, first)
        return list(zip(steps[start:], values[start:]))

    def _wasted(self) -> Iterable[Note]:
        """Waiting, steps that were not applied, damaged samples."""
        history = self.history
        wait = evidence.waiting(history)
        if wait is not None:
            starved = wait > STARVED
            yield Note("starved" if starved else "waiting", "warn" if starved else "fact", {"share": wait})
        if slow := evidence.slowdown(history):
            yield Note("slowed", "fact", {"factor": slow.factor, "step": slow.step})
        skipped = history.last("train/steps_not_finite")
        if skipped:
            much = skipped > 0.01 * history.last_step
            yield Note("skipped", "warn" if much else "fact", {"steps": skipped})
        damaged, samples = history.last("data/damaged"), history.last("data/samples")
        if damaged and samples and damaged > MUCH_DAMAGED * samples:
            yield Note("damaged", "warn", {"samples": damaged})
