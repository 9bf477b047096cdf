"""What the held-out scores of a run show: whether pictures are used, and whether the scores are past their best."""

import math
from collections.abc import Iterator

from vglm_train.config.metric_names import (
    BASELINES,
    BLANK,
    IMAGES,
    LOSS,
    LOSS_GAP,
    MAJORITY,
    MEAN_RECALL,
    PREFIX,
    QUESTIONS,
    SHUFFLED,
    SHUFFLED_IMAGES,
    SHUFFLED_LOSS,
    VqaTask,
    answer_metric,
)
from vglm_train.log import evidence
from vglm_train.log.held_out import ERRORS, UNKNOWN, HeldOut, held_out
from vglm_train.log.jsonl import Row
from vglm_train.log.tongues import NOTHING
from vglm_train.report.runs import LoggedRun
from vglm_train.report.sentence import Sentence
from vglm_train.report.verdict_words import say

MAIN: dict[VqaTask, str] = {"vqa": "accuracy", "report": "f1"}  # the score that is compared
SHOWN = {MAJORITY: say("majority"), SHUFFLED: say("shuffled"), BLANK: say("blank")}
WORSE = 0.02  # of a held-out loss, which is of the same pictures each time


def newest(run: LoggedRun, loss: str) -> tuple[int, list[HeldOut]]:
    """(step, scores by language) of the newest evaluation of a loss of stage one; (0, []) where there is none."""
    found = ((step, held_out(loss, row)) for step, row in reversed(run.rows))
    return next(((step, scores) for step, scores in found if scores), (0, []))


def image_use(run: LoggedRun) -> list[Sentence]:
    """Whether another image raises the loss of the reference, or makes answers worse, by the newest evaluation."""
    lines = [*_loss_gaps(run), *_answers(run)]
    return lines or [Sentence("fact", say("no_evaluation"))]


def _loss_gaps(run: LoggedRun) -> Iterator[Sentence]:
    for name in sorted(name for name in run.names() if name.endswith(f"_{LOSS_GAP}")):
        gap, low, high = (run.last(f"{name}{end}") for end in ("", "_low", "_high"))
        if gap is None:
            continue
        language = name.removeprefix(PREFIX).removesuffix(f"_{LOSS_GAP}")
        text = say("gap", language=language, gap=gap)
        if low is None or high is None:
            yield Sentence("fact", say("gap_too_few", text=text))
            continue
        text = say("gap_interval", text=text, low=low, high=high)
        yield Sentence("ok", say("gap_used", text=text)) if low > 0 else Sentence("fact", say("gap_unused", text=text))


def _answers(run: LoggedRun) -> Iterator[Sentence]:
    """Each task's main score beside its baselines'."""
    for task, score in MAIN.items():
        value, questions = run.last(answer_metric(task, score)), run.last(answer_metric(task, QUESTIONS)) or UNKNOWN
        if value is None:
            continue
        for baseline in BASELINES:
            other = run.last(answer_metric(task, score, baseline))
            if other is None:
                continue
            noise = ERRORS * math.hypot(_error(value, questions), _error(other, questions))
            text = say("answers", task=task, score=score, value=value, baseline=SHOWN[baseline], other=other)
            if value > other + noise:
                yield Sentence("ok", say("above", text=text))
            elif value < other - noise:
                yield Sentence("fact", say("below", text=text))
            else:
                yield Sentence("fact", say("not_apart", text=text, noise=noise))


def shuffled_above_chance(run: LoggedRun) -> Iterator[Sentence]:
    """Retrieval with the images exchanged, which must be at chance."""
    rows = ((step, row) for step, row in reversed(run.rows) if held_out("itm", row))
    step, row = next(rows, (0, Row()))
    for score in [*held_out("itc", row, SHUFFLED_IMAGES), *held_out("itm", row, SHUFFLED_IMAGES)]:
        if score.value > score.chance + 2 * score.noise:  # of several scores one is above its noise by chance
            values = {"language": score.language, "value": score.value, "chance": score.chance}
            yield Sentence("warn", say("shuffled_above", step=step, **values))


def worse_than_best(run: LoggedRun) -> Iterator[Sentence]:
    """Held-out scores that were better at an earlier step."""
    for name, lower in _watched(run):
        steps, values = run.series(name)
        if not values:
            continue
        best, now = min(values) if lower else max(values), values[-1]
        if (now - best if lower else best - now) > _noise(run, name, lower, best, now):
            step = steps[values.index(best)]
            fell = say("overfitting") if _training_fell(run, step) else NOTHING
            score = name.removeprefix(PREFIX)
            yield Sentence("warn", say("worse", name=score, best=best, step=step, now=now, overfitting=fell))


def _watched(run: LoggedRun) -> Iterator[tuple[str, bool]]:
    """(name, whether lower is better) of one score of each kind of evaluation."""
    names = run.names()
    if MEAN_RECALL in names:
        yield MEAN_RECALL, False
    for name in sorted(names):
        if name.startswith(PREFIX) and name.endswith(f"_{LOSS}") and not name.endswith(SHUFFLED_LOSS):
            yield name, True
    yield from ((answer_metric(task, score), False) for task, score in MAIN.items())


def _noise(run: LoggedRun, name: str, lower: bool, best: float, now: float) -> float:
    """How much worse a score may be by noise alone."""
    if lower:
        return WORSE * abs(best)
    last = next(row for _, row in reversed(run.rows) if name in row)
    return ERRORS * math.hypot(_error(best, _count(name, last)), _error(now, _count(name, last)))


def _count(name: str, row: Row) -> float:
    """How many questions or images a score is of: the fewest of a language."""
    if name != MEAN_RECALL:
        return row.get(answer_metric("vqa" if "vqa" in name else "report", QUESTIONS), UNKNOWN)
    counts = [value for other, value in row.items() if other.endswith(f"_{IMAGES}")]
    return min(counts, default=UNKNOWN)


def _error(per_cent: float, count: float) -> float:
    """The standard error of a share of `count`, in per cent."""
    share = min(max(per_cent / 100, 1 / (count + 2)), 1 - 1 / (count + 2))
    return 100 * math.sqrt(share * (1 - share) / count)


def _training_fell(run: LoggedRun, since: float) -> bool:
    """Whether the training loss is certainly lower than about step `since`."""
    steps, values = run.series("train/loss")
    before = [value for step, value in zip(steps, values) if step <= since]
    now = evidence.recent(run, "train/loss")
    width = min(len(before), 10)
    return bool(before) and now is not None and now.below(sum(before[-width:]) / width)
