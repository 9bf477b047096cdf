"""What is let in: who may, which paths, and how much. It stands before everything else, Gradio included."""

import hashlib
import html
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "vglm_web"
MIB = 2**20
PICTURE = 20 * MIB
EVENT = 64 * 1024  # a question with its settings
# What the page needs. Gradio has much else: uploads, files of the machine, a proxy, an API, monitoring.
PATHS = re.compile(
    r"GET /(config|theme\.css|favicon\.ico|manifest\.json)?"
    r"|GET /(static|assets)/[\w./-]+"
    r"|GET /gradio_api/(startup-events|heartbeat/\w{1,40}|queue/data)"
    r"|POST /gradio_api/queue/join"
    r"|(POST|DELETE) /pictures(/[\w-]{1,64})?"
    r"|GET /picture/[\w-]{1,64}"
    r"|GET /verdict/[^/\\]{1,200}"
)
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
    "worker-src 'self' blob:; form-action 'self'; frame-ancestors 'none'; base-uri 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
LOGIN = """<!doctype html><html lang="zh"><meta charset="utf-8"><title>vglm web</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui,sans-serif;max-width:22rem;margin:15vh auto;
padding:0 1rem}}input,button{{font:inherit;padding:.6rem;width:100%;box-sizing:border-box;margin-top:.5rem}}</style>
<main><h1>vglm web</h1><form method="post" action="login"><label for="token">访问令牌 · Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>进入 · Enter</button></form><p role="alert">{}</p></main></html>"""


class TooLarge(Exception):  # noqa: N818
    """A body is larger than it may be."""


class Gate:
    """An ASGI application before another one.

    token: whoever comes must have it, as a cookie that the login sets or as `Authorization: Bearer`; None: nobody is
    asked. hosts: names that the Host header may have; None: any. A name of its own that points to this machine would
    let a foreign page in a browser talk to a server that listens to this machine only.
    """

    def __init__(self, app: App, token: str | None, hosts: frozenset[str] | None) -> None:
        self.app, self.token, self.hosts = app, token, hosts
        self.cookie = hashlib.sha256(f"vglm web {token}".encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket: the page uses none
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._foreign(headers)
        if refused:
            await answer(send, 403, refused)
        elif scope["path"] == "/login" or (scope["path"] == "/" and b"token=" in scope["query_string"]):
            await self._login(scope, receive, send)
        elif not self._known(headers):
            page = scope["path"] == "/" and scope["method"] == "GET"
            await answer(send, 401, LOGIN.format("") if page else "a token is needed", page)
        elif not PATHS.fullmatch(f"{scope['method'].replace('HEAD', 'GET')} {scope['path']}"):
            await answer(send, 404, "no such page")
        else:
            await self._pass(scope, receive, send, headers)

    def _foreign(self, headers: MutableMapping[str, str]) -> str:
        host = headers.get("host", "")
        if self.hosts is not None and (urlsplit(f"//{host}").hostname or "") not in self.hosts:
            return "this server is for this machine only; open http://127.0.0.1 with its port"
        origin = headers.get("origin")
        return "another page may not use this one" if origin and urlsplit(origin).netloc != host else ""

    def _known(self, headers: MutableMapping[str, str]) -> bool:
        if self.token is None:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return secrets.compare_digest(bearer.encode(), self.token.encode())
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except Exception:  # whatever the header holds
            return False
        value = cookies[COOKIE].value if COOKIE in cookies else ""
        return secrets.compare_digest(value.encode(), self.cookie.encode())

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A token from the form or once in the address becomes a cookie."""
        if scope["method"] == "POST":
            try:
                given = parse_qs((await _body(receive, 4096)).decode("utf-8", "replace"))
            except TooLarge:
                given = {}
        else:
            given = parse_qs(scope["query_string"].decode("latin-1"))
        token = given.get("token", [""])[0].strip()
        if self.token is not None and not secrets.compare_digest(token.encode(), self.token.encode()):
            wrong = "令牌不正确 · This is not the token." if token else ""
            await answer(send, 401, LOGIN.format(html.escape(wrong)), page=True)
            return
        cookie = f"{COOKIE}={self.cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age=604800"
        await answer(send, 303, "", extra=[(b"location", b"/"), (b"set-cookie", cookie.encode())])

    async def _pass(self, scope: Scope, receive: Receive, send: Send, headers: MutableMapping[str, str]) -> None:
        """On to the application, with no more of the body than it may have, and with this page's policy."""
        most = PICTURE if scope["path"] == "/pictures" else EVENT
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > most:
            await answer(send, 413, f"{most / MIB:g} MiB at most")
            return
        read, begun = 0, False

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise TooLarge
            return message

        async def with_policy(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                names = {name.lower() for name, _ in message.get("headers", [])}
                message["headers"] = [*message.get("headers", []), *(h for h in HEADERS if h[0] not in names)]
            await send(message)

        try:
            await self.app(scope, bounded, with_policy)
        except TooLarge:
            if not begun:
                await answer(send, 413, f"{most / MIB:g} MiB at most")


async def answer(
    send: Send, status: int, text: str, page: bool = False, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    """A whole response."""
    kind = b"text/html" if page else b"text/plain"
    headers = [(b"content-type", kind + b"; charset=utf-8"), *HEADERS, *(extra or [])]
    body = text.encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive, most: int) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            raise TooLarge
    return body
