"""What one request may bring, before it costs anything."""

import json
import socket
import threading
from contextlib import closing, suppress

import httpx
import pytest
from serve.made_server import HEAD, chat_body, data_url, serving_at, shown

from vglm_train.chat import model as chat_model
from vglm_train.config.validation import FieldError
from vglm_train.serve.limits import ServeLimits

PATH = "/v1/chat/completions"
HI = {"role": "user", "content": "what"}


@pytest.fixture(scope="module")
def narrow(made):
    """A server whose limits are easy to pass."""
    limits = ServeLimits(
        body=20_000, bodies=30_000, body_seconds=1, head_seconds=0.5, send_seconds=1, pictures=2, characters=100,
        messages=4,
    )  # fmt: skip
    with serving_at(made(new=20), limits) as running:
        yield running


def answer_of(connection: socket.socket) -> tuple[int, dict]:
    response = b""
    while b"\r\n\r\n" not in response or len(response.partition(b"\r\n\r\n")[2]) < length_of(response):
        part = connection.recv(65536)
        assert part, response
        response += part
    head, _, body = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def length_of(response: bytes) -> int:
    head = response.partition(b"\r\n\r\n")[0].lower()
    return int(head.partition(b"content-length:")[2].split()[0])


@pytest.mark.parametrize("path", ["/", PATH])
def test_a_long_body_is_not_received(narrow, path):
    """It is refused by its head, before a byte of it was sent."""
    with closing(narrow.connect()) as connection:
        connection.sendall((HEAD.format(path) + "Content-Length: 1000000000\r\n\r\n").encode())
        status, told = answer_of(connection)
    assert status == 413
    assert "longer than 20000 bytes" in (told["error"] if path == "/" else told["error"]["message"])


def test_a_body_without_a_length_is_counted(narrow):
    """Chunks that never end."""
    with closing(narrow.connect()) as connection:
        connection.sendall((HEAD.format(PATH) + "Transfer-Encoding: chunked\r\n\r\n").encode())
        for _ in range(21):
            connection.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        status, told = answer_of(connection)
    assert (status, told["error"]["code"]) == (413, "too_large")


def test_a_client_that_sends_all_of_it_gets_the_answer(narrow):
    got = narrow.post(PATH, chat_body({"role": "user", "content": "x" * 3_000_000}))
    assert (got.status_code, got.json()["error"]["code"]) == (413, "too_large")


def test_a_body_that_lies_about_its_length(narrow):
    for head in (
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: x\r\n",
    ):
        with closing(narrow.connect()) as connection:
            connection.sendall((HEAD.format(PATH) + head + "\r\n0\r\n\r\n").encode())
            assert b" 400 " in connection.recv(65536)


def test_slow_clients_time_out(narrow):
    """One that sends half a head, one half a body."""
    with closing(narrow.connect()) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost:")
        assert connection.recv(100) == b""
    with closing(narrow.connect()) as connection:
        connection.sendall((HEAD.format(PATH) + "Content-Length: 100\r\n\r\n{").encode())
        status, told = answer_of(connection)
    assert (status, told["error"]["code"]) == (408, "slow")


def test_a_second_request_has_its_time_too(narrow):
    """A connection that is kept open, and then gets half a head."""
    with closing(narrow.connect()) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert answer_of(connection)[0] == 200
        connection.sendall(b"GET /hea")
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_all_bodies_together_are_bounded(narrow):
    """Two clients that each send a long body: one is asked to come again."""
    first, second = narrow.connect(), narrow.connect()
    with closing(first), closing(second):
        for connection in (first, second):
            connection.sendall((HEAD.format(PATH) + "Content-Length: 19000\r\n\r\n").encode() + b" " * 18_000)
        told = [answer_of(each) for each in (first, second)]
    assert {(status, body["error"]["code"]) for status, body in told} == {(429, "busy"), (408, "slow")}


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (lambda pictures: [shown("what", *pictures[:3])], "too_many_pictures"),
        (lambda pictures: [{"role": "user", "content": "x" * 101}], "too_many_characters"),
        (lambda pictures: [{"role": "system", "content": "x" * 99}, HI], "too_many_characters"),
        (lambda pictures: [HI] * 5, "too_many_messages"),
    ],
)
def test_contents_are_bounded(narrow, pictures, messages, code):
    got = narrow.post(PATH, chat_body(*messages(pictures)))
    assert (got.status_code, got.json()["error"]["code"]) == (413, code)


def test_contents_of_the_other_contract_are_too(narrow, pictures):
    for body in (
        {"text": "x" * 101},
        {"text": "x", "history": [["x", "y" * 100]]},
        {"text": "x", "history": [["a"] * 2] * 2},
    ):
        got = narrow.post("/", body)
        assert (got.status_code, got.json()["status"]) == (413, 413), body
    image = data_url(pictures[0]).partition(",")[2]
    assert narrow.post("/", {"text": "what", "image": image}).status_code == 200


def test_tokens_of_an_answer_are_bounded(narrow):
    assert narrow.post(PATH, chat_body(HI)).json()["usage"]["completion_tokens"] <= 20
    got = narrow.post(PATH, chat_body(HI, max_tokens=21))
    assert (got.status_code, got.json()["error"]["param"]) == (400, "max_tokens")


def test_a_body_of_another_kind(narrow):
    got = httpx.post(narrow.url + PATH, files={"file": b"x"}, timeout=60)
    assert (got.status_code, got.json()["error"]["code"]) == (415, "content_type")


def test_a_refused_picture_is_never_decoded(narrow, pictures, monkeypatch):
    read, read_pixels = [], chat_model.read_pixels

    def reading(*args):
        read.append(args)
        return read_pixels(*args)

    monkeypatch.setattr(chat_model, "read_pixels", reading)
    assert narrow.post(PATH, chat_body(shown("what", *pictures[:3]))).status_code == 413
    assert not read
    assert narrow.post(PATH, chat_body(shown("what", pictures[0]))).status_code == 200
    assert read


def test_the_loop_goes_on_while_pictures_are_read(narrow, pictures, monkeypatch):
    reading, go_on = threading.Event(), threading.Event()
    ask = narrow.model.ask

    def slow(*args, **options):
        reading.set()
        assert go_on.wait(30)
        return ask(*args, **options)

    monkeypatch.setattr(narrow.model, "ask", slow)
    long = json.dumps(chat_body(shown("what", pictures[0]))) + " " * 16_000
    got = []
    thread = threading.Thread(target=lambda: got.append(narrow.raw(PATH, long)))
    thread.start()
    assert reading.wait(30)
    assert narrow.get("/health").status_code == 200
    refused = narrow.raw(PATH, long)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "busy"), "both bodies would be held"
    go_on.set()
    thread.join(30)
    assert got[0].status_code == 200
    monkeypatch.undo()
    assert narrow.raw(PATH, long).status_code == 200


def test_limits_are_above_zero():
    with pytest.raises(FieldError, match="pictures: must be above 0"):
        ServeLimits(pictures=0)
