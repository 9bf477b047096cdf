"""Waiting for what the scheduler's thread gives."""

from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

from vglm_train.chat.request import Answer, Event, Request
from vglm_train.chat.scheduler import Scheduler

T = TypeVar("T")


class AnswerStream(Iterator[str]):
    """The pieces of an answer. Afterwards `answer` is all of it."""

    def __init__(self, scheduler: Scheduler, request: Request) -> None:
        """Asks at once. Busy if too many wait."""
        self.answer: Answer | None = None
        self._over = False
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._ticket = scheduler.submit(request, self._events.put)

    def __next__(self) -> str:
        if self._over:
            raise StopIteration
        event = next_event(self._events)
        if isinstance(event, str):
            return event
        self._over = True
        if isinstance(event, Exception):
            raise event
        self.answer = event
        raise StopIteration

    def close(self) -> None:
        """End the answer."""
        self._ticket.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_ticket"):
            self.close()


def next_event(events: "SimpleQueue[T]") -> T:
    """The next event; Ctrl-C gets through on Windows too, where nothing interrupts a wait without an end."""
    while True:
        try:
            return events.get(timeout=0.2)
        except Empty:
            pass


def last_event(events: SimpleQueue[Event]) -> Answer:
    """Wait for the answer. Raises what the request got in its place."""
    while isinstance(event := next_event(events), str):
        pass
    if isinstance(event, Exception):
        raise event
    return event
