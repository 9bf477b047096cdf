"""Whether a loss of stage one is learned: certainly better than a guess by its rows, and more answers right."""

from typing import Literal

from vglm_train.log import evidence
from vglm_train.log.alarms import ITC_NEAR, ITM_BLIND, ITM_RIGHT
from vglm_train.log.run_info import RunInfo

ITG_LEARNED = 0.9  # of ln(vocabulary): the commonest words alone bring it below 0.98
MARGIN = 0.01  # of the share of right answers, and of what an even guess costs

State = Literal["too_few", "not", "as_guessed", "begun", "learned"]


def learned(run: evidence.Logged, name: str, info: RunInfo, errors: float = evidence.ERRORS) -> State:
    """`as_guessed`: by its value, but no more answers are right. `begun`: its newest rows alone fall out of the rest.

    `errors`: standard errors that make it certain.
    """
    even = info.expected()[name]
    blind = {"itm": ITM_BLIND, "itc": ITC_NEAR * even, "itg": ITG_LEARNED * even}[name]
    loss, right = evidence.recent(run, f"train/loss_{name}"), evidence.recent(run, f"train/{name}_accuracy")
    if loss is None or loss.error is None:
        return "too_few"
    level = None if right is None or name == "itg" else guessed(name, info) + MARGIN
    if loss.below(blind, errors) and (level is None or (right is not None and right.above(level, errors))):
        return "learned"
    newest = run.series(f"train/{name}_accuracy")[1][-1:]
    falls = evidence.falling(run, f"train/loss_{name}", blind - MARGIN * even)
    if falls and (level is None or newest[0] > level):
        return "begun"
    return "as_guessed" if loss.below(blind, errors) else "not"


def guessed(name: str, info: RunInfo) -> float:
    """The share of right answers of a guess, of ITC or ITM."""
    return {"itm": ITM_RIGHT, "itc": 1 / info.candidates}[name]
