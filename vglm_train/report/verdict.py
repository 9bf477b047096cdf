"""Is my loss normal? The verdict on a run: sentences, each with the number behind it."""

from vglm_train.config.metric_names import LOSS_GAP, PREFIX
from vglm_train.log.alarms import ITC_NEAR, ITM_BAND, Alarms
from vglm_train.log.run_info import RunInfo
from vglm_train.report import reference
from vglm_train.report.html import VerdictLine
from vglm_train.report.runs import LoggedRun

MUCH_PADDING = 0.3  # share of padding that is mentioned
TERMS = {"itc": "ln(candidates)", "itm": "ln 2", "itg": "ln(vocabulary)"}


def assess_run(run: LoggedRun) -> list[VerdictLine]:
    """Progress, first loss, whether each loss is learned, and what slows or spoils the run."""
    lines = [_progress(run)]
    if run.info is None:
        text = "No facts.json: planned length and batch are unknown, so losses cannot be judged."
        lines.append(VerdictLine("fact", text))
    elif is_stage_two(run):
        lines += [*_language_model_loss(run), *_image_use(run)]
    else:
        lines += [*_first_loss(run, run.info), *_stage_one_losses(run, run.info), *_reference(run, run.info)]
        lines += [VerdictLine("warn", f"Alarm: {text}") for text in Alarms(run.info, run.rows).active()]
    return [*lines, *_troubles(run)]


def is_stage_two(run: LoggedRun) -> bool:
    """Whether the run trains with a language model's loss."""
    return run.info is not None and "lm" in run.info.weights


def _language_model_loss(run: LoggedRun) -> list[VerdictLine]:
    """It has no expected start, because language models differ in how well they know the language."""
    steps, losses = run.series("train/loss_lm")
    if not steps:
        return [VerdictLine("fact", "No row holds train/loss_lm yet.")]
    now, accuracy = run.recent("train/loss_lm"), run.recent("train/lm_accuracy")
    assert now is not None, "there are steps"
    right = "" if accuracy is None else f", {accuracy:.0%} of the tokens predicted"
    text = f"LM {losses[0]:.3f} at first (step {steps[0]:.0f}), {now:.3f} now{right}"
    lines = [_learning(text, now < losses[0])]
    padding = run.recent("train/padding")
    if padding is not None and padding > MUCH_PADDING:
        text = f"{padding:.0%} of the positions are padding: texts of a batch differ much in length."
        lines.append(VerdictLine("fact", text))
    return lines


def _image_use(run: LoggedRun) -> list[VerdictLine]:
    """Whether another image raises the loss of the reference, by the interval of the newest evaluation."""
    lines = []
    for name in sorted(name for name in run.names() if name.endswith(f"_{LOSS_GAP}")):
        gap, low, high = (run.last(f"{name}{end}") for end in ("", "_low", "_high"))
        if gap is None or low is None or high is None:
            continue
        language = name.removeprefix(PREFIX).removesuffix(f"_{LOSS_GAP}")
        text = f"Held-out, {language}: another image costs {gap:+.3f} nats a token, 95 % [{low:+.3f}, {high:+.3f}]"
        if low > 0:
            lines.append(VerdictLine("ok", f"{text}: the model uses its image."))
        else:
            lines.append(VerdictLine("fact", f"{text}: this could be a model that does not use its image."))
    return lines or [VerdictLine("fact", "No evaluation shows yet whether the model uses its images.")]


def _progress(run: LoggedRun) -> VerdictLine:
    if run.info is None:
        return VerdictLine("fact", f"Logged up to step {run.last_step}.")
    done = run.last_step / max(1, run.info.total_steps)
    state = "complete" if done >= 1 else "under way or stopped"
    return VerdictLine("fact", f"Step {run.last_step} of {run.info.total_steps} ({done:.0%}): {state}.")


def _first_loss(run: LoggedRun, info: RunInfo) -> list[VerdictLine]:
    """The first logged loss beside that of random weights."""
    steps, losses = run.series("train/loss")
    expected = info.expected_start()
    if not steps:
        return [VerdictLine("fact", "No row holds train/loss yet.")]
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


def _stage_one_losses(run: LoggedRun, info: RunInfo) -> list[VerdictLine]:
    """The recent value of each loss, beside the loss of an even guess."""
    lines = []
    for name, chance in info.expected().items():
        now, accuracy = run.recent(f"train/loss_{name}"), run.recent(f"train/{name}_accuracy")
        if now is None:
            continue
        right = "" if accuracy is None else f" ({accuracy:.0%} right)"
        prior = ", the share of matches alone 0.637" if name == "itm" else ""
        learned = now < (ITM_BAND[0] if name == "itm" else ITC_NEAR * chance)
        text = f"{name.upper()} {now:.3f}{right}; an even guess costs {TERMS[name]} = {chance:.3f}{prior}"
        lines.append(_learning(text, learned))
    return lines


def _learning(text: str, learned: bool) -> VerdictLine:
    return VerdictLine("ok", f"{text}: learning.") if learned else VerdictLine("fact", f"{text}: not learning yet.")


def _reference(run: LoggedRun, info: RunInfo) -> list[VerdictLine]:
    """The share of the expected start that is left in this run, and in the public run after as many steps."""
    steps = run.series("train/loss")[0]
    if not steps or set(info.expected()) != set(TERMS) or any(info.weights[name] != 1 for name in TERMS):
        return []
    loss, public_loss = run.recent("train/loss"), reference.loss_at(steps[-1])
    assert loss is not None, "there are steps"
    if public_loss is None:
        text = "This run is longer than the public one, which ends at a mean loss of 5.20."
        return [VerdictLine("fact", text)]
    left, public_left = loss / info.expected_start(), public_loss / reference.EXPECTED_START
    text = (
        f"After {steps[-1]:.0f} steps {left:.0%} of the expected start is left ({loss:.2f} of "
        f"{info.expected_start():.2f}); the public run ({reference.SOURCE}) had {public_left:.0%} "
        f"({public_loss:.2f} of {reference.EXPECTED_START:.2f}) after as many"
    )
    if left <= public_left + 0.1:
        return [VerdictLine("ok", f"{text}: normal.")]
    ratio = reference.BATCH / info.global_batch
    reason = f"; that one read {ratio:.3g} times as many pairs a step" if ratio > 1.5 else ""
    return [VerdictLine("fact", f"{text}: slower than the public run{reason}.")]


def _troubles(run: LoggedRun) -> list[VerdictLine]:
    """Skipped steps, damaged samples and waiting for data."""
    lines = []
    skipped = run.last("train/steps_not_finite")
    if skipped:
        text = f"{skipped:.0f} steps were skipped: a loss or gradient was not finite."
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
