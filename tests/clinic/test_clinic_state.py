"""What a later start may be given: an option is mended until something was made by it."""

from pathlib import Path

import pytest

from vglm_train.clinic.plan import Step
from vglm_train.clinic.state import State
from vglm_train.errors import UserError

GIVEN = {"the base": "a", "--test": "0.25", "--preset": "chosen", "overrides": "none", "--field": "none"}
STEPS = ("look", "convert", "split", "leaks", "recipe", "check")


def begun(out: Path, *done: str) -> State:
    out.mkdir(exist_ok=True)
    state = State(out)
    state.compare(GIVEN, False)
    for name in done:
        state.finish(Step(name, name, ()), 1.0)
    return State(out)


@pytest.mark.parametrize(
    ("done", "option", "left"),
    [
        (STEPS[:4], "--preset", STEPS[:4]),  # no recipe fitted
        (STEPS[:5], "overrides", STEPS[:4]),  # one that --check refused
        (STEPS[:2], "--test", STEPS[:2]),  # too few patients
        (STEPS[:1], "--field", ()),
    ],
)
def test_an_option_that_nothing_was_made_by_is_mended(
    done: tuple[str, ...], option: str, left: tuple[str, ...], tmp_path: Path
) -> None:
    state = begun(tmp_path, *done)
    state.compare({**GIVEN, option: "mended"}, False)
    again = State(tmp_path)
    assert again.inputs[option] == "mended"
    assert tuple(again.done) == left


@pytest.mark.parametrize(
    ("done", "option", "trains"),
    [
        (STEPS, "--preset", True),
        (STEPS, "--test", False),
        (STEPS[:3], "--field", False),
        ((), "the base", False),
    ],
)
def test_what_was_used_is_not(done: tuple[str, ...], option: str, trains: bool, tmp_path: Path) -> None:
    state = begun(tmp_path, *done)
    with pytest.raises(UserError, match=f"begun with other inputs:\n  {option}: .* before, other now"):
        state.compare({**GIVEN, option: "other"}, trains)
    assert State(tmp_path).inputs == GIVEN
