"""Strangers against the protocol: endless, broken, slow and strange requests. Each gets its answer, and it lives on."""

import contextlib
import hmac
import json
import selectors
import time
from collections.abc import Iterator

import httpx
import pytest
from serve.made_process import MIB, Attacked, post_head, received, serving_process

from vglm_train import access
from vglm_train.access import Access

GIB = 2**30
BODY = 2 * MIB  # of a request, on this server
TOKEN = "a-token-of-this-test-0123456789"


@pytest.fixture(scope="module")
def server(bundles, tmp_path_factory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("attacked")
    with serving_process(bundles["causal"], folder, "--body-mib", str(BODY / MIB)) as running:
        yield running


@pytest.fixture(autouse=True)
def survives(server) -> Iterator[None]:
    yield
    server.check_healthy()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_body_of_a_gigabyte_is_cut_off(server):
    """By its announced length before anything is read; where it lies about that, there is nothing more to read."""
    before = server.mib
    answer = server.send(post_head(GIB), b" " * MIB)
    assert status_of(answer) == 413
    assert "too_large" in answer.decode()
    assert server.mib < before + 20


def test_a_body_without_a_length_is_refused_at_the_limit(server):
    """The answer comes while the client still sends; what it goes on to send is held nowhere."""
    before, chunk = server.mib, b"100000\r\n" + b" " * MIB + b"\r\n"
    # a selector takes any descriptor; `select.select` only those below 1,024
    with server.connect() as connection, selectors.DefaultSelector() as answers:
        connection.sendall(post_head(None))
        sent = 0
        answers.register(connection, selectors.EVENT_READ)
        while not answers.select(0.01):
            connection.sendall(chunk)
            sent += MIB
        assert status_of(connection.recv(65536)) == 413
        assert sent < BODY + 64 * MIB  # what lies in the buffers of both sides
        with contextlib.suppress(ConnectionError):
            for _ in range(256):
                connection.sendall(chunk)
        assert server.mib < before + 20


def test_broken_chunks(server):
    for chunk in (b"zz\r\n\r\n", b"-1\r\n\r\n", b"2;" + b"x" * 100_000 + b"\r\n{}\r\n", b"2\r\n{}{}\r\n"):
        answer = server.send(post_head(None), chunk, b"0\r\n\r\n")
        assert not answer or status_of(answer) in (400, 413)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"1", b'"text"', b"\xff\xfe{", b"{}\0", b'{"model": "tiny", "messages": [', b"{} {}",
        b'{"model": tiny}', b'{"model": "tiny", "messages": {}}', b'{"model": "tiny", "messages": []}',
        b'{"model": {"a": 1}, "messages": 5}', b"\xef\xbb\xbf{}", b"%PDF-1.7", "{'model'".encode("utf-16"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/"])
def test_malformed_json(server, body, path):
    answer = server.post(body, path)
    assert answer.status_code in (400, 422), answer.text
    assert "error" in answer.json()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/"])
def test_deep_nesting(server, path):
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for body in (opening * 100_000, opening * 100_000 + "1" + closing * 100_000):
            assert server.post(body.encode(), path).status_code == 400
    inner = "[" * 500 + "]" * 500
    body = f'{{"model": "tiny", "text": "a", "messages": {inner}, "metadata": {inner}, "history": {inner}}}'
    assert server.post(body.encode(), path).status_code == 400


MESSAGES = '"messages": [{"role": "user", "content": "what is this"}]'


@pytest.mark.parametrize(
    "field",
    [
        '"temperature": NaN', '"temperature": Infinity', '"top_p": -Infinity', '"temperature": 1e999', '"seed": 1e400',
        '"max_tokens": NaN', '"seed": -1', '"seed": 99999999999999999999999', '"max_tokens": 1e2', '"top_k": 1.5',
        '"max_tokens": 0', '"max_tokens": 99999999', '"max_tokens": "4"', '"stream": "yes"', '"temperature": true',
        '"stop": [""]', '"stop": ["a", "b", "c", "d", "e"]', '"n": 1000000',
        '"seed": ' + "9" * 5000,
    ],
)  # fmt: skip
def test_numbers_that_are_none(server, field):
    answer = server.post(f'{{"model": "tiny", {MESSAGES}, {field}}}'.encode())
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_numbers_within_what_has_no_meaning(server):
    answer = server.post(f'{{"model": "tiny", {MESSAGES}, "max_tokens": 2, "metadata": [NaN, 1e999]}}'.encode())
    assert answer.status_code in (200, 400)


def test_the_last_of_two_keys_counts(server):
    answer = server.post(
        f'{{"model": "other", "model": "tiny", {MESSAGES}, "max_tokens": 9, "max_tokens": 2}}'.encode()
    )
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] <= 2


@pytest.mark.parametrize("text", ["\\ud800", "a\\udfffb", "\\udc00\\ud800"])
def test_halves_of_characters(server, text):
    for path, body in (
        ("/v1/chat/completions", f'{{"model": "tiny", "messages": [{{"role": "user", "content": "{text}"}}]}}'),
        ("/v1/chat/completions", f'{{"model": "tiny{text}", {MESSAGES}}}'),
        ("/v1/chat/completions", f'{{"model": "tiny", {MESSAGES}, "{text}": 1}}'),
        ("/v1/chat/completions", f'{{"model": "tiny", {MESSAGES}, "stop": "{text}"}}'),
        ("/", f'{{"text": "{text}"}}'),
        ("/", f'{{"text": "a", "history": [["a", "{text}"]]}}'),
        ("/", f'{{"text": "a", "image": "{text}"}}'),
    ):
        answer = server.post(body.encode(), path)
        assert answer.status_code in (400, 404, 422), (body, answer.text)


def test_strange_characters_are_answered(server):
    for text in ("\0", "\u202e\u0000\uffff", "\U0010ffff" * 20, "\r\n\r\nHTTP/1.1 200 OK"):
        assert server.ask(text).status_code == 200


def test_a_prompt_of_a_megabyte(server):
    assert server.ask("a " * (MIB // 2)).status_code == 413
    answer = server.post({"text": "红" * (MIB // 4), "history": []}, "/")
    assert answer.status_code == 413
    many = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 5000 + [
        {"role": "user", "content": "c"}
    ]
    assert server.post({"model": "tiny", "messages": many}).status_code == 413
    assert server.ask("a " * 10_000).status_code == 422  # fewer than the limit, and more than the model has positions


def test_slow_heads_are_closed(bundles, tmp_path, server):
    """In a time that has an end, all at once, while others are answered."""
    begun = time.monotonic()
    connections = [server.connect() for _ in range(100)]
    for number, connection in enumerate(connections):
        connection.sendall((b"", b"POST / HTTP/1.1\r\nHost: localhost\r\nX-", b"G")[number % 3])
    server.check_healthy()
    for connection in connections:
        answer = received(connection)
        assert not answer or status_of(answer) in (400, 408)
        connection.close()
    assert time.monotonic() - begun < 120


def test_a_head_that_drips_is_closed(server):
    """Each letter in time, and the head never whole."""
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
        closed = False
        for _ in range(600):
            try:
                connection.sendall(b"x")
            except ConnectionError:
                closed = True
                break
            time.sleep(0.1)  # as a client that does it
        assert closed


def test_floods_of_headers(server):
    for headers in (
        [f"X-{number}: {'x' * 50}" for number in range(10_000)],
        [f"X: {'x' * MIB}"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Host: other"],
        [f"Cookie: {'a=b; ' * 1000}"],
        ["Content-Length: +5"],
        ["Content-Length: ٥"],
        ["X\0: 1"],
        [" folded: 1"],
    ):
        answer = server.send(post_head(2, *headers), b"{}")
        assert not answer or 400 <= status_of(answer) < 500, headers[0][:40]
    assert status_of(server.send(b"G" * MIB)) == 400
    assert status_of(server.send(b"GET /" + b"a" * MIB + b" HTTP/1.1\r\n\r\n")) in (400, 414)


def test_methods_and_paths(server):
    for method, path in (
        ("GET", "/v1/chat/completions"), ("PUT", "/"), ("DELETE", "/v1/models/tiny"), ("TRACE", "/"),
        ("GET", "/../etc"), ("GET", "/v1/models/../../etc/passwd"), ("GET", "/%2e%2e/%2e%2e/etc/passwd"),
        ("GET", "//etc/passwd"),
        ("GET", "/docs"), ("GET", "/v1/models/%00"), ("GET", "/" + "a" * 5000), ("CONNECT", "/"), ("BREW", "/health"),
    ):  # fmt: skip
        answer = httpx.request(method, server.url + path, timeout=60)
        assert answer.status_code in (400, 403, 404, 405, 415), (method, path, answer.status_code)
        assert "root:" not in answer.text


def test_two_requests_in_one_do_not_reach_two_people(server):
    """Lengths that contradict each other are no request, so nothing is smuggled behind them."""
    answer = server.send(
        post_head(None, "Content-Length: 4") + b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    assert b"vglm_running" not in answer


def test_a_wrong_token_is_compared_in_constant_time(monkeypatch):
    compared, original = [], hmac.compare_digest

    def compare(given: bytes, token: bytes) -> bool:
        compared.append((given, token))
        return original(given, token)

    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    rule = Access("0.0.0.0", TOKEN)
    wrong = ("", TOKEN[:-1], f"{TOKEN}x", "é" * 20, "x" * 100_000)
    for given in wrong:
        assert rule.refusal({"host": "a", "authorization": f"Bearer {given}"}) == "token"
    assert rule.refusal({"host": "a", "authorization": f"Bearer {TOKEN}"}) is None
    assert [token for _, token in compared] == [TOKEN.encode()] * (len(wrong) + 1)


def test_who_has_no_token_sends_no_body(bundles, tmp_path):
    """It is answered after the head, whatever would follow."""
    with serving_process(bundles["causal"], tmp_path, VGLM_TOKEN=TOKEN) as running:
        for head in (
            (),
            ("Authorization: Bearer",),
            (f"Authorization: Basic {TOKEN}",),
            ("Authorization: Bearer \xff",),
        ):
            assert status_of(running.send(post_head(GIB, *head, "Connection: close"))) == 401
        wrong = httpx.get(f"{running.url}/metrics", headers={"Authorization": f"Bearer {TOKEN[:-1]}x"})
        assert (wrong.status_code, TOKEN in wrong.text) == (401, False)
        right = httpx.get(f"{running.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert right.status_code == 200
        assert TOKEN not in running.log.read_text()


def test_a_page_of_another_site_gets_nothing(server):
    body = {"model": "tiny", **json.loads(f"{{{MESSAGES}}}")}
    for headers in ({"Host": "evil.test"}, {"Origin": "https://evil.test"}, {"Origin": "null"}, {"Host": ""}):
        assert server.post(body, headers=headers).status_code in (400, 403)
    form = {"Content-Type": "text/plain"}
    assert server.post(json.dumps(body).encode(), headers=form).status_code == 415
