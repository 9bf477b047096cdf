"""Results come back whichever way they are computed; a worker that dies is a mistake that is named."""

import os
import signal

import pytest

from data_tools.common.pool import spread
from vglm_train.errors import UserError


def double(number: int) -> int:
    return 2 * number


def die(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    raise UserError(f"job {number}: no")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_once(workers: int) -> None:
    assert sorted(spread(double, range(9), workers, __name__)) == [(number, 2 * number) for number in range(9)]


def test_a_worker_that_dies_is_named() -> None:
    with pytest.raises(UserError, match=r"a worker process died.*fewer --workers"):
        list(spread(die, range(4), 2, __name__))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_in_a_worker_comes_through(workers: int) -> None:
    with pytest.raises(UserError, match=r"job \d: no"):
        list(spread(refuse, range(4), workers, __name__))
