"""One person's conversation with the model, in memory. Its methods are called on the server's event loop only."""

import asyncio
import io
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vglm_train.chat.history import ChatTurn
from vglm_train.chat.intake import Intake
from vglm_train.chat.model import Asked, ChatModel
from vglm_train.chat.request import Answer, Event, Reason
from vglm_train.chat.sampling import Sampling
from vglm_train.errors import UserError
from vglm_train.image import open_image

PICTURES = 8  # of a conversation
SIDE = 512  # pixels of a picture as it is shown
REMEMBERED = 100  # turns that stay on the page
PAUSE = 0.05  # seconds between two updates of the page, while an answer is written


class Writing(UserError):  # noqa: N818  (it passes)
    """The last question is still being answered."""


class TooMany(UserError):  # noqa: N818
    """The conversation has as many pictures as it may."""

    most = PICTURES


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A picture: what the model sees and what the page shows."""

    name: str  # cannot be guessed: whoever has it may look at the picture
    pixels: NDArray[np.uint8]  # [s,s,3], as the image encoder gets it
    jpeg: bytes


@dataclass(slots=True, eq=False)
class Exchange:
    """A question on the page, with its answer as far as it is written."""

    question: str
    pictures: tuple[Shown, ...]
    answer: str = ""
    reason: Reason | None = None  # None: it is being written
    dropped: int = 0  # oldest turns that the model no longer sees
    before: tuple[ChatTurn, ...] = ()  # what the model had seen before, to ask again


class Conversation:
    """Turns, pictures and the answer that is being written."""

    def __init__(self, model: ChatModel, reading: asyncio.Semaphore) -> None:
        """reading: lets few pictures be decoded at once, each of which may take hundreds of MB."""
        self.model, self.reading = model, reading
        self.secret = secrets.token_urlsafe(24)  # names it where pictures are sent
        self.language: str = "en"
        self.seen = time.monotonic()
        self.left: float | None = None  # when its page was closed
        self.waiting: list[Shown] = []  # pictures that come with the next question
        self.exchanges: list[Exchange] = []
        self.writing = False
        self._turns: list[ChatTurn] = []
        self._stop = asyncio.Event()
        self._asked: Asked | None = None
        self._cleared = 0  # times

    @property
    def empty(self) -> bool:
        """Whether nothing would be lost with it."""
        return not (self.waiting or self.exchanges or self.writing)

    async def add(self, data: bytes) -> Shown:
        """A picture for the next question. UserError if it cannot be used, TooMany."""
        cleared = self._cleared
        self._room_for_pictures()
        async with self.reading:
            picture = await asyncio.to_thread(_read, data, self.model)
        self._room_for_pictures()
        if cleared == self._cleared:
            self.waiting.append(picture)
        return picture

    def remove(self, name: str) -> None:
        """Take back a picture that waits."""
        self.waiting = [picture for picture in self.waiting if picture.name != name]

    def find(self, name: str) -> Shown | None:
        """A picture of this conversation."""
        pictures = [*self.waiting, *(each for exchange in self.exchanges for each in exchange.pictures)]
        return next((picture for picture in pictures if picture.name == name), None)

    def ask(self, question: str, sampling: Sampling) -> AsyncGenerator[Exchange]:
        """Answer a question about the pictures that wait: the last exchange, each time it has grown.

        UserError where it cannot be answered (Busy, Writing among them); then pictures and history are as before.
        """
        if self.writing:
            raise Writing("an answer is being written")
        exchange = Exchange(question.strip(), tuple(self.waiting), before=tuple(self._turns))
        return self._answered(exchange, sampling)

    def again(self, sampling: Sampling) -> AsyncGenerator[Exchange]:
        """Answer the last question anew. UserError as `ask`."""
        if self.writing:
            raise Writing("an answer is being written")
        last = self.exchanges[-1]
        exchange = Exchange(last.question, last.pictures, before=last.before)
        return self._answered(exchange, sampling, replaced=last)

    def stop(self) -> None:
        """End the answer that is being written; it stays as far as it is."""
        self._stop.set()

    def clear(self) -> None:
        """Forget everything: turns, pictures, and the image tokens that the model keeps."""
        self._cleared += 1
        self.stop()
        if self._asked is not None:
            self.model.forget(self._asked)
        self.waiting, self.exchanges, self._turns, self._asked = [], [], [], None

    def _room_for_pictures(self) -> None:
        if len(self.waiting) + sum(len(each.pictures) for each in self.exchanges) >= PICTURES:
            raise TooMany(f"a conversation may have {PICTURES} pictures")

    async def _answered(
        self, exchange: Exchange, sampling: Sampling, replaced: Exchange | None = None
    ) -> AsyncGenerator[Exchange]:
        """Ask the model, then wait for what it writes. The exchange is on the page from the moment it is accepted."""
        self.writing, cleared, turns = True, self._cleared, self._turns
        self._stop.clear()
        asked: Asked | None = None
        try:
            images = [picture.pixels for picture in exchange.pictures]
            before = list(exchange.before)
            asked = await asyncio.to_thread(self.model.ask, images, exchange.question, before, **sampling)
            if cleared != self._cleared:
                return
            async with aclosing(self._events(asked)) as events:
                async for event in events:
                    if cleared != self._cleared:
                        continue  # to its end, which is near
                    if exchange not in self.exchanges:
                        self._begin(exchange, asked, replaced)
                    if isinstance(event, Answer):
                        exchange.answer, exchange.reason = event.text, event.reason
                    else:
                        exchange.answer += event
                    self._turns = asked.history(exchange.answer)
                    yield exchange
        except Exception:
            self._undo(exchange, replaced, turns)
            raise
        finally:
            self.writing, exchange.reason = False, exchange.reason or "cancelled"
            if asked is not None and cleared != self._cleared:
                self.model.forget(asked)  # its image tokens may have come after the clearing

    def _begin(self, exchange: Exchange, asked: Asked, replaced: Exchange | None) -> None:
        if replaced is not None:
            self.exchanges.remove(replaced)
        else:
            self.waiting = [picture for picture in self.waiting if picture not in exchange.pictures]
        exchange.question, exchange.dropped = asked.question, asked.dropped
        self.exchanges = [*self.exchanges[1 - REMEMBERED :], exchange]
        if self._asked is not None and self._asked.request.prompt.question_ids != asked.request.prompt.question_ids:
            self.model.forget(self._asked)  # image tokens of another question are of no use any more
        self._asked = asked

    def _undo(self, exchange: Exchange, replaced: Exchange | None, turns: list[ChatTurn]) -> None:
        """As it was before a question that got no answer."""
        if exchange not in self.exchanges:
            return
        self.exchanges.remove(exchange)
        if replaced is None:
            self.waiting = [*exchange.pictures, *self.waiting]
        else:
            self.exchanges.append(replaced)
        self._turns = turns

    async def _events(self, asked: Asked) -> AsyncGenerator[str | Answer]:
        """An empty text once the model has accepted, the pieces joined over PAUSE seconds, then the answer."""
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        ticket = self.model.submit(asked, put)
        stopping = asyncio.create_task(self._stop.wait())
        stopping.add_done_callback(lambda _: ticket.cancel())
        try:
            yield ""
            while True:
                event = await events.get()
                while isinstance(event, str) and not events.empty():
                    following = events.get_nowait()
                    event = event + following if isinstance(following, str) else following
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Answer):
                    return
                await asyncio.sleep(PAUSE)
        finally:  # also where the page was left
            stopping.cancel()
            ticket.cancel()


def _read(data: bytes, model: ChatModel) -> Shown:
    Intake().check(data)
    pixels = model.read_pixels(data).permute(1, 2, 0).contiguous().numpy()
    image, file = open_image(data), io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    image.save(file, "JPEG", quality=85)
    return Shown(secrets.token_urlsafe(24), pixels, file.getvalue())
