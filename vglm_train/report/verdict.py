"""Is my loss normal? A run judged in sentences, each with the number it rests on."""

from dataclasses import dataclass
from typing import Literal

from vglm_train.log.alarms import ITC_NEAR, ITM_BAND, Alarms
from vglm_train.log.run_info import RunInfo
from vglm_train.report import reference
from vglm_train.report.runs import LoggedRun

PADDED = 0.3  # share of the places worth a word
TERMS = {"itc": "ln(candidates)", "itm": "ln 2", "itg": "ln(vocabulary)"}


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence about a run: fine, a warning, or a plain fact."""

    kind: Literal["ok", "warn", "fact"]
    text: str


def judge(run: LoggedRun) -> list[Line]:
    """Progress, start, learning of each loss, and what slows or spoils the run."""
    lines = [_progress(run)]
    if run.facts is None:
        lines.append(Line("fact", "No facts.json: planned length and batch are unknown, so losses cannot be judged."))
    elif speaks(run):
        lines += [*_speaking(run), *_looking(run)]
    else:
        lines += [*_start(run, run.facts), *_learning(run, run.facts), *_reference(run, run.facts)]
        lines += [Line("warn", text) for text in _alarms(run, run.facts)]
    return [*lines, *_troubles(run)]


def speaks(run: LoggedRun) -> bool:
    """Whether it is a run of stage two."""
    return run.facts is not None and "lm" in run.facts.weights


def _speaking(run: LoggedRun) -> list[Line]:
    """The language model's loss has no expected start: it knows its language, and how well differs."""
    steps, losses = run.series("train/loss_lm")
    if not steps:
        return [Line("fact", "No row holds train/loss_lm yet.")]
    now, accuracy = run.recent("train/loss_lm"), run.recent("train/lm_accuracy")
    assert now is not None, "there are steps"
    right = "" if accuracy is None else f", {accuracy:.0%} of the tokens foretold"
    text = f"LM {losses[0]:.3f} at first (step {steps[0]:.0f}), {now:.3f} now{right}"
    lines = [Line("ok", f"{text}: learning.") if now < losses[0] else Line("fact", f"{text}: not learning yet.")]
    padding = run.recent("train/padding")
    if padding is not None and padding > PADDED:
        lines.append(Line("fact", f"{padding:.0%} of the places are padding: texts of a batch differ much in length."))
    return lines


def _looking(run: LoggedRun) -> list[Line]:
    """Whether another image makes the reference dearer, by the interval of the newest evaluation."""
    lines = []
    for name in sorted(name for name in run.names() if name.endswith("_loss_gap")):
        gap, low, high = (run.last(f"{name}{end}") for end in ("", "_low", "_high"))
        if gap is None or low is None or high is None:
            continue
        language = name.removeprefix("eval/").removesuffix("_loss_gap")
        text = f"Held-out, {language}: another image costs {gap:+.3f} nats a token, 95 % [{low:+.3f}, {high:+.3f}]"
        looks = "the model looks at its picture" if low > 0 else "not yet told from a model that does not look"
        lines.append(Line("ok" if low > 0 else "fact", f"{text}: {looks}."))
    return lines or [Line("fact", "No evaluation tells yet whether the model looks at its pictures.")]


def _progress(run: LoggedRun) -> Line:
    if run.facts is None:
        return Line("fact", f"Logged up to step {run.last_step}.")
    done = run.last_step / max(1, run.facts.total_steps)
    state = "complete" if done >= 1 else "under way or stopped"
    return Line("fact", f"Step {run.last_step} of {run.facts.total_steps} ({done:.0%}): {state}.")


def _start(run: LoggedRun, facts: RunInfo) -> list[Line]:
    steps, losses = run.series("train/loss")
    expected = facts.expected_start()
    if not steps:
        return [Line("fact", "No row holds train/loss yet.")]
    terms = " + ".join(
        f"{'' if facts.weights[name] == 1 else f'{facts.weights[name]:g} x '}{TERMS[name]} {loss:.2f}"
        for name, loss in facts.expected().items()
    )
    text = (
        f"First logged loss {losses[0]:.2f} (step {steps[0]:.0f}); random weights start near {expected:.2f} = {terms}"
    )
    ratio = losses[0] / expected
    if ratio > 1.1:
        return [Line("warn", f"{text}. It starts {ratio - 1:.0%} higher: check weights, labels and temperature.")]
    if ratio < 0.9:
        return [Line("ok", f"{text}. It is lower: weights that know something, or steps before the first row.")]
    return [Line("ok", f"{text}. Within 10 %: normal.")]


def _learning(run: LoggedRun, facts: RunInfo) -> list[Line]:
    """Each loss of late, beside what an even guess costs."""
    lines = []
    for name, chance in facts.expected().items():
        now, accuracy = run.recent(f"train/loss_{name}"), run.recent(f"train/{name}_accuracy")
        if now is None:
            continue
        right = "" if accuracy is None else f" ({accuracy:.0%} right)"
        prior = ", the share of matches alone 0.637" if name == "itm" else ""
        learns = now < (ITM_BAND[0] if name == "itm" else ITC_NEAR * chance)
        text = f"{name.upper()} {now:.3f}{right}; an even guess costs {TERMS[name]} = {chance:.3f}{prior}"
        lines.append(Line("ok", f"{text}: learning.") if learns else Line("fact", f"{text}: not learning yet."))
    return lines


def _reference(run: LoggedRun, facts: RunInfo) -> list[Line]:
    """The share of the expected start that is left, here and in the public run after as many steps."""
    steps = run.series("train/loss")[0]
    if not steps or set(facts.expected()) != set(TERMS) or any(facts.weights[name] != 1 for name in TERMS):
        return []
    mine, there = run.recent("train/loss"), reference.loss_at(steps[-1])
    assert mine is not None, "there are steps"
    if there is None:
        return [Line("fact", "This run is longer than the public one, which ends at a mean loss of 5.20.")]
    left, theirs = mine / facts.expected_start(), there / reference.EXPECTED_START
    text = (
        f"After {steps[-1]:.0f} steps {left:.0%} of the expected start is left ({mine:.2f} of "
        f"{facts.expected_start():.2f}); the public run ({reference.SOURCE}) had {theirs:.0%} ({there:.2f} of "
        f"{reference.EXPECTED_START:.2f}) after as many"
    )
    if left <= theirs + 0.1:
        return [Line("ok", f"{text}: normal.")]
    fewer = reference.BATCH / facts.global_batch
    because = f"; it saw {fewer:.3g} times as many pairs a step" if fewer > 1.5 else ""
    return [Line("fact", f"{text}: slower than there{because}.")]


def _alarms(run: LoggedRun, facts: RunInfo) -> list[str]:
    return [f"Alarm: {text}" for text in Alarms(facts, run.rows).active()]


def _troubles(run: LoggedRun) -> list[Line]:
    lines = []
    skipped = run.last("train/steps_not_finite")
    if skipped:
        lines.append(Line("warn", f"{skipped:.0f} steps were skipped: a loss or gradient was not finite."))
    damaged = run.last("data/skipped")
    if damaged:
        causes = ", ".join(
            f"{name.removeprefix('data/skipped_')} {run.last(name):.0f}"
            for name in sorted(run.names())
            if name.startswith("data/skipped_")
        )
        lines.append(Line("fact", f"{damaged:.0f} damaged samples were passed over{f' ({causes})' if causes else ''}."))
    waits = run.series("perf/data_wait_fraction")[1]
    wait = sum(waits[-10:]) / len(waits[-10:]) if waits else 0.0
    if wait > 0.2:
        lines.append(Line("warn", f"{wait:.0%} of the time goes into waiting for data: more data.workers may help."))
    return lines
