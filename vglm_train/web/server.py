"""The page on a port: its conversations, pictures and verdict page, behind the gate."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse

from vglm_train.access import Access, address, bind
from vglm_train.chat.sampling import Sampling
from vglm_train.errors import UserError
from vglm_train.serve.server import Protocol
from vglm_train.web.conversation import TooMany
from vglm_train.web.gate import Gate
from vglm_train.web.notice import Notice, verdict_file
from vglm_train.web.page import mount_page
from vglm_train.web.pages import Pages
from vglm_train.web.reasons import picture_reason
from vglm_train.web.words import WORDS

SWEEP = 30.0  # seconds between two looks for conversations that nobody uses
CONNECTIONS = 2000
LAST = 2  # seconds that answers have to end when the server is stopped, and then their connections
# A verdict page shows its own pictures; nothing of it may run.
STILL = "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"


def build_app(pages: Pages, notice: Notice, sampling: Sampling, access: Access) -> Gate:
    """The page and what it asks for."""

    @asynccontextmanager
    async def sweeping(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweep(pages))
        yield
        task.cancel()

    app = FastAPI(lifespan=sweeping, docs_url=None, redoc_url=None, openapi_url=None)
    _add_pictures(app, pages)

    @app.get("/verdict/{name}")
    async def verdict(name: str) -> Response:
        file = verdict_file(notice.verdict, name) if notice.verdict else None
        if file is None:
            return PlainTextResponse("no such page", 404)
        return FileResponse(file, headers={"content-security-policy": STILL})

    mount_page(app, pages, notice, sampling)
    return Gate(app, access)


def _add_pictures(app: FastAPI, pages: Pages) -> None:
    """Pictures come in and are shown. A page proves that it is the conversation's by a secret."""

    @app.post("/pictures")
    async def add(request: Request) -> Response:
        conversation = pages.of_secret(request.headers.get("x-page", ""))
        if conversation is None:
            return PlainTextResponse("对话已结束，请刷新页面 · this conversation has ended; reload the page", 410)
        words = WORDS[conversation.language]
        try:
            await conversation.add(await request.body())
        except UserError as error:
            return PlainTextResponse(picture_reason(words, error), 409 if isinstance(error, TooMany) else 422)
        return JSONResponse({})

    @app.delete("/pictures/{name}")
    async def remove(name: str, request: Request) -> Response:
        conversation = pages.of_secret(request.headers.get("x-page", ""))
        if conversation is not None:
            conversation.remove(name)
        return JSONResponse({})

    @app.get("/picture/{name}")
    async def picture(name: str) -> Response:
        shown = pages.picture(name)
        if shown is None:
            return PlainTextResponse("no such picture", 404)
        return Response(shown.jpeg, media_type="image/jpeg", headers={"cache-control": "no-store"})


async def _sweep(pages: Pages) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        pages.sweep()


class Server(uvicorn.Server):
    """Ends with Ctrl-C or SIGTERM, which is no failure."""

    def __init__(self, config: uvicorn.Config, pages: Pages) -> None:
        super().__init__(config)
        self.pages = pages

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets answers end, the second one does not."""
        self.should_exit, self.force_exit = True, self.should_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, which would wait for pages that are open: each of them holds a connection for ever."""
        leaving = asyncio.create_task(self._leave())
        await super().shutdown(sockets)
        leaving.cancel()

    async def _leave(self) -> None:
        """Hang up when no answer is being written any more, or after LAST seconds."""
        end = time.monotonic() + LAST
        while self.pages.writing and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)  # for the last words of an answer
        for connection in list(self.server_state.connections):
            connection.transport.close()
        await asyncio.sleep(LAST)
        for connection in list(self.server_state.connections):  # of clients that take nothing
            connection.transport.abort()


def configure(app: Gate) -> uvicorn.Config:
    """uvicorn without a log of who asked what."""
    return uvicorn.Config(
        app, http=Protocol, ws="none", log_level="error", access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=3 * LAST,
    )  # fmt: skip


def serve(app: Gate, pages: Pages, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Until Ctrl-C or SIGTERM; `ready` gets the address. UserError if it cannot be had."""
    listener = bind(host, port)
    try:
        ready(address(listener))
        Server(configure(app), pages).run(sockets=[listener])
    finally:
        listener.close()
