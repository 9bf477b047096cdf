"""The live page: a small HTTP server for this machine alone, of the standard library.

Everything that the page needs lies in `static/`. The page asks again every two seconds; nothing asks another host.
"""

import json
import re
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from vglm_train.access import REFUSALS, Access, address, bind
from vglm_train.report.answers import Answers
from vglm_train.report.watched import Watched

HOST = "127.0.0.1"
STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("live.html", "text/html; charset=utf-8"),
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/plot.js": ("plot.js", "text/javascript; charset=utf-8"),
    "/words.js": ("words.js", "text/javascript; charset=utf-8"),
    "/live.css": ("live.css", "text/css; charset=utf-8"),
    "/uplot.js": ("uplot.js", "text/javascript; charset=utf-8"),
    "/uplot.css": ("uplot.css", "text/css; charset=utf-8"),
}
PICTURE = re.compile(r"/picture/(\w+)/(step-\d+)/([^/]+)/(\d+-\d+\.jpg)")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    """Answers GET from `answers`; refuses what comes from other hosts or from pages of other sites."""

    answers: ClassVar[Answers]
    access: ClassVar[Access] = Access(HOST)
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that an idle connection stays open

    def do_GET(self) -> None:
        """Files of the page, pictures of the runs, and what was logged."""
        refusal = self.access.refusal({name.lower(): value for name, value in self.headers.items()})
        if refusal is not None:
            status, text = REFUSALS[refusal]
            self._send(status, text.encode(), "text/plain; charset=utf-8")
            return
        url = urlsplit(self.path)
        if url.path in FILES:
            name, kind = FILES[url.path]
            self._send(HTTPStatus.OK, (STATIC / name).read_bytes(), kind)
        elif found := PICTURE.fullmatch(url.path):
            self._picture(*found.groups())
        elif url.path in self.answers.known:
            self._answer(self.answers.known[url.path], parse_qs(url.query))
        else:
            self._send(HTTPStatus.NOT_FOUND, b"no such page", "text/plain")

    def _answer(self, answer: Callable[[dict[str, list[str]]], Any], query: dict[str, list[str]]) -> None:
        try:
            body = json.dumps(answer(query), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (KeyError, ValueError, OSError) as error:  # a run that was removed, a number that is none
            self._send(HTTPStatus.BAD_REQUEST, str(error).encode(), "text/plain; charset=utf-8")
            return
        self._send(HTTPStatus.OK, body.encode("utf-8", "replace"), "application/json")

    def _picture(self, run: str, step: str, table: str, name: str) -> None:
        try:
            data = self.answers.picture(run, step, table, name)
        except (KeyError, OSError):
            self._send(HTTPStatus.NOT_FOUND, b"no such picture", "text/plain")
            return
        self._send(HTTPStatus.OK, data, "image/jpeg")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "content-type": kind, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Who asked what is not printed."""


def make_server(folders: list[Path], port: int) -> tuple[ThreadingHTTPServer, str]:
    """The server, which listens already, and its address. UserError where a folder is none or the port is taken."""
    watched = Watched(folders)
    watched.runs()  # read before the first person asks
    listener = bind(HOST, port)
    handler = type("_Handler", (Handler,), {"answers": Answers(watched)})
    server = _Server(listener.getsockname(), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    return server, address(listener)


def watch(folders: list[Path], port: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    server, url = make_server(folders, port)
    print(f"open {url}   (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("", file=sys.stderr)
    finally:
        server.server_close()
