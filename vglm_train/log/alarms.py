"""Alarms in words: losses that say that nothing is learned. Pure functions of logged rows, so nothing is saved.

The bands come from public runs. A matching head that only learned the 1:2 prior of its labels stays at 0.637
(salesforce/BLIP issue 51: 0.632-0.641 on medical pairs). An even guess over N candidates costs ln N. A loss alone can
be there for another reason, such as a temperature that is too low. So the share of right answers must be that of a
guess, too, and no held-out score above chance: ITM's hard negatives may look alike while easy ones are told apart.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev

from vglm_train.log.evidence import CERTAIN
from vglm_train.log.health_words import advice
from vglm_train.log.held_out import held_out
from vglm_train.log.jsonl import METRICS, Row, read_rows
from vglm_train.log.run_info import RunInfo
from vglm_train.log.sink import Sink
from vglm_train.log.tongues import NOTHING, Text, Tongue, fill

logger = logging.getLogger("vglm_train")

ITM_BAND = (0.63, 0.645)
ITM_BLIND = 0.637  # the share of matches alone
ITM_RIGHT = 2 / 3  # of a head that always says no
RIGHT_NEAR = 0.02  # from the share of right answers of a guess
ITM_SPAN = 0.3  # of the steps after warm-up
ITC_SPAN = 0.1
ITC_NEAR = 0.98  # of ln N
CHECK_EVERY = 0.002  # of all steps: long runs log many rows, and nothing changes in so few steps
END_EVERY = 0.01  # of all steps: whether an alarm is over; all of its span has to be read for that
PARTS = 5  # a span is judged by the means of so many parts: noise of small batches does not hide a flat line

WORDS: dict[str, tuple[str, str]] = {
    "itm": (
        "ITM loss has stayed within {low}-{high} for {span:.0%} of the steps after warm-up so far, since step "
        "{since}{right}: so does a matching head that answers by the 1:2 share of its labels (0.637, 67% right) and "
        "does not look at the pictures.",
        "自第 {since} 步起，即预热之后到现在的 {span:.0%}，ITM loss 停在 {low}-{high}{right}：只按标签的 1:2 "
        "比例作答（0.637，正确率 67%）、不看图片的匹配头就是如此。",
    ),
    "itc": (
        "ITC loss is still at or above ln {candidates} = {chance:.3f} after warm-up{right}, which is no better than an "
        "even guess: images and texts do not find each other.",
        "预热之后 ITC loss 仍不低于 ln {candidates} = {chance:.3f}{right}，并不比均匀瞎猜好：图片和文字找不到对方。",
    ),
    "right": (", with {share:.0%} right", "，正确率 {share:.0%}"),
    "over": (
        "the alarm about {loss} is over; its loss is {value:.3f} now",
        "关于 {loss} 的警报已解除；它的 loss 现在是 {value:.3f}",
    ),
    "at": ("step {step}: {news}", "第 {step} 步：{news}"),
    "to_try": ("{news} {advice}", "{news}{advice}"),
}

Points = Sequence[tuple[int, float, float]]  # (step, loss, share of right answers or NaN)


def itm_alarm(points: Points, info: RunInfo, parts: int = PARTS) -> Text | None:
    """The matching loss has stayed in the band of a blind head for 30 % of the steps after warm-up."""
    means, rights = _recent_means(points, info, ITM_SPAN, parts)
    if not means or not all(ITM_BAND[0] <= loss <= ITM_BAND[1] for loss in means):
        return None
    if rights and abs(fmean(rights) - ITM_RIGHT) > RIGHT_NEAR + _noise(rights):
        return None
    low, high = ITM_BAND
    since, warm = blind_since(points, info), info.warmup_steps
    span = (points[-1][0] - max(since, warm)) / (points[-1][0] - warm)
    return fill(WORDS["itm"], low=low, high=high, span=span, since=since, right=_right(rights))


def blind_since(points: Points, info: RunInfo) -> int:
    """The first step since which ITM's loss has stayed in the band, by the parts that `itm_alarm` looks at."""
    end, part = points[-1][0], ITM_SPAN * (info.total_steps - info.warmup_steps) / PARTS
    since = end
    for _, group in groupby(reversed(points), key=lambda point: int((end - point[0]) / part)):
        members = list(group)
        if not ITM_BAND[0] <= fmean(loss for _, loss, _ in members) <= ITM_BAND[1]:
            break
        since = members[-1][0]
    return since


def itc_alarm(points: Points, info: RunInfo, parts: int = PARTS) -> Text | None:
    """The contrastive loss has not come below ln N since warm-up ended."""
    chance = math.log(info.candidates)
    means, rights = _recent_means(points, info, ITC_SPAN, parts)
    if not chance or not means or not all(loss >= ITC_NEAR * chance for loss in means):
        return None
    if rights and fmean(rights) > 1 / info.candidates + RIGHT_NEAR + _noise(rights):
        return None
    return fill(WORDS["itc"], candidates=info.candidates, chance=chance, right=_right(rights))


def not_finite(step: int, in_row: int, values: Mapping[str, float], checkpoint: Path | None) -> str:
    """The message for a run that stops after `in_row` steps without an update.

    `values`: losses and gradient norm of the last such step; `checkpoint`: the newest complete one.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    saved = f"the newest checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
    return (
        f"step {step}: {in_row} steps in a row were skipped because {', '.join(bad) or 'the gradient'} "
        f"{'are' if len(bad) > 1 else 'is'} not finite; {saved}. Lower optim.lr, lengthen optim.warmup or set "
        "optim.clip, and look at the data of these steps; then run the same command to go on."
    )


@dataclass(frozen=True, slots=True)
class Notice:
    """An alarm begins, or is over."""

    loss: str
    text: Text
    over: bool


class Alarms(Sink):
    """A sink that warns when an alarm begins, and says when it is over."""

    WATCHED = (("itm", itm_alarm), ("itc", itc_alarm))

    def __init__(self, info: RunInfo, past: Iterable[tuple[int, Row]] = (), language: Tongue = "en") -> None:
        """`past`: rows logged before a resume; they are remembered, and not warned of again."""
        self.info, self.language = info, language
        self._points: dict[str, list[tuple[int, float, float]]] = {name: [] for name, _ in self.WATCHED}
        self._seen: dict[str, bool] = {name: False for name, _ in self.WATCHED}  # above chance at the last evaluation
        self._next: dict[str, float] = {name: 0.0 for name, _ in self.WATCHED}  # step of the next check
        self._raised: set[str] = set()
        for step, row in past:
            self.feed(step, row)

    @classmethod
    def resume(cls, info: RunInfo, folder: Path, language: Tongue = "en") -> "Alarms":
        """With what the run `folder` has logged so far; construct the JsonlSink, which cuts back, first."""
        return cls(info, read_rows(folder / METRICS), language)

    def feed(self, step: int, row: Row) -> list[Notice]:
        """What this row changes."""
        notices = []
        for name, alarm in self.WATCHED:
            if scores := held_out(name, row):
                self._seen[name] = any(score.above for score in scores)
            value = row.get(f"train/loss_{name}", math.nan)
            if not self.info.weights.get(name) or not math.isfinite(value):
                continue
            self._points[name].append((step, value, row.get(f"train/{name}_accuracy", math.nan)))
            if step < self._next[name]:
                continue
            parts = 1 if name in self._raised else PARTS  # of a few lucky rows an alarm is not over
            text = None if self._seen[name] else alarm(self._points[name], self.info, parts)
            self._next[name] = step + (END_EVERY if text else CHECK_EVERY) * self.info.total_steps
            if bool(text) != (name in self._raised):
                self._raised ^= {name}
                news = self._with_advice(name, text) if text else fill(WORDS["over"], loss=name.upper(), value=value)
                notices.append(Notice(name, fill(WORDS["at"], step=step, news=news), over=not text))
        return notices

    def active(self) -> list[Text]:
        """Alarms that hold at the last row, whether or not they have been logged, without what to try."""
        texts = (alarm(self._points[name], self.info) for name, alarm in self.WATCHED if not self._seen[name])
        return [text for text in texts if text]

    def _with_advice(self, name: str, text: Text) -> Text:
        """ITM cannot learn where ITC does not, of which there is an alarm already."""
        code = "itm_blind_too" if name == "itm" and "itc" in self._raised else f"{name}_blind"
        return fill(WORDS["to_try"], news=text, advice=advice(code))

    def write(self, step: int, row: Row) -> None:
        for notice in self.feed(step, row):
            logger.log(logging.INFO if notice.over else logging.WARNING, notice.text.of(self.language))


def _recent_means(points: Points, info: RunInfo, share: float, count: int) -> tuple[list[float], list[float]]:
    """(mean loss of each of `count` parts, share right of each row) of the last `share` of the steps after warm-up.

    Empty before it has passed. Shares of right answers of small batches are so noisy that parts of them would differ.
    The newest part comes first, so that a caller's `all` ends early on a loss that falls.
    """
    span = share * (info.total_steps - info.warmup_steps)
    if not points or span <= 0 or points[-1][0] - info.warmup_steps < span:
        return [], []
    end, rights = points[-1][0], []
    parts: list[list[float]] = [[] for _ in range(count)]
    for step, loss, right in reversed(points):
        part = int((end - step) * count / span)
        if part >= count:
            break
        parts[part].append(loss)
        if math.isfinite(right):
            rights.append(right)
    if sum(len(part) for part in parts) < 3:
        return [], []
    return [fmean(part) for part in parts if part], rights


def _noise(rights: Sequence[float]) -> float:
    """Of their mean, at many looks: an alarm is not over because of lucky rows."""
    return CERTAIN * stdev(rights) / math.sqrt(len(rights)) if len(rights) > 1 else 0.0


def _right(rights: Sequence[float]) -> Text:
    """The share of right answers in words; nothing where it was not logged."""
    return fill(WORDS["right"], share=fmean(rights)) if rights else NOTHING
