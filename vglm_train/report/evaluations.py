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
from vglm_train.report.html import VerdictLine
from vglm_train.report.runs import LoggedRun

MAIN: dict[VqaTask, str] = {"vqa": "accuracy", "report": "f1"}  # the score that is compared
SHOWN = {MAJORITY: "always giving the commonest answer", SHUFFLED: "shown another picture", BLANK: "a grey one"}
WORSE = 0.02  # of a held-out loss, which is of the same pictures each time


def newest(run: LoggedRun, loss: str) -> tuple[int, list[HeldOut]]:
    """(step, scores by language) of the newest evaluation of a loss of stage one; (0, []) where there is none."""
    found = ((step, held_out(loss, row)) for step, row in reversed(run.rows))
    return next(((step, scores) for step, scores in found if scores), (0, []))


def image_use(run: LoggedRun) -> list[VerdictLine]:
    """Whether another image raises the loss of the reference, or makes answers worse, by the newest evaluation."""
    lines = [*_loss_gaps(run), *_answers(run)]
    return lines or [VerdictLine("fact", "No evaluation shows yet whether the model uses its images.")]


def _loss_gaps(run: LoggedRun) -> Iterator[VerdictLine]:
    for name in sorted(name for name in run.names() if name.endswith(f"_{LOSS_GAP}")):
        gap, low, high = (run.last(f"{name}{end}") for end in ("", "_low", "_high"))
        if gap is None:
            continue
        language = name.removeprefix(PREFIX).removesuffix(f"_{LOSS_GAP}")
        text = f"Held-out, {language}: another image costs {gap:+.3f} nats a token"
        if low is None or high is None:
            yield VerdictLine("fact", f"{text}, of too few pictures to tell whether the model uses its image.")
        elif low > 0:
            yield VerdictLine("ok", f"{text}, 95 % [{low:+.3f}, {high:+.3f}]: the model uses its image.")
        else:
            words = "this could be a model that does not use its image"
            yield VerdictLine("fact", f"{text}, 95 % [{low:+.3f}, {high:+.3f}]: {words}.")


def _answers(run: LoggedRun) -> Iterator[VerdictLine]:
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
            text = f"Held-out, {task}: {score} {value:.1f} %, {SHOWN[baseline]} {other:.1f} %"
            if value > other + noise:
                yield VerdictLine("ok", f"{text}: above it.")
            else:
                where = "below it" if value < other - noise else f"not told apart, with {noise:.1f} of noise"
                yield VerdictLine("fact", f"{text}: {where}.")


def shuffled_above_chance(run: LoggedRun) -> Iterator[VerdictLine]:
    """Retrieval with the images exchanged, which must be at chance."""
    rows = ((step, row) for step, row in reversed(run.rows) if held_out("itm", row))
    step, row = next(rows, (0, Row()))
    for score in [*held_out("itc", row, SHUFFLED_IMAGES), *held_out("itm", row, SHUFFLED_IMAGES)]:
        if score.value > score.chance + 2 * score.noise:  # of several scores one is above its noise by chance
            text = f"Held-out, step {step}, {score.language}: with the images exchanged {score.value:.1f} % are right"
            reason = "captions fit several pictures, or the evaluation is broken"
            yield VerdictLine("warn", f"{text}, by chance {score.chance:.1f}: {reason}.")


def worse_than_best(run: LoggedRun) -> Iterator[VerdictLine]:
    """Held-out scores that were better at an earlier step."""
    for name, lower in _watched(run):
        steps, values = run.series(name)
        if not values:
            continue
        best, now = min(values) if lower else max(values), values[-1]
        if (now - best if lower else best - now) > _noise(run, name, lower, best, now):
            step = steps[values.index(best)]
            text = f"Held-out {name.removeprefix(PREFIX)} was {best:.4g} at step {step:.0f}, and is {now:.4g} now"
            if _training_fell(run, step):
                text += ", while the training loss fell: overfitting. checkpoint.best keeps the best step"
            yield VerdictLine("warn", f"{text}.")


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
