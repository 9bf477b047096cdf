"""What is let in: who may come, which paths there are, how much may be sent. It stands before all else, Gradio too.

Gradio's own `auth_dependency` leaves some of its paths open to everybody (heartbeat, cancel, reset). Others are not
needed by the page and not let through: uploads, files of the machine, a proxy, an API, monitoring.
"""

import asyncio
import hashlib
import hmac
import html
import re
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vglm_train.access import REFUSALS, Access

COOKIE = "vglm_web"
WEEK = 7 * 24 * 3600
MIB = 2**20
PICTURE = 20 * MIB
EVENT = 64 * 1024  # bytes of a question with its settings
HELD = 256 * MIB  # of all bodies that are being received
SECONDS = 120.0  # that a body may take
PATHS = re.compile(
    r"GET /(config|theme\.css|favicon\.ico|manifest\.json)?"
    r"|GET /(static|assets)/[\w./-]+"
    r"|GET /gradio_api/(startup-events|heartbeat/\w{1,40}|queue/data)"
    r"|POST /gradio_api/queue/join"
    r"|(POST|DELETE) /pictures(/[\w-]{1,64})?"
    r"|GET /picture/[\w-]{1,64}"
    r"|GET /verdict/[^/\\]{1,200}"
)
HEADERS = {
    # Gradio makes functions out of templates, hence unsafe-eval. Whatever a model writes, no other host is asked.
    "content-security-policy": "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; worker-src 'self' blob:; form-action 'self'; frame-ancestors 'none'; base-uri 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}
LOGIN = """<!doctype html><html lang="zh"><meta charset="utf-8"><title>vglm web</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui,sans-serif;max-width:22rem;margin:15vh auto;
padding:0 1rem}}input,button{{font:inherit;padding:.6rem;width:100%;box-sizing:border-box;margin-top:.5rem}}</style>
<main><h1>vglm web</h1><form method="post" action="login"><label for="token">访问令牌 · Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>进入 · Enter</button></form><p role="alert">{}</p></main></html>"""
WRONG = "令牌不正确 · This is not the token."


class BodyError(Exception):
    """A body that is not received to its end."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Gate:
    """Lets through what `access` allows and the page needs.

    A browser gives the token once, in a form or as ?token=, and has a cookie from then on.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access
        self.cookie = hashlib.sha256(f"vglm web {access.token}".encode()).hexdigest()
        self.held = 0  # bytes of bodies that are being received

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer why not."""
        if scope["type"] != "http":  # a websocket would be none of the page's
            await self.app(scope, receive, send)
            return
        body = Body(self, scope, receive)
        try:
            refused = await self._refused(scope, body)
            await (refused or self.app)(scope, body.receive, _with_headers(send))
        except BodyError as error:
            await PlainTextResponse(str(error), error.status, {"connection": "close"})(scope, receive, send)
        finally:
            self.held -= body.length

    async def _refused(self, scope: Scope, body: "Body") -> Response | None:
        headers = Headers(scope=scope)
        refusal, path = self.access.refusal(headers), scope["path"]
        if refusal == "token" and self._has_cookie(headers.get("cookie", "")):
            refusal = None
        asking = path == "/login" or (path == "/" and b"token=" in scope["query_string"])
        if asking and refusal in (None, "token"):
            return await self._login(scope, body)
        if refusal is not None:
            status, text = REFUSALS[refusal]
            page = refusal == "token" and path == "/"
            return HTMLResponse(LOGIN.format(""), status) if page else PlainTextResponse(text, status)
        if not PATHS.fullmatch(f"{scope['method'].replace('HEAD', 'GET')} {path}"):
            return PlainTextResponse("no such page", 404)
        body.check_length(headers.get("content-length", "0"))
        body.data = await body.read()
        return None

    def _has_cookie(self, text: str) -> bool:
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(text)
        except CookieError:
            return False
        given = cookies[COOKIE].value if COOKIE in cookies else ""
        return hmac.compare_digest(given.encode(), self.cookie.encode())

    async def _login(self, scope: Scope, body: "Body") -> Response:
        """The right token becomes a cookie."""
        text = await body.read() if scope["method"] == "POST" else scope["query_string"]
        token = parse_qs(text.decode("latin-1")).get("token", [""])[0].strip()
        if self.access.token is not None and not self.access.accepts(token):
            return HTMLResponse(LOGIN.format(html.escape(WRONG if token else "")), 401)
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, self.cookie, max_age=WEEK, path="/", httponly=True, samesite="strict")
        return response


class Body:
    """What a request sends, counted while it comes."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive) -> None:
        self.gate, self._receive = gate, receive
        self.most = PICTURE if scope["path"] == "/pictures" else EVENT
        self.length, self.data, self.passed = 0, b"", False
        self.deadline = asyncio.get_running_loop().time() + SECONDS

    def check_length(self, declared: str) -> None:
        """BodyError if more is announced than may come."""
        if not declared.isdigit() or int(declared[:20]) > self.most:
            raise BodyError(413, self._too_large())

    async def read(self) -> bytes:
        """All of it. BodyError for too much, or too slow; empty if the client left."""
        parts, more = [], True
        while more:
            try:
                async with asyncio.timeout_at(self.deadline):
                    message = await self._receive()
            except TimeoutError:
                raise BodyError(408, "this took too long to come") from None
            parts.append(message.get("body", b""))
            self.length, self.gate.held = self.length + len(parts[-1]), self.gate.held + len(parts[-1])
            more = message["type"] == "http.request" and message.get("more_body", False)
            if self.length > self.most:
                raise BodyError(413, self._too_large())
            if self.gate.held > HELD:
                raise BodyError(429, "too much is being sent at once; try again in a moment")
        return b"".join(parts)

    async def receive(self) -> Message:
        """As ASGI's, for what was read whole: an error in its middle would reach the application as one of its own."""
        if self.passed:
            return await self._receive()
        self.passed = True
        return {"type": "http.request", "body": self.data, "more_body": False}

    def _too_large(self) -> str:
        return f"最大 {self.most / MIB:g} MiB · {self.most / MIB:g} MiB at most"


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
