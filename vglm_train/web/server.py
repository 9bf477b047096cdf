"""The page on a port: its conversations, pictures and verdict page, behind the gate."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse

from vglm_train.chat.model import ChatModel
from vglm_train.chat.sampling import Sampling
from vglm_train.errors import UserError
from vglm_train.web.conversation import PICTURES, TooMany
from vglm_train.web.gate import Gate
from vglm_train.web.notice import Notice, verdict_file
from vglm_train.web.page import mount_page
from vglm_train.web.pages import Pages
from vglm_train.web.words import WORDS

SWEEP = 30.0  # seconds between two looks for conversations that nobody uses
GRACEFUL = 5  # seconds that requests have to end when the server is stopped
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# pictures of a report are its own; nothing of it may run
STILL = "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"


def build_app(pages: Pages, notice: Notice, sampling: Sampling) -> FastAPI:
    """The page and what it asks for, without the gate."""

    @asynccontextmanager
    async def sweeping(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweep(pages))
        yield
        task.cancel()

    app = FastAPI(lifespan=sweeping, docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/pictures")
    async def add(request: Request) -> Response:
        return await _add(pages, request)

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
        return Response(shown.jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    @app.get("/verdict/{name}")
    async def verdict(name: str) -> Response:
        file = verdict_file(notice.verdict, name) if notice.verdict else None
        if file is None:
            return PlainTextResponse("no such page", 404)
        return FileResponse(file, headers={"Content-Security-Policy": STILL})

    mount_page(app, pages, notice, sampling)
    return app


async def _add(pages: Pages, request: Request) -> Response:
    conversation = pages.of_secret(request.headers.get("x-page", ""))
    if conversation is None:
        return PlainTextResponse("this page has ended; open it again", 410)
    words = WORDS[conversation.language]
    try:
        await conversation.add(await request.body())
    except TooMany:
        return PlainTextResponse(words.too_many.format(PICTURES), 409)
    except UserError as error:
        return PlainTextResponse(words.problem.format(error), 422)
    return JSONResponse({})


async def _sweep(pages: Pages) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        pages.sweep()


class Server(uvicorn.Server):
    """Says where it is once it listens."""

    address = ""

    async def startup(self, sockets: list | None = None) -> None:
        """As uvicorn's; then the address is printed."""
        await super().startup(sockets)
        if self.started:
            print(self.address, flush=True)


def serve(model: ChatModel, notice: Notice, sampling: Sampling, host: str, port: int, token: str | None) -> None:
    """Until Ctrl-C or SIGTERM. UserError if the port is taken."""
    app = Gate(build_app(Pages(model), notice, sampling), token, LOOPBACK if host in LOOPBACK else None)
    config = uvicorn.Config(
        app, host, port, log_level="error", access_log=False, timeout_graceful_shutdown=GRACEFUL, server_header=False,
        h11_max_incomplete_event_size=64 * 1024, limit_concurrency=2000,
    )  # fmt: skip
    server = Server(config)
    name = f"[{host}]" if ":" in host else host
    server.address = f"open http://{name}:{port}" + ("" if token is None else "  (it asks for the token)")
    try:
        server.run()
    except SystemExit as stop:  # uvicorn's word for an address that it cannot listen at
        raise UserError(f"{host}:{port}: cannot listen there (see above); choose another --port.") from stop
    finally:
        os.environ.pop("GRADIO_TEMP_DIR", None)
