"""Servers of the tiny models in this process, and what is sent to them."""

import asyncio
import base64
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai

from vglm_train.access import Access, address, bind
from vglm_train.chat.model import ChatModel
from vglm_train.chat.sampling import Sampling
from vglm_train.serve.answering import Serving
from vglm_train.serve.limits import ServeLimits
from vglm_train.serve.server import Server, configure

HEAD = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
TOKEN = "a-token-of-this-test-0123456789"


@dataclass
class Running:
    """A server on a free port."""

    url: str
    serving: Serving
    server: Server
    model: ChatModel
    token: str | None = None
    clients: dict[int, openai.OpenAI] = field(default_factory=dict)

    def client(self, retries: int = 0) -> openai.OpenAI:
        """One for each number of retries: they are slow to make."""
        if retries not in self.clients:
            self.clients[retries] = self._made(retries)
        return self.clients[retries]

    def _made(self, retries: int) -> openai.OpenAI:
        options: dict[str, Any] = {"max_retries": retries, "timeout": 60}
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.token or "none", **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **options)

    def raw(self, path: str, body: str | bytes, **headers: str) -> httpx.Response:
        """`body` as it is."""
        return httpx.post(
            self.url + path, content=body, headers={"Content-Type": "application/json", **headers}, timeout=60
        )

    def connect(self) -> socket.socket:
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def asked(self, path: str, body: Any) -> socket.socket:
        """A connection over which a request went, and that nobody reads."""
        connection, content = self.connect(), json.dumps(body).encode()
        connection.sendall(HEAD.format(path).encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
        return connection

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def metric(self, line: str) -> float:
        """The value of a line of /metrics, 0 if it is not there."""
        lines = self.get("/metrics").text.splitlines()
        return next((float(each.rpartition(" ")[2]) for each in lines if each.rpartition(" ")[0] == line), 0.0)


@contextlib.contextmanager
def serving_at(
    model: ChatModel | None,
    limits: ServeLimits | None = None,
    access: Access = Access("127.0.0.1"),  # noqa: B008
    **defaults: Any,
) -> Iterator[Running]:
    """uvicorn in a thread, as the command runs it. `model` None: it is never loaded."""
    serving = Serving("tiny", limits or ServeLimits(), Sampling(**defaults))
    if model is not None:
        serving.opened(model)
    listener = bind("127.0.0.1", 0)
    server = Server(configure(serving, access), serving)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    try:
        yield Running(address(listener), serving, server, model, access.token)  # type: ignore[arg-type]
    finally:
        server.stop(0)
        thread.join(30)
        assert not thread.is_alive()
        listener.close()
        serving.end()


def data_url(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def shown(text: str, *pictures: Path) -> dict[str, Any]:
    """A user's message."""
    images = [{"type": "image_url", "image_url": {"url": data_url(each)}} for each in pictures]
    return {"role": "user", "content": [*images, {"type": "text", "text": text}]}


def chat_body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": list(messages), **fields}
