"""Who is let in, what is there, and how much may be sent; over real HTTP."""

import contextlib
import functools
import http.client
import json
import os
import struct
import tempfile
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from web.made_page import TOKEN, page_of

NEEDLESS = (
    "GET /gradio_api/file=/etc/passwd", "GET /gradio_api/file=../../../etc/passwd", "GET /file=/etc/passwd",
    "GET /gradio_api/file/etc/passwd", "GET /static/../../../../etc/passwd", "GET /assets/..%2f..%2f..%2fetc/passwd",
    "GET /verdict/..%2f..%2fetc%2fpasswd", "GET /verdict/passwd", "POST /gradio_api/upload", "POST /upload",
    "GET /gradio_api/info", "GET /gradio_api/openapi.json", "GET /gradio_api/proxy=http://127.0.0.1/",
    "POST /gradio_api/run/predict", "POST /gradio_api/api/predict", "POST /gradio_api/call/ask", "GET /monitoring",
    "POST /gradio_api/cancel", "GET /gradio_api/runs", "GET /docs", "GET /openapi.json", "GET /login_check",
    "POST /gradio_api/process_recording", "GET /gradio_api/queue/status", "PUT /pictures", "GET /gradio_api/user",
)  # fmt: skip


def raw(url: str, method: str, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    """A request whose path no client has tidied up."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request(method, path, body, headers)  # type: ignore[arg-type]
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.fixture(scope="module")
def closed(made):
    with page_of(made(), token=TOKEN) as running:
        yield running


@pytest.mark.parametrize("request_line", NEEDLESS)
def test_what_the_page_does_not_need_is_not_there(served, request_line):
    method, path = request_line.split(" ", 1)
    status, text = raw(served.url, method, path)
    assert status in (403, 404)
    assert b"root:" not in text


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/config"), ("GET", "/theme.css"), ("POST", "/gradio_api/upload"), ("POST", "/pictures"),
     ("POST", "/gradio_api/queue/join"), ("GET", "/gradio_api/queue/data?session_hash=a"), ("GET", "/verdict/a.html"),
     ("GET", "/gradio_api/heartbeat/a"), ("GET", "/picture/a"), ("GET", "/static/img/logo.svg"), ("GET", "/nothing")],
)  # fmt: skip
def test_without_the_token_nothing_is_there(closed, method, path):
    for headers in ({}, {"cookie": f"vglm_web={TOKEN}"}, {"authorization": "Bearer " + TOKEN[:-1]}, {"cookie": '="'}):
        assert raw(closed.url, method, path, b"x" * 100, **headers)[0] == 401


def test_60_megabytes_without_the_token_are_refused(closed):
    def body():
        for _ in range(60):
            yield b"x" * 2**20

    for given in ({"content-length": str(60 * 2**20)}, {}):
        try:
            status, _ = raw(closed.url, "POST", "/pictures", body(), **given)
        except (BrokenPipeError, ConnectionResetError):  # the server closed the connection before all had come
            continue
        assert status == 401


def test_the_token_opens(closed):
    assert httpx.get(closed.url, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    entered = httpx.get(f"{closed.url}/?token={TOKEN}")
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    attributes = entered.headers["set-cookie"].lower()
    assert "httponly" in attributes
    assert "samesite=strict" in attributes
    assert TOKEN not in attributes
    assert httpx.get(closed.url, cookies=dict(entered.cookies)).status_code == 200
    assert httpx.post(f"{closed.url}/login", data={"token": "x" * 100}).status_code == 401
    assert httpx.post(f"{closed.url}/login", data={"token": "x" * 100_000}).status_code == 413


def test_more_than_a_body_may_have_is_refused(served):
    secret = {"x-page": served.pages.begin("large").secret}
    for path, most in (("/pictures", 20 * 2**20), ("/gradio_api/queue/join", 64 * 1024)):
        assert raw(served.url, "POST", path, **{"content-length": str(most + 1)})[0] == 413
        assert raw(served.url, "POST", path, **{"content-length": "many"})[0] in (400, 413)
        pieces = (b"x" * 2**16 for _ in range(most // 2**16 + 2))
        with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # closed while the rest was being sent
            assert httpx.post(served.url + path, content=pieces, headers=secret, timeout=60).status_code == 413
    served.pages.end("large")
    assert httpx.get(served.url).status_code == 200


def test_a_page_of_another_site_is_refused(served):
    port = urlsplit(served.url).port
    assert httpx.post(f"{served.url}/pictures", headers={"origin": "http://evil.example"}).status_code == 403
    assert httpx.post(f"{served.url}/gradio_api/queue/join", headers={"origin": "null"}).status_code == 403
    assert httpx.get(served.url, headers={"host": f"evil.example:{port}"}).status_code == 403
    assert httpx.get(served.url, headers={"host": f"localhost:{port}"}).status_code == 200


def test_nothing_but_this_server_may_be_asked_by_the_page(served):
    policy = httpx.get(served.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "*" not in policy


def png(width: int, height: int) -> bytes:
    """The head of a picture of this size, without the pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def test_pictures_that_are_none_or_too_large(served, pictures):
    url, page = f"{served.url}/pictures", served.pages.begin("pictures")
    secret = {"x-page": page.secret}
    for bad in (png(100_000, 100_000), b"", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x80\x04K\x01."):
        assert httpx.post(url, content=bad, headers=secret).status_code == 422
    data = pictures[0].read_bytes()
    assert httpx.post(url, content=data, headers={"x-page": "guessed"}).status_code == 410
    codes = [httpx.post(url, content=data, headers=secret).status_code for _ in range(10)]
    assert codes == [200] * 8 + [409] * 2
    served.pages.end("pictures")
    assert httpx.post(url, content=data, headers=secret).status_code == 410


@functools.cache
def number_of(url: str, name: str) -> int:
    """Gradio's number of a function."""
    (number,) = [each["id"] for each in httpx.get(f"{url}/config").json()["dependencies"] if each["api_name"] == name]
    return number


def event(url: str, name: str, data: list[object], session: str) -> str:
    """What the page does at a click; the answer's messages."""
    body = json.dumps({"data": data, "fn_index": number_of(url, name), "session_hash": session})
    joined = httpx.post(f"{url}/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    if joined.status_code != 200:
        return f"refused {joined.status_code}"
    return httpx.get(f"{url}/gradio_api/queue/data", params={"session_hash": session}, timeout=60).text


@pytest.mark.parametrize(
    "settings",
    [[float("nan"), 1, 1, 1, 1, 0], [10**9, 1, 1, 1, 1, 0], [5, -1, 1, 1, 1, 0], [5, 1, 2, 1, 1, 0],
     [5, 1, 1, -5, 1, 0], [5, 1, 1, 1, 0, 0], [5, 1, 1, 1, 1, -1], [5, 1, 1, 1, 1, 10**40], ["a", {}, [], None, 1, 0],
     []],
)  # fmt: skip
def test_settings_out_of_their_range_are_told(served, settings):
    event(served.url, "_begin", [], "settings")
    text = event(served.url, "_ask", ["what is this", *settings], "settings")
    assert '"process_completed"' in text
    assert not served.pages.find("settings").exchanges
    assert "<section>" in event(served.url, "_ask", ["what is this", 3, 1, 1, 0, 1, 0], "settings")
    served.pages.end("settings")


def test_many_sessions_leave_no_more_than_there_is_room_for(served):
    for number in range(served.pages.capacity + 10):
        event(served.url, "_begin", [], f"many{number}")
    assert len(served.pages) == served.pages.capacity
    assert httpx.get(served.url).status_code == 200


def test_nothing_is_written_to_disk(served, pictures):
    before = files()
    page = served.pages.begin("disk")
    httpx.post(f"{served.url}/pictures", content=pictures[0].read_bytes(), headers={"x-page": page.secret})
    assert "<section>" in event(served.url, "_ask", ["what is this", 3, 1, 1, 0, 1, 0], "disk")
    assert files() == before


def files() -> set[Path]:
    """Where Gradio would write."""
    folders = [Path(os.environ.get("GRADIO_TEMP_DIR", Path(tempfile.gettempdir()) / "gradio")), Path(".gradio")]
    return {path for folder in folders for path in folder.rglob("*") if path.is_file()}
