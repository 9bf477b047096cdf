"""An HTTP server of a folder that misbehaves as it is told: drops connections, answers errors, stalls, cuts files."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class BadServer(ThreadingHTTPServer):
    """Set `plans[name]` to what the next requests for a file meet, first to last: "drop", "stall", "drip", a status;
    after that, and for None, it is served as it should be, byte ranges included. `cut[name]`: bytes that it has here.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, folder))
        self.plans: dict[str, list[str | int | None]] = {}
        self.cut: dict[str, int] = {}
        self.requests: dict[str, list[str]] = defaultdict(list)  # name -> ranges asked for
        self.ranges = True  # it knows what a range is
        self.released = threading.Event()  # ends all stalls

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: BadServer

    def __init__(self, folder: Path, *arguments) -> None:
        self.folder = folder
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name, asked = self.path.partition("?")[0].lstrip("/"), self.headers.get("Range", "")
        self.server.requests[name].append(asked)
        plan = self.server.plans.get(name, [])
        fate = plan.pop(0) if plan else None
        if isinstance(fate, int) or not (self.folder / name).is_file():
            self.send_error(fate or 404)
            return
        content = (self.folder / name).read_bytes()[: self.server.cut.get(name)]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self._send(content[start:], fate)

    def _send(self, content: bytes, fate: str | None) -> None:
        half = content[: len(content) // 2]
        if fate == "drip":
            for place in range(0, len(half), 16):
                self.wfile.write(half[place : place + 16])
                if self.server.released.wait(0.1):
                    break
        elif fate is not None:
            self.wfile.write(half)
            if fate == "stall":
                self.server.released.wait(60)
        else:
            self.wfile.write(content)


@contextmanager
def serve(folder: Path) -> Iterator[BadServer]:
    with BadServer(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
