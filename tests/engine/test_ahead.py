"""Reading ahead while the device computes: what counts as waiting for data."""

import time
from typing import Any

from vglm_train.engine.trainer import _Ahead

SECONDS = 0.05


class Slow:
    """A stream whose next batch takes a while."""

    def __init__(self) -> None:
        self.read = 0

    def look_ahead(self) -> None:
        self.read += 1
        time.sleep(SECONDS)


class Watch:
    def __init__(self) -> None:
        self.doing: list[str] = []

    def note(self, doing: str, step: int) -> None:
        self.doing.append(doing)


def ahead() -> tuple[Any, Slow, Watch]:
    stream, watch = Slow(), Watch()
    made: Any = _Ahead(stream, watch, 7)  # type: ignore[arg-type]
    return made, stream, watch


def test_what_the_devices_work_hides_is_no_waiting() -> None:
    made, stream, watch = ahead()
    made.read(lambda: False)
    assert made.waited == 0
    assert stream.read == 1
    assert watch.doing == ["waiting for data", "computing"]  # for the person who asks why a run stands still


def test_once_the_device_is_done_all_of_it_counts() -> None:
    made, _, _ = ahead()
    made.read(lambda: True)
    assert made.waited >= SECONDS
