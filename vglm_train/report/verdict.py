"""Is my loss normal? The verdict on a run: sentences, each with the numbers behind it.

A loss is learned if it is certainly below what a guess costs, by the noise of its rows, and more answers are right than
by a guess. What is learned of the training data alone is told apart by the held-out scores, with the noise of so many
pictures.
"""

import math
from collections.abc import Iterator

from vglm_train.log import evidence
from vglm_train.log.alarms import ITC_NEAR, ITM_BLIND, ITM_RIGHT, Alarms
from vglm_train.log.held_out import HeldOut
from vglm_train.log.run_info import RunInfo
from vglm_train.report import evaluations, reference
from vglm_train.report.html import VerdictLine
from vglm_train.report.runs import LoggedRun

MUCH_PADDING = 0.3  # share of padding that is mentioned
TERMS = {"itc": "ln(candidates)", "itm": "ln 2", "itg": "ln(vocabulary)"}
ITG_LEARNED = 0.9  # of ln(vocabulary): the commonest words alone bring it below 0.98
MARGIN = 0.01  # of the share of right answers, and of what an even guess costs


def assess_run(run: LoggedRun) -> list[VerdictLine]:
    """Progress, first loss, whether each loss is learned, and what slows or spoils the run."""
    lines = [_progress(run)]
    if run.info is None:
        text = "No facts.json: planned length and batch are unknown, so losses cannot be judged."
        lines.append(VerdictLine("fact", text))
    elif is_stage_two(run):
        lines += [*_language_model_loss(run), *evaluations.image_use(run)]
    else:
        lines += [*_first_loss(run, run.info), *_stage_one_losses(run, run.info), *_reference(run, run.info)]
        lines += evaluations.shuffled_above_chance(run)
        lines += [VerdictLine("warn", f"Alarm: {text}") for text in Alarms(run.info, run.rows).active()]
    return [*lines, *_shared(run), *_rises(run), *evaluations.worse_than_best(run), *_troubles(run)]


def is_stage_two(run: LoggedRun) -> bool:
    """Whether the run trains with a language model's loss."""
    return run.info is not None and "lm" in run.info.weights


def _language_model_loss(run: LoggedRun) -> list[VerdictLine]:
    """It has no expected start, because language models differ in how well they know the language."""
    steps, losses = run.series("train/loss_lm")
    first, now, accuracy = (
        evidence.first(run, "train/loss_lm"),
        evidence.recent(run, "train/loss_lm"),
        evidence.recent(run, "train/lm_accuracy"),
    )
    if first is None or now is None:
        return [VerdictLine("fact", "No row holds train/loss_lm yet.")]
    right = "" if accuracy is None else f", {accuracy.value:.0%} of the tokens predicted"
    text = f"LM {losses[0]:.3f} at first (step {steps[0]:.0f}), {now} now{right}"
    lines = [_compared(text, first, now, len(losses))]
    padding = evidence.recent(run, "train/padding")
    if padding is not None and padding.value > MUCH_PADDING:
        text = f"{padding.value:.0%} of the positions are padding: texts of a batch differ much in length."
        lines.append(VerdictLine("fact", text))
    return lines


def _compared(text: str, first: evidence.Recent, now: evidence.Recent, rows: int) -> VerdictLine:
    """Whether a loss without a blind value has fallen since its first rows."""
    if first.error is None or now.error is None or rows < 2 * evidence.LEAST:
        return VerdictLine("fact", f"{text}: {rows} rows are too few to tell.")
    noise = evidence.ERRORS * (first.error**2 + now.error**2) ** 0.5
    if now.value < first.value - noise:
        return VerdictLine("ok", f"{text}: learning.")
    return VerdictLine("fact", f"{text}: not told apart from its first rows, {first}.")


def _progress(run: LoggedRun) -> VerdictLine:
    if run.info is None:
        return VerdictLine("fact", f"Logged up to step {run.last_step}.")
    done = run.last_step / max(1, run.info.total_steps)
    state = "complete" if done >= 1 else "under way or stopped"
    warming = ", still in warm-up" if run.last_step <= run.info.warmup_steps else ""
    per_cent = 100 * run.last_step // max(1, run.info.total_steps)  # not rounded up to 100
    return VerdictLine("fact", f"Step {run.last_step} of {run.info.total_steps} ({per_cent}%): {state}{warming}.")


def _first_loss(run: LoggedRun, info: RunInfo) -> list[VerdictLine]:
    """The first logged loss beside that of random weights."""
    steps, losses = run.series("train/loss")
    expected = info.expected_start()
    if not steps:
        return [VerdictLine("fact", "No row holds train/loss yet.")]
    if not expected:
        return []
    terms = " + ".join(
        f"{'' if info.weights[name] == 1 else f'{info.weights[name]:g} x '}{TERMS[name]} {loss:.2f}"
        for name, loss in info.expected().items()
    )
    text = (
        f"First logged loss {losses[0]:.2f} (step {steps[0]:.0f}); random weights start near {expected:.2f} = {terms}"
    )
    ratio = losses[0] / expected
    if ratio > 1.1:
        advice = "check weights, labels and temperature"
        return [VerdictLine("warn", f"{text}. It starts {ratio - 1:.0%} higher: {advice}.")]
    if ratio < 0.9:
        reason = "pretrained weights, or steps before the first row"
        return [VerdictLine("ok", f"{text}. It is lower: {reason}.")]
    return [VerdictLine("ok", f"{text}. Within 10 %: normal.")]


def _stage_one_losses(run: LoggedRun, info: RunInfo) -> Iterator[VerdictLine]:
    """The recent value of each loss and its share of right answers, beside those of a guess."""
    for name, even in info.expected().items():
        loss, right = evidence.recent(run, f"train/loss_{name}"), evidence.recent(run, f"train/{name}_accuracy")
        if name != "itg" and info.candidates < 2:
            text = f"{name.upper()} has one candidate a step, so nothing to choose from: raise engine.micro_batch."
            yield VerdictLine("warn", text)
        elif loss is not None:
            prior = f", the share of matches alone {ITM_BLIND}" if name == "itm" else ""
            shown = "" if right is None else f" ({right.value:.0%} right)"
            text = f"{name.upper()} {loss}{shown}; an even guess costs {TERMS[name]} = {even:.3f}{prior}"
            if loss.above(even * (1 + MARGIN)):
                yield VerdictLine("warn", f"{text}: worse than an even guess.")
            else:
                yield _judged(run, name, text, _learned(name, info, even, loss, right))


def _learned(
    name: str, info: RunInfo, even: float, loss: evidence.Recent, right: evidence.Recent | None
) -> bool | str | None:
    """Whether a loss is certainly better than a guess; in words if by its value alone; None: too few rows."""
    blind = {"itm": ITM_BLIND, "itc": ITC_NEAR * even, "itg": ITG_LEARNED * even}[name]
    guessed = {"itm": ITM_RIGHT, "itc": 1 / info.candidates}.get(name)
    if loss.error is None:
        return None
    if not loss.below(blind):
        return False
    if guessed is None or right is None:
        return True
    return right.above(guessed + MARGIN) or f"as many answers are right as by a guess, {guessed:.0%}"


def _judged(run: LoggedRun, name: str, text: str, learned: bool | str | None) -> VerdictLine:
    """With the newest held-out scores, unless they are of the first half of the run."""
    if learned is None:
        return VerdictLine("fact", f"{text}: too few rows to tell.")
    step, scores = evaluations.newest(run, name)
    if step < run.last_step / 2:
        scores = []
    above = any(score.above for score in scores)
    words = "".join(f" Held-out, step {step}: {_in_words(name, scores)}." for _ in scores[:1])
    if learned is True and scores and not above:
        return VerdictLine("warn", f"{text}: learned of the training data alone.{words} That is what chance gives.")
    if learned is True:
        return VerdictLine("ok", f"{text}: learning.{words}")
    why = f": {learned}" if learned else ""
    return VerdictLine("fact", f"{text}: not learning yet{why}.{words}")


def _in_words(name: str, scores: list[HeldOut]) -> str:
    what = "ITM accuracy" if name == "itm" else "recall at 1"
    each = (f"{s.language} {s.value:.1f} % (chance {s.chance:.1f}, with {s.noise:.1f} of noise)" for s in scores)
    return f"{what} {', '.join(each)}"


def _reference(run: LoggedRun, info: RunInfo) -> list[VerdictLine]:
    """The share of the expected start that is left in this run, and in the public run after as many steps."""
    steps = run.series("train/loss")[0]
    if not steps or set(info.expected()) != set(TERMS) or any(info.weights[name] != 1 for name in TERMS):
        return []
    now, public_loss = evidence.recent(run, "train/loss"), reference.loss_at(steps[-1])
    assert now is not None, "there are steps"
    if public_loss is None:
        text = "This run is longer than the public one, which ends at a mean loss of 5.20."
        return [VerdictLine("fact", text)]
    left, public_left = now.value / info.expected_start(), public_loss / reference.EXPECTED_START
    text = (
        f"After {steps[-1]:.0f} steps {left:.0%} of the expected start is left ({now.value:.2f} of "
        f"{info.expected_start():.2f}); the public run ({reference.SOURCE}) had {public_left:.0%} "
        f"({public_loss:.2f} of {reference.EXPECTED_START:.2f}) after as many"
    )
    if left <= public_left + 0.1:
        return [VerdictLine("ok", f"{text}: the sum, of which ITG is most, falls as fast.")]
    if left >= 1:
        return [VerdictLine("fact", f"{text}: it has not fallen.")]
    ratio = reference.BATCH / info.global_batch
    reason = f"; that one read {ratio:.3g} times as many pairs a step" if ratio > 1.5 else ""
    return [VerdictLine("fact", f"{text}: slower than the public run{reason}.")]


def _shared(run: LoggedRun) -> Iterator[VerdictLine]:
    """What validation has of the training data."""
    for text in run.info.shared if run.info else ():
        yield VerdictLine("warn", f"Held-out scores are too good: {text}.")


def _rises(run: LoggedRun) -> Iterator[VerdictLine]:
    """Losses that have risen from their best."""
    for name in sorted(name for name in run.names() if name.startswith("train/loss_")):
        if found := evidence.rise(run, name):
            label, best = name.removeprefix("train/loss_").upper(), found.best
            text = f"{label} was {best} about step {best.step:.0f} and has risen to {found.now}."
            yield VerdictLine("warn", f"{text} A lower optim.lr, or an earlier checkpoint, may help.")


def _troubles(run: LoggedRun) -> list[VerdictLine]:
    """Skipped steps, damaged samples and waiting for data."""
    lines = []
    skipped = run.last("train/steps_not_finite")
    if skipped:
        text = f"{skipped:.0f} steps were skipped: a loss or gradient was not finite."
        lines.append(VerdictLine("warn", text))
    if since := _not_finite_since(run):
        text = f"No loss is finite since step {since[0]}: {since[1]} rows. What stands above is of before."
        lines.append(VerdictLine("warn", text))
    damaged = run.last("data/damaged")
    if damaged:
        causes = ", ".join(
            f"{name.removeprefix('data/damaged_')} {run.last(name):.0f}"
            for name in sorted(run.names())
            if name.startswith("data/damaged_")
        )
        text = f"{damaged:.0f} damaged samples were skipped{f' ({causes})' if causes else ''}."
        lines.append(VerdictLine("fact", text))
    waits = run.series("perf/data_wait_fraction")[1]
    wait = sum(waits[-10:]) / len(waits[-10:]) if waits else 0.0
    if wait > 0.2:
        text = f"{wait:.0%} of the time is spent waiting for data: more data.workers may help."
        lines.append(VerdictLine("warn", text))
    return lines


def _not_finite_since(run: LoggedRun) -> tuple[int, int] | None:
    """(step of the last finite total loss, or 0; rows of training since); None where the newest row has one."""
    training = [(step, row) for step, row in run.rows if any(name.startswith("train/") for name in row)]
    finite = [number for number, (_, row) in enumerate(training) if math.isfinite(row.get("train/loss", math.nan))]
    last = finite[-1] if finite else -1
    since = len(training) - 1 - last
    return (training[last][0] if finite else 0, since) if since else None
