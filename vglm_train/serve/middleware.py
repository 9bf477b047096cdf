"""Around the application: the access log and the counts, who may ask, and how much may be sent.

In this order, so that a refused request is logged, and nobody without the token sends more than a head.
"""

import asyncio
import logging
import secrets
import time
import traceback
from collections.abc import Sequence
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vglm_train.access import REFUSALS, Access
from vglm_train.serve.answering import Note, Serving
from vglm_train.serve.errors import TWO_LENGTHS, VISUALGLM, HttpError, error_body, error_of
from vglm_train.serve.limits import ServeLimits

logger = logging.getLogger("vglm_train.serve")
GONE = 499  # nginx's status of a request whose client left
OPEN = ("/health", "/ready")  # probes have no token


class Watch:
    """One line of log and the counts for each request. Lines hold neither contents nor addresses people typed."""

    def __init__(self, app: ASGIApp, serving: Serving, routes: Sequence[str]) -> None:
        """routes: the paths that are named in log and metrics; a request's own path may be anything."""
        self.app, self.serving, self.routes = app, serving, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status, name = time.monotonic(), 0, secrets.token_hex(8)
        note = scope["vglm"] = Note()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        answering = scope["method"] == "POST"
        self.serving.active += answering
        try:
            await self.app(scope, receive, watched)
        except Exception as error:  # of this program itself: its text may hold what somebody asked
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("%s failed: %s at %s:%s", name, type(error).__name__, place.filename, place.lineno)
            if not status:
                await respond(scope, receive, watched, error_of(error))
        finally:
            self.serving.active -= answering
            self._log(scope, status or GONE, time.monotonic() - begun, note, name)

    def _log(self, scope: Scope, status: int, seconds: float, note: Note, name: str) -> None:
        route = next((each for each in self.routes if _fits(scope["path"], each)), "other")
        self.serving.metrics.requested(route, status, note.cause)
        client = scope["client"][0] if scope.get("client") else "-"
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE") else "OTHER"
        words = [f"{seconds:.3f} s", *([f"{note.tokens} tokens"] if note.tokens is not None else [])]
        words += [note.cause] if note.cause else []
        logger.info("%s %s %s %s %d %s", name, client, method, route, status, ", ".join(words))


class Guard:
    """Lets nobody in whom `access` refuses."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if "content-length" in headers and "transfer-encoding" in headers:  # how requests are smuggled past a proxy
                error = HttpError(400, "a request has one length: send no Content-Length with chunks.", TWO_LENGTHS)
                await respond(scope, receive, send, error)
                return
            refusal = self.access.refusal(headers)
            if refusal is not None and not (refusal == "token" and scope["path"] in OPEN):
                status, message = REFUSALS[refusal]
                await respond(scope, receive, send, HttpError(status, message, f"wrong_{refusal}"))
                return
        await self.app(scope, receive, send)


class BodyLimit:
    """Receives a body whole before anything reads it, counting bytes and seconds as they pass."""

    def __init__(self, app: ASGIApp, limits: ServeLimits) -> None:
        self.app, self.limits = app, limits
        self.held = 0  # bytes of the bodies of all requests that are not over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        note: Note = scope["vglm"]
        try:
            self._check_head(scope)
            body = await self._receive(note, receive)
            if body is None:  # the client left
                note.cause = "client_gone"
                return
            parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
            del body
            await self.app(scope, _then(parts, receive), send)
        except HttpError as error:
            await respond(scope, receive, send, error)
        finally:
            self.held -= note.received

    async def _receive(self, note: Note, receive: Receive) -> bytes | None:
        """The body. HttpError for one that is too long or too slow; None if the client left."""
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    note.received, self.held = note.received + len(part), self.held + len(part)
                    parts.append(part)
                    if note.received > self.limits.body:
                        raise self._too_large()
                    if self.held > self.limits.bodies:
                        raise HttpError(429, "too much was sent to the server at once.", "busy", retry_after=2)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise HttpError(
                408, f"the request did not come whole within {self.limits.body_seconds:g} s.", "slow"
            ) from None

    def _check_head(self, scope: Scope) -> None:
        headers = MutableHeaders(scope=scope)
        if (length := headers.get("content-length", "0")).isdigit() and int(length[:20]) > self.limits.body:
            raise self._too_large()
        if scope["path"] == VISUALGLM:
            headers["content-type"] = "application/json"  # its clients often name none, or a form's
        elif headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HttpError(415, "send JSON, with the header Content-Type: application/json.", "content_type")

    def _too_large(self) -> HttpError:
        return HttpError(
            413, f"the request is longer than {self.limits.body} bytes; send smaller pictures.", "too_large"
        )


def _then(first: list[Message], receive: Receive) -> Receive:
    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed


def _fits(path: str, route: str) -> bool:
    head, parameter, _ = route.partition("{")
    return path.startswith(head) and len(path) > len(head) if parameter else path == route


async def respond(scope: Scope, receive: Receive, send: Send, error: HttpError) -> None:
    """Send an error in the shape of the path's contract. What still comes of the body, uvicorn throws away."""
    scope["vglm"].cause = error.code
    await JSONResponse(error_body(scope["path"], error), error.status, error.headers)(scope, receive, send)


def status_error(status: int) -> HttpError:
    """The error of a status that the routing itself gives."""
    phrase = HTTPStatus(status).phrase
    return HttpError(status, f"{phrase.lower()}; the OpenAPI document at /openapi.json lists what there is.",
                     phrase.lower().replace(" ", "_"))  # fmt: skip
