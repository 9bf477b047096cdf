"""A run that ends when its score no longer rises."""

import math
from collections.abc import Iterator

import pytest
from torch import nn

from vglm_train.engine.deepspeed_engine import Update
from vglm_train.engine.hooks import Cadence, EvaluateHook
from vglm_train.engine.progress import RunState
from vglm_train.engine.trainer import StepReport
from vglm_train.evaluate.base import ImageTable

EVERY = 5


def report(step: int, done: bool = False) -> StepReport:
    return StepReport(
        step=step, epoch=0, outputs=[], units=[], update=Update(True, 1.0), lr=1e-4, wait_seconds=0.0, done=done,
        stopping=False,
    )  # fmt: skip


def end_of(scores: list[float], patience: int | None, name: str = "eval/accuracy") -> tuple[int | None, RunState]:
    """The step at which a run with these scores is ended, and its state."""
    state, left = RunState(), iter(scores)

    def evaluate(left: Iterator[float] = left) -> tuple[dict[str, float], list[ImageTable]]:
        return {name: next(left)}, []

    hook = EvaluateHook(evaluate, nn.Identity(), [], Cadence(1, 1000, EVERY), state, name, patience)
    for step in range(1, EVERY * len(scores) + 1):
        hook.after_step(report(step))
        if state.ended:
            return step, state
    return None, state


@pytest.mark.parametrize(
    ("scores", "patience", "ended", "best"),
    [
        ([0.1, 0.2, 0.3, 0.4], 1, None, 20),
        ([0.1, 0.3, 0.2, 0.3, 0.5], 2, 20, 10),  # an equal score is not a better one
        ([0.3, 0.2, 0.4, 0.1, 0.1], 2, 25, 15),
        ([0.3, 0.2], 1, 10, 5),
        ([0.3, 0.2, 0.1, 0.0], None, None, 5),
        ([math.nan, 0.1, 0.2], None, None, 15),  # what is no number is never the best, first or later
        ([0.1, math.nan, math.inf, 0.2], 3, None, 20),
        ([0.1, math.nan, math.nan], 2, 15, 5),
        ([math.nan, math.nan], 2, 10, None),
    ],
)
def test_it_ends_after_so_many_evaluations_without_a_better_score(
    scores: list[float], patience: int | None, ended: int | None, best: int | None
) -> None:
    found, state = end_of(scores, patience)
    assert found == ended
    assert state.best_step == best


def test_a_loss_is_better_when_it_is_lower() -> None:
    assert end_of([3.0, 2.0, 2.5, 2.6], 2, "eval/en_loss")[0] == 20


def test_a_value_of_something_else_is_forgotten() -> None:
    _, state = end_of([0.3, 0.2], 1)
    state.best_of = {"checkpoint.best": "eval/accuracy"}
    assert not state.judge_by({"checkpoint.best": "eval/accuracy"})
    assert state.best_step == 5
    assert state.judge_by({"checkpoint.best": "eval/f1"})
    assert (state.best_step, state.best_value, state.ended, state.evaluations_since_best) == (None, None, False, 0)


def test_the_end_survives_a_restart() -> None:
    _, state = end_of([0.3, 0.2], 1)
    assert RunState.from_dict(state.to_dict()).ended
    older = {key: value for key, value in state.to_dict().items() if key != "ended"}
    assert not RunState.from_dict(older).ended, "states written before there was such an end"
