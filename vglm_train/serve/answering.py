"""Between the event loop and the model's thread: questions go over, pieces of answers come back.

The loop never waits for work: pictures are decoded and texts become ids in a few threads.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from fastapi import Request

from vglm_train.chat.intake import Intake
from vglm_train.chat.model import Asked, ChatModel
from vglm_train.chat.request import Answer, Busy, Event
from vglm_train.chat.sampling import Sampling
from vglm_train.serve.errors import ClientGone, HttpError
from vglm_train.serve.limits import ServeLimits
from vglm_train.serve.metrics import Metrics
from vglm_train.serve.pictures import Pictures, Read, Source

T = TypeVar("T")
READERS = 2  # threads that read pictures and questions: they leave the cores to the model


@dataclass(slots=True)
class Note:
    """What is known about a request outside of the application."""

    received: int = 0  # bytes of its body
    cause: str | None = None  # why it had no answer
    tokens: int | None = None  # of its answer


class Serving:
    """The model of one server, from before it is loaded until it is closed."""

    def __init__(self, name: str, limits: ServeLimits, defaults: Sampling, pictures: Pictures | None = None) -> None:
        """name: what clients call the model. defaults: how it answers where a request does not say."""
        self.name, self.limits, self.defaults = name, limits, defaults
        self.pictures = pictures or Pictures(Intake(pictures=limits.pictures))
        self.created = int(time.time())
        self.metrics = Metrics()
        self.metrics.watch(lambda: self._load(0), lambda: self._load(1))
        self.closing = False
        self.active = 0  # requests for answers that are not over
        self._model: ChatModel | None = None
        self._preparing = 0
        self._seconds = 1.0  # that a request takes, a moving average
        self._readers = ThreadPoolExecutor(READERS, "vglm-reader")

    @property
    def ready(self) -> bool:
        """Whether it answers questions."""
        return self._model is not None and not self.closing

    def opened(self, model: ChatModel) -> None:
        """The model is loaded."""
        self._model = model

    def model(self) -> ChatModel:
        """HttpError while there is none."""
        if self.closing:
            raise HttpError(503, "the server is being shut down.", "shutting_down", retry_after=5)
        if self._model is None:
            raise HttpError(503, "the model is still being loaded.", "loading", retry_after=5)
        return self._model

    def close(self, finish: bool) -> None:
        """Take no more questions. Without `finish`, running answers end where they are."""
        self.closing = True
        if not finish and self._model is not None:
            self._model.close(finish=False)

    def end(self) -> None:
        """Nobody is left who waits for an answer."""
        self.close(finish=False)
        self._readers.shutdown(cancel_futures=True)

    async def begin(
        self, request: Request, ask: Callable[[ChatModel, Read], Asked], sources: Sequence[Source] = ()
    ) -> "Running":
        """Fetch the pictures among `sources` that have to be, read the question in a thread, and queue it.

        Raises what `ask` raises, HttpError without a model, Busy if too many wait, ClientGone.
        """
        model = self.model()
        waiting = self._preparing + model.load().waiting
        if waiting >= model.scheduler.limits.queue:  # before anything is decoded
            raise Busy(waiting, max(1.0, self._seconds * waiting / model.scheduler.limits.rows))
        self._preparing += 1
        begun = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            fetched = await while_connected(request, self.pictures.fetch(sources, self.limits.body))
            work = partial(ask, model, partial(self.pictures.read, fetched))
            asked = await while_connected(request, _in_thread(loop, self._readers, work))
        finally:
            self._preparing -= 1
        return Running(self, model, asked, begun, request.scope["vglm"])

    def over(self, answer: Answer, seconds: float) -> None:
        """An answer came to its end after so many seconds."""
        self._seconds += 0.1 * (seconds - self._seconds)
        self.metrics.answered(answer, seconds)

    def _load(self, which: int) -> float:
        if self._model is None:
            return 0
        load = self._model.load()
        return (load.running, load.waiting + self._preparing)[which]


@dataclass(slots=True)
class Running:
    """A question that was accepted, and its answer so far. Whoever has one must `cancel` it or read it to its end."""

    serving: Serving
    model: ChatModel
    asked: Asked
    begun: float
    note: Note
    answer: Answer | None = None
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    _cancel: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._cancel = self.model.submit(
            self.asked, lambda event: (loop.call_soon_threadsafe(self._events.put_nowait, event), None)[1]
        ).cancel

    @property
    def headers(self) -> dict[str, str]:
        """Those of its response: whether the oldest turns had no room and were left out."""
        return {"x-dropped-turns": str(self.asked.dropped)} if self.asked.dropped else {}

    def cancel(self) -> None:
        """Its row is free within one step. Nothing happens to an answer that is whole."""
        if self.answer is None:
            self._cancel()

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The text as it is written; afterwards `answer` is all of it. Raises what the model raised, see `_whole`."""
        first = True
        try:
            while isinstance(event := await self._events.get(), str):
                if first:
                    self.serving.metrics.first_token(time.monotonic() - self.begun)
                    first = False
                yield event
            if isinstance(event, Exception):
                raise event
            self.answer = event
        finally:
            self.cancel()
        self.note.tokens = event.new_tokens
        self.serving.over(event, time.monotonic() - self.begun)
        _check_whole(event)

    async def whole(self, request: Request) -> Answer:
        """The answer. Raises as `pieces`, and ClientGone."""
        await while_connected(request, self._read())
        assert self.answer is not None
        return self.answer

    async def _read(self) -> None:
        async with contextlib.aclosing(self.pieces()) as pieces:
            async for _ in pieces:
                pass


def _check_whole(answer: Answer) -> None:
    """HttpError for an answer that the server cut before it was of use."""
    if answer.reason == "cancelled":
        raise HttpError(503, "the server was stopped before the answer was whole.", "shutting_down", retry_after=5)
    if answer.reason == "deadline" and not answer.new_tokens:
        raise HttpError(503, "the time for this request was over before its answer began.", "deadline", retry_after=5)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do `work`, and stop at once if the client leaves: ClientGone."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _in_thread(loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await loop.run_in_executor(pool, work)
