"""Reading ahead: when it happens, and what of it counts as waiting."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from vglm_train.engine.device_prefetch import DevicePrefetch
from vglm_train.engine.trainer import Trainer


class Stream:
    """A stand-in for a stream of batches, which notes that it was asked to read ahead."""

    def __init__(self) -> None:
        self.looked = 0

    def look_ahead(self) -> None:
        self.looked += 1


def trainer(steps: int, *, stopping: bool = False) -> tuple[Any, MagicMock]:
    watch = MagicMock()
    made: Any = object.__new__(Trainer)
    made.plan, made.watch = SimpleNamespace(steps=steps), watch
    made.stop = SimpleNamespace(requested=lambda: stopping)
    return made, watch


def test_the_next_step_is_named_while_its_batch_is_read() -> None:
    made, watch = trainer(9)
    made._look_ahead(stream := Stream(), 8)
    assert stream.looked == 1
    assert [call.args for call in watch.note.call_args_list] == [("waiting for data", 8), ("computing", 7)]


@pytest.mark.parametrize(("steps", "stopping"), [(7, False), (9, True)])
def test_nothing_is_read_that_nobody_will_use(steps: int, stopping: bool) -> None:
    """A slow loader would delay a run's end, or the checkpoint of one that was asked to stop."""
    made, _ = trainer(steps, stopping=stopping)
    made._look_ahead(stream := Stream(), 8)
    assert stream.looked == 0


class Event:
    """A CUDA event of a device whose clock the test sets."""

    now, done = 0.0, True

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = Event.now

    def query(self) -> bool:
        return Event.done

    def elapsed_time(self, other: "Event") -> float:
        return 1000 * (other.at - self.at)


def test_what_the_device_waited_for_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the device's clock: two events with nothing between them but the reading."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    stream = DevicePrefetch(iter(()), torch.device("cpu"))
    stream._copying = MagicMock()

    def read(_: object) -> Exception:
        Event.now += 0.5  # the device was done, and stood still
        return OSError("a shard is gone")

    monkeypatch.setattr(stream, "_send", read)
    Event.done = True
    stream.look_ahead()
    stream.look_ahead()  # it was read already
    assert stream.idle_seconds() == 0.5
    assert stream.idle_seconds() == 0
    with pytest.raises(OSError, match="a shard is gone"):
        next(stream)
    Event.done = False
    stream.look_ahead()
    assert stream.idle_seconds() == 0  # the device is not there yet: told later, and not waited for
    Event.done = True
    assert stream.idle_seconds() == 0.5
