"""Is my loss normal? The verdict on a run: sentences in both languages, each with the numbers behind it.

A loss is learned if it is certainly below what a guess costs, by the noise of its rows, and more answers are right than
by a guess. What is learned of the training data alone is told apart by the held-out scores, with the noise of so many
pictures.
"""

import math
from collections.abc import Iterator

from vglm_train.log import evidence
from vglm_train.log.alarms import ITM_BLIND, Alarms
from vglm_train.log.held_out import HeldOut
from vglm_train.log.learned import MARGIN, guessed, learned
from vglm_train.log.run_info import RunInfo
from vglm_train.log.tongues import NOTHING, Text
from vglm_train.report import evaluations, reference
from vglm_train.report.runs import LoggedRun
from vglm_train.report.sentence import Sentence
from vglm_train.report.verdict_words import say

MUCH_PADDING = 0.3  # share of padding that is mentioned
TERMS = {"itc": say("ln_candidates"), "itm": say("ln_2"), "itg": say("ln_vocabulary")}


def assess_run(run: LoggedRun) -> list[Sentence]:
    """Progress, first loss, whether each loss is learned, and what slows or spoils the run."""
    lines = [_progress(run)]
    if run.info is None:
        lines.append(Sentence("fact", say("no_facts")))
    elif is_stage_two(run):
        lines += [*_language_model_loss(run), *evaluations.image_use(run)]
    else:
        lines += [*_first_loss(run, run.info), *_stage_one_losses(run, run.info), *_reference(run, run.info)]
        lines += evaluations.shuffled_above_chance(run)
        lines += [Sentence("warn", say("alarm", alarm=text)) for text in Alarms(run.info, run.rows).active()]
    return [*lines, *_shared(run), *_rises(run), *evaluations.worse_than_best(run), *_troubles(run)]


def is_stage_two(run: LoggedRun) -> bool:
    """Whether the run trains with a language model's loss."""
    return run.info is not None and "lm" in run.info.weights


def _language_model_loss(run: LoggedRun) -> list[Sentence]:
    """It has no expected start, because language models differ in how well they know the language."""
    steps, losses = run.series("train/loss_lm")
    first, now, accuracy = (
        evidence.first(run, "train/loss_lm"),
        evidence.recent(run, "train/loss_lm"),
        evidence.recent(run, "train/lm_accuracy"),
    )
    if first is None or now is None:
        return [Sentence("fact", say("no_row", name="train/loss_lm"))]
    right = NOTHING if accuracy is None else say("tokens_right", share=accuracy.value)
    text = say("lm", first=losses[0], step=steps[0], now=now, right=right)
    lines = [_compared(run, text, first, len(losses))]
    padding = evidence.recent(run, "train/padding")
    if padding is not None and padding.value > MUCH_PADDING:
        lines.append(Sentence("fact", say("padding", share=padding.value)))
    return lines


def _compared(run: LoggedRun, text: Text, first: evidence.Recent, rows: int) -> Sentence:
    """Whether a loss without a blind value has fallen since its first rows."""
    if rows < 2 * evidence.LEAST:
        return Sentence("fact", say("lm_too_few", text=text, rows=rows))
    if evidence.fallen(run, "train/loss_lm"):
        return Sentence("ok", say("learning", text=text, held_out=NOTHING))
    return Sentence("fact", say("lm_same", text=text, first=first))


def _progress(run: LoggedRun) -> Sentence:
    if run.info is None:
        return Sentence("fact", say("logged", step=run.last_step))
    step, steps = run.last_step, max(1, run.info.total_steps)
    state = say("complete" if step >= steps else "under_way")
    warming = say("warming") if step <= run.info.warmup_steps else NOTHING
    share = 100 * step // steps  # not rounded up to 100
    return Sentence("fact", say("progress", step=step, steps=steps, share=share, state=state, warming=warming))


def _first_loss(run: LoggedRun, info: RunInfo) -> list[Sentence]:
    """The first logged loss beside that of random weights."""
    steps, losses = run.series("train/loss")
    expected = info.expected_start()
    if not steps:
        return [Sentence("fact", say("no_row", name="train/loss"))]
    if not expected:
        return []
    terms = NOTHING
    for name, loss in info.expected().items():
        weight = "" if info.weights[name] == 1 else f"{info.weights[name]:g} x "
        terms += say("term", plus=" + " if terms.en else "", weight=weight, term=TERMS[name], loss=loss)
    text = say("first", loss=losses[0], step=steps[0], expected=expected, terms=terms)
    ratio = losses[0] / expected
    if ratio > 1.1:
        return [Sentence("warn", say("first_high", text=text, more=ratio - 1))]
    return [Sentence("ok", say("first_low" if ratio < 0.9 else "first_normal", text=text))]


def _stage_one_losses(run: LoggedRun, info: RunInfo) -> Iterator[Sentence]:
    """The recent value of each loss and its share of right answers, beside those of a guess."""
    for name, even in info.expected().items():
        loss, right = evidence.recent(run, f"train/loss_{name}"), evidence.recent(run, f"train/{name}_accuracy")
        if name != "itg" and info.candidates < 2:
            yield Sentence("warn", say("one_candidate", loss=name.upper()))
        elif loss is not None:
            prior = say("prior", blind=ITM_BLIND) if name == "itm" else NOTHING
            shown = NOTHING if right is None else say("right", share=right.value)
            text = say("loss", name=name.upper(), loss=loss, right=shown, term=TERMS[name], even=even, prior=prior)
            if loss.above(even * (1 + MARGIN)):
                yield Sentence("warn", say("worse_than_guess", text=text))
            else:
                yield _judged(run, info, name, text)


def _judged(run: LoggedRun, info: RunInfo, name: str, text: Text) -> Sentence:
    """With the newest held-out scores, unless they are of the first half of the run, or of before it was learned."""
    state = learned(run, name, info)
    if state == "too_few":
        return Sentence("fact", say("too_few", text=text))
    step, scores = evaluations.newest(run, name)
    above = any(score.above for score in scores)
    too_early = state == "learned" and not above and learned(run.until(step), name, info) != "learned"
    if step < run.last_step / 2 or too_early:
        scores = []
    words = _in_words(name, step, scores) if scores else NOTHING
    if state == "learned" and scores and not above:
        return Sentence("warn", say("by_heart", text=text, held_out=words))
    if state == "learned":
        return Sentence("ok", say("learning", text=text, held_out=words))
    if state == "begun":
        return Sentence("fact", say("begun", text=text, newest=_newest(run, name), held_out=words))
    why = say("as_guessed", guessed=guessed(name, info)) if state == "as_guessed" else NOTHING
    code = "not_learned" if run.last_step >= info.total_steps else "not_learning"
    return Sentence("fact", say(code, text=text, why=why, held_out=words))


def _newest(run: LoggedRun, name: str) -> Text:
    """The value of the newest row, and its share of right answers."""
    steps, losses = run.series(f"train/loss_{name}")
    share = run.last(f"train/{name}_accuracy")
    right = NOTHING if share is None else say("right", share=share)
    return say("newest", step=steps[-1], loss=losses[-1], right=right)


def _in_words(name: str, step: int, scores: list[HeldOut]) -> Text:
    each = NOTHING
    for s in scores:
        between = say("comma") if each.en else NOTHING
        each += between + say("score", language=s.language, value=s.value, chance=s.chance, noise=s.noise)
    return say("held_out", step=step, what=say("itm_accuracy" if name == "itm" else "recall_at_1"), scores=each)


def _reference(run: LoggedRun, info: RunInfo) -> list[Sentence]:
    """The loss as a share of what random weights cost, in this run and in the public one after as many steps."""
    steps = run.series("train/loss")[0]
    if not steps or set(info.expected()) != set(TERMS) or any(info.weights[name] != 1 for name in TERMS):
        return []
    now, public_loss = evidence.recent(run, "train/loss"), reference.loss_at(steps[-1])
    assert now is not None, "there are steps"
    if public_loss is None:
        return [Sentence("fact", say("longer", loss=reference.EPOCH_MEANS[-1]))]
    left, public_left = now.value / info.expected_start(), public_loss / reference.EXPECTED_START
    text = say(
        "beside", step=steps[-1], left=left, now=now.value, start=info.expected_start(), source=reference.SOURCE,
        public=public_left, public_now=public_loss, public_start=reference.EXPECTED_START,
    )  # fmt: skip
    if left <= public_left + 0.05:
        return [Sentence("ok", say("as_fast", text=text))]
    if left >= 1:
        return [Sentence("fact", say("not_fallen", text=text))]
    ratio = reference.BATCH / info.global_batch
    reason = say("more_pairs", ratio=ratio) if ratio > 1.5 else NOTHING
    return [Sentence("fact", say("slower", text=text, reason=reason))]


def _shared(run: LoggedRun) -> Iterator[Sentence]:
    """What validation has of the training data."""
    for text in run.info.shared if run.info else ():
        yield Sentence("warn", say("shared", text=text))


def _rises(run: LoggedRun) -> Iterator[Sentence]:
    """Losses that have risen from their best."""
    for name in sorted(name for name in run.names() if name.startswith("train/loss_")):
        if found := evidence.rise(run, name):
            loss, best = name.removeprefix("train/loss_").upper(), found.best
            yield Sentence("warn", say("risen", loss=loss, best=best, step=best.step, now=found.now))


def _troubles(run: LoggedRun) -> list[Sentence]:
    """Skipped steps, damaged samples and waiting for data."""
    lines = []
    skipped = run.last("train/steps_not_finite")
    if skipped:
        lines.append(Sentence("warn", say("skipped", steps=skipped)))
    if since := _not_finite_since(run):
        lines.append(Sentence("warn", say("not_finite", step=since[0], rows=since[1])))
    damaged = run.last("data/damaged")
    if damaged:
        named = sorted(name for name in run.names() if name.startswith("data/damaged_"))
        causes = ", ".join(f"{name.removeprefix('data/damaged_')} {run.last(name):.0f}" for name in named)
        found = say("causes", causes=causes) if causes else NOTHING
        lines.append(Sentence("fact", say("damaged", samples=damaged, causes=found)))
    if slow := evidence.slowdown(run):
        lines.append(Sentence("fact", say("slowed", slow=slow)))
    wait = evidence.waiting(run)
    if wait is not None and wait > 0.2:
        lines.append(Sentence("warn", say("waits", share=wait)))
    return lines


def _not_finite_since(run: LoggedRun) -> tuple[int, int] | None:
    """(step of the last finite total loss, or 0; rows of training since); None where the newest row has one."""
    training = [(step, row) for step, row in run.rows if any(name.startswith("train/") for name in row)]
    finite = [number for number, (_, row) in enumerate(training) if math.isfinite(row.get("train/loss", math.nan))]
    last = finite[-1] if finite else -1
    since = len(training) - 1 - last
    return (training[last][0] if finite else 0, since) if since else None
