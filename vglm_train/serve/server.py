"""uvicorn around the application: when it listens, when the model is there, and how it ends."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from sse_starlette.sse import AppStatus
from uvicorn.protocols.http.h11_impl import H11Protocol

from vglm_train.access import BACKLOG, Access, address, bind
from vglm_train.chat.model import ChatModel
from vglm_train.serve.answering import Serving
from vglm_train.serve.app import build_app

logger = logging.getLogger("vglm_train.serve")
LAST = 5  # seconds for responses to end once their answers did


class Protocol(H11Protocol):
    """HTTP/1.1 in which the head of a request has to come within a time. uvicorn waits for it for ever."""

    head_seconds = 10.0

    def connection_made(self, transport: Any) -> None:
        """As the base; the clock begins."""
        super().connection_made(transport)
        self._seen: object = self.cycle
        self._clock = self.loop.call_later(self.head_seconds, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """As the base."""
        self._clock.cancel()
        super().connection_lost(exc)

    def _check(self) -> None:
        """Close a connection that has begun no request since the last look."""
        between = self.cycle is None or self.cycle.response_complete
        if between and self.cycle is self._seen:
            self.transport.abort()
            return
        self._seen = self.cycle if between else self
        self._clock = self.loop.call_later(self.head_seconds, self._check)


class Server(uvicorn.Server):
    """Listens before the model is loaded; a signal makes it finish what runs, and end with status 0."""

    def __init__(self, config: uvicorn.Config, serving: Serving) -> None:
        super().__init__(config)
        self.serving = serving
        self.deadline: float | None = None  # of what runs, once the server is being stopped

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets what runs finish, the second one does not."""
        self.stop(0 if self.deadline is not None else self.serving.limits.grace)

    def stop(self, grace: float) -> None:
        """Answer nothing new, and end when nothing runs, or after `grace` seconds."""
        self.serving.closing = True
        self.deadline = time.monotonic() + grace

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop listening."""
        if self.deadline is not None:
            late = time.monotonic() >= self.deadline
            if late:
                await asyncio.to_thread(self.serving.close, False)
            self.should_exit = self.should_exit or late or not self.serving.active
        return await super().on_tick(counter)


def run(load: Callable[[], ChatModel], serving: Serving, access: Access, port: int) -> int:
    """Serve until a signal comes. UserError if the address is taken, or the model cannot be opened."""
    AppStatus.disable_automatic_graceful_drain()  # which would cut the running answers of a server that is stopped
    listener = bind(access.host, port)
    server = Server(configure(serving, access), serving)
    failed: list[Exception] = []

    def opening() -> None:
        try:
            begun = time.monotonic()
            serving.opened(load())
            logger.info("%s is ready after %.1f s", serving.name, time.monotonic() - begun)
        except Exception as error:
            failed.append(error)
            server.stop(0)

    logger.info("serving %s on %s; the model is being loaded", serving.name, address(listener))
    thread = threading.Thread(target=opening, name="vglm-loader", daemon=True)
    thread.start()
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        thread.join(serving.limits.grace)
        serving.end()
    if failed:
        raise failed[0]
    logger.info("stopped")
    return 0


def configure(serving: Serving, access: Access) -> uvicorn.Config:
    """uvicorn with the bounds of `serving`, and without what it would say or trust by itself."""
    protocol = type("Protocol", (Protocol,), {"head_seconds": serving.limits.head_seconds})
    return uvicorn.Config(
        build_app(serving, access), http=protocol, ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, limit_concurrency=serving.limits.connections,
        timeout_graceful_shutdown=LAST, backlog=BACKLOG,
    )  # fmt: skip
