"""Clients that leave, and servers that are full or not ready."""

import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from chat.test_scheduler import idle, wait
from serve.made_server import chat_body, serving_at, shown

from vglm_train.chat.cohort import Cohort

PATH = "/v1/chat/completions"
HI = {"role": "user", "content": "what"}
LONG = {"max_tokens": 100, "temperature": 0.9, "top_p": 1, "extra_body": {"top_k": 0}}


class Gate:
    """Steps of decoding happen when they are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.permits, self.steps, self.waiting = threading.Semaphore(0), 0, threading.Event()
        step = Cohort.step

        def gated(cohort: Cohort) -> None:
            self.waiting.set()
            self.permits.acquire()
            self.steps += 1
            step(cohort)

        monkeypatch.setattr(Cohort, "step", gated)

    def let(self, steps: int) -> None:
        self.waiting.clear()
        for _ in range(steps):
            self.permits.release()


@pytest.fixture
def gate(monkeypatch):
    made = Gate(monkeypatch)
    yield made
    made.let(10_000)


@pytest.fixture(scope="module")
def small(made):
    """A server with one row and a queue of two."""
    with serving_at(made(rows=1, queue=2)) as running:
        yield running


def test_who_leaves_within_a_stream_frees_the_row_within_a_step(tiny, gate):
    stream = tiny.client().chat.completions.create(model="tiny", messages=[HI], stream=True, **LONG)
    next(stream)
    assert gate.waiting.wait(30)
    stream.close()
    wait(lambda: tiny.serving.active == 0)
    assert tiny.model.load().running == 1
    gate.let(1)
    wait(lambda: idle(tiny.model.scheduler))
    assert gate.steps == 1


@pytest.mark.parametrize("path", ["/", PATH])
def test_who_leaves_while_an_answer_is_written_frees_the_row_too(tiny, gate, path):
    gone = tiny.metric('vglm_rejected_total{cause="client_gone"}')
    body = {"text": "what"} if path == "/" else chat_body(HI, max_tokens=100)
    connection = tiny.asked(path, body)
    assert gate.waiting.wait(30)
    connection.close()
    wait(lambda: tiny.serving.active == 0)
    gate.let(1)
    wait(lambda: idle(tiny.model.scheduler))
    assert gate.steps == 1
    assert tiny.metric('vglm_rejected_total{cause="client_gone"}') == gone + 1


def test_who_leaves_the_queue_is_never_begun(small, gate):
    with small.client().chat.completions.create(model="tiny", messages=[HI], stream=True, **LONG) as first:
        next(first)
        assert gate.waiting.wait(30)
        second = small.client().chat.completions.create(model="tiny", messages=[HI], stream=True, **LONG)
        wait(lambda: small.model.load().waiting == 1)
        assert small.metric("vglm_running") == small.metric("vglm_waiting") == 1
        second.close()
        wait(lambda: small.serving.active == 1)
        gate.let(1)
        wait(lambda: small.model.load().waiting == 0)
    wait(lambda: small.serving.active == 0)
    gate.let(1)
    wait(lambda: idle(small.model.scheduler))


def test_who_leaves_while_pictures_are_read_is_never_queued(tiny, monkeypatch):
    reading, go_on, ask = threading.Event(), threading.Event(), tiny.model.ask
    finished = threading.Event()

    def slow(*args, **options):
        reading.set()
        assert go_on.wait(30)
        try:
            return ask(*args, **options)
        finally:
            finished.set()

    submitted = []
    monkeypatch.setattr(tiny.model, "ask", slow)
    monkeypatch.setattr(tiny.model, "submit", lambda *args: submitted.append(args))
    connection = tiny.asked(PATH, chat_body(HI))
    assert reading.wait(30)
    connection.close()
    wait(lambda: tiny.serving.active == 0)
    go_on.set()
    assert finished.wait(30)
    assert tiny.get("/health").status_code == 200
    assert not submitted


def test_many_who_leave_hold_nothing(tiny, pictures):
    """Streams that are closed at every moment, by threads."""

    def leave(number: int) -> None:
        body = chat_body(shown("what number", pictures[number % 5]), max_tokens=50, stream=True, seed=number)
        with client.stream("POST", tiny.url + PATH, json=body) as response:
            for place, _ in enumerate(response.iter_lines()):
                if place >= number % 7:
                    break

    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(80)))
    wait(lambda: idle(tiny.model.scheduler) and tiny.serving.active == 0)
    assert tiny.serving._preparing == 0
    assert tiny.client().chat.completions.create(model="tiny", messages=[HI], max_tokens=3).usage.completion_tokens


def test_a_full_queue_says_when_to_come_again(small, gate):
    client, busy = small.client(), small.metric('vglm_rejected_total{cause="busy"}')
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.chat.completions.create, model="tiny", messages=[HI], max_tokens=5)]
        assert gate.waiting.wait(30)
        for number in (1, 2):
            asked.append(pool.submit(client.chat.completions.create, model="tiny", messages=[HI], max_tokens=5))
            wait(lambda number=number: small.model.load().waiting == number)
        for body in (chat_body(HI), chat_body(HI, stream=True)):
            got = small.post(PATH, body)
            assert (got.status_code, got.json()["error"]["type"]) == (429, "rate_limit_error")
            assert int(got.headers["Retry-After"]) >= 1
        got = small.post("/", {"text": "what"})
        assert (got.status_code, got.json()["status"]) == (429, 429)
        assert small.metric('vglm_rejected_total{cause="busy"}') == busy + 3
        gate.let(100)
        texts = {each.result(60).choices[0].message.content for each in asked}
    assert len(texts) == 1
    retrying = small.client(3)
    assert retrying.chat.completions.create(model="tiny", messages=[HI], max_tokens=2).choices


def test_the_scheduler_has_the_last_word_on_the_queue(small, monkeypatch):
    """Requests that were let in together and found it full when they were read."""
    from vglm_train.chat.request import Busy

    def full(*args):
        raise Busy(2, 3.5)

    monkeypatch.setattr(small.model, "submit", full)
    got = small.post(PATH, chat_body(HI, stream=True))
    assert (got.status_code, got.headers["Retry-After"]) == (429, "4")


def test_time_that_is_over_cuts_an_answer(made, gate):
    with serving_at(made(seconds=0.2, rows=1)) as running, ThreadPoolExecutor(1) as pool:
        client = running.client()
        first = pool.submit(client.chat.completions.create, model="tiny", messages=[HI], **LONG)
        assert gate.waiting.wait(30)
        deadline = threading.Event()
        assert not deadline.wait(0.3)
        gate.let(1)
        cut = first.result(30)
        assert cut.choices[0].finish_reason == "length"
        assert 0 < cut.usage.completion_tokens < 100


def test_a_server_without_its_model_yet(made):
    with serving_at(None) as running:
        assert running.get("/health").json() == {"status": "alive"}
        got = running.get("/ready")
        assert (got.status_code, got.json()) == (503, {"status": "loading"})
        for path, body in ((PATH, chat_body(HI)), ("/", {"text": "what"})):
            got = running.post(path, body)
            assert (got.status_code, got.headers["Retry-After"]) == (503, "5")
        assert running.metric("vglm_running") == 0
        running.serving.opened(made())
        assert running.get("/ready").status_code == 200


def test_a_server_that_is_stopped_finishes_what_runs(made, gate):
    model = made(rows=1)
    wanted = model.ask(None, "what", max_new=5)
    with serving_at(model) as running, ThreadPoolExecutor(2) as pool:
        client = running.client()
        asked = [pool.submit(client.chat.completions.create, model="tiny", messages=[HI], max_tokens=5) for _ in "12"]
        assert gate.waiting.wait(30)
        wait(lambda: model.load().waiting == 1)
        running.server.stop(60)
        got = running.get("/ready")
        assert (got.status_code, got.json()) == (503, {"status": "shutting down"})
        with pytest.raises(openai.InternalServerError, match="shut down"):
            client.chat.completions.create(model="tiny", messages=[HI])
        gate.let(100)
        texts = {each.result(60).choices[0].message.content for each in asked}
    with made() as other:
        assert texts == {other.answer(wanted).text}


def test_what_takes_too_long_is_ended_and_told(made, gate):
    with serving_at(made()) as running, ThreadPoolExecutor(1) as pool:
        client = running.client()
        stream = client.chat.completions.create(model="tiny", messages=[HI], stream=True, **LONG)
        next(stream)
        whole = pool.submit(client.chat.completions.create, model="tiny", messages=[HI], **LONG)
        wait(lambda: running.model.load().running + running.model.load().waiting == 2)
        running.server.stop(0)
        wait(lambda: running.model.scheduler._closed)
        gate.let(2)
        with pytest.raises(openai.APIError, match="stopped before the answer was whole"):
            list(stream)
        with pytest.raises(openai.InternalServerError, match="stopped before the answer was whole"):
            whole.result(30)


def test_log_lines_hold_no_contents(tiny, pictures, caplog):
    secret = "is-this-red-1234"
    with caplog.at_level(logging.INFO, "vglm_train.serve"):
        tiny.post(
            PATH, chat_body(shown(secret, pictures[0]), max_tokens=4), headers={"Authorization": f"Bearer {secret}"}
        )
        tiny.post("/", {"text": secret, secret: 1})
        tiny.get(f"/{secret}?{secret}")
        tiny.get(f"/v1/models/{secret}")
        tiny.get("/a%0Ab")
        wait(lambda: sum(each.name == "vglm_train.serve" for each in caplog.records) == 5)  # each after its answer
    lines = [each.getMessage() for each in caplog.records if each.name == "vglm_train.serve"]
    form = r"[0-9a-f]{16} 127\.0\.0\.1 (GET|POST) \S+ \d{3} \d+\.\d{3} s(, \d+ tokens)?(, \w+)?"
    assert all(re.fullmatch(form, line) for line in lines), lines
    assert secret not in "".join(lines)
    assert sorted(line.split()[3] for line in lines) == ["/", PATH, "/v1/models/{name}", "other", "other"]
    (answered,) = (line for line in lines if PATH in line)
    assert re.search(r" 200 .*, [1-4] tokens$", answered)


def test_metrics_count(tiny, pictures):
    names = [
        f'vglm_requests_total{{route="{PATH}",status="200"}}', "vglm_new_tokens_total", "vglm_prompt_tokens_total",
        "vglm_first_token_seconds_count", "vglm_answer_seconds_count", 'vglm_rejected_total{cause="invalid_value"}',
    ]  # fmt: skip
    before = [tiny.metric(name) for name in names]
    used = (
        tiny.client().chat.completions.create(model="tiny", messages=[shown("what", pictures[0])], max_tokens=6).usage
    )
    list(tiny.client().chat.completions.create(model="tiny", messages=[HI], max_tokens=1, stream=True))
    tiny.post(PATH, {})
    hi = len(tiny.model.ask(None, "what").request.prompt.input_ids)
    wanted = [2, used.completion_tokens + 1, used.prompt_tokens + hi, 2, 2, 1]
    wait(lambda: [tiny.metric(name) - old for name, old in zip(names, before, strict=True)] == wanted)
    assert tiny.get("/metrics").headers["content-type"].startswith("text/plain")
