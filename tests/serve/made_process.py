"""`vglm serve` as a process of its own, and clients that send it bytes of their own."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from vglm_train.serve.openai_routes import CHAT_PATH

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20


@dataclass
class Attacked:
    """A server that strangers talk to."""

    url: str
    process: psutil.Process
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def mib(self) -> float:
        return self.process.memory_info().rss / MIB

    def post(self, body: Any, path: str = CHAT_PATH, **options: Any) -> httpx.Response:
        """JSON, or bytes that claim to be JSON."""
        if isinstance(body, bytes):
            options = {"content": body, "headers": {"Content-Type": "application/json"}, **options}
        else:
            options = {"json": body, **options}
        return httpx.post(self.url + path, timeout=60, **options)

    def ask(self, text: str, *images: str, **fields: Any) -> httpx.Response:
        """A question with the URLs of pictures."""
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
        content = [*parts, {"type": "text", "text": text}]
        return self.post(
            {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 4, **fields}
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def send(self, *parts: bytes) -> bytes:
        """Bytes on a connection, and all that comes back until it is closed."""
        with self.connect() as connection:
            for part in parts:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(part)
            return received(connection)

    def check_healthy(self) -> None:
        """It is alive, answers a question, and nothing is left over. Nothing in its log is an accident."""
        assert httpx.get(f"{self.url}/health", timeout=60).json() == {"status": "alive"}
        answer = self.ask("what is this")
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["role"] == "assistant"
        metrics = httpx.get(f"{self.url}/metrics", timeout=60).text
        assert "vglm_running 0.0\n" in metrics
        assert "vglm_waiting 0.0\n" in metrics
        log = self.log.read_text()
        assert "Traceback" not in log
        assert " failed" not in log


def received(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def post_head(length: int | None, *headers: str, path: str = CHAT_PATH) -> bytes:
    """The head of a POST of JSON; without a length it comes in chunks."""
    size = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", size, *headers, "", ""]
    return "\r\n".join(lines).encode()


@contextlib.contextmanager
def serving_process(bundle: Path, folder: Path, *options: str, **environment: str) -> Iterator[Attacked]:
    """`vglm serve` on a free port."""
    log = folder / "serve.log"
    command: Sequence[str] = [sys.executable, "-m", "vglm_train.serve", str(bundle), "--port", "0", "--name", "tiny"]
    found = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--device", "cpu", *options], stdout=out, stderr=out, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": found, **environment},
        )  # fmt: skip
    try:
        while "is ready" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        found = re.search(r"http://\S+:\d+", log.read_text())
        assert found
        yield Attacked(found[0], psutil.Process(process.pid), log)
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
