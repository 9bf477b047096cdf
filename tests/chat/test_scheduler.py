"""Requests of many people over one model: what each gets, and that nothing is held."""

import threading
import time
from queue import SimpleQueue

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from run import speaking

from vglm_train.chat.cohort import Cohort
from vglm_train.chat.events import next_event
from vglm_train.chat.features import FeatureCache
from vglm_train.chat.model import ChatModel
from vglm_train.chat.request import Answer, Busy, Closed, Limits
from vglm_train.chat.scheduler import Scheduler
from vglm_train.errors import UserError

QUESTIONS = ["what number", "which", "is this red", "no", "what colour is this number"]


def ended(events: SimpleQueue) -> Answer:
    text = ""
    while isinstance(event := next_event(events), str):
        text += event
    if isinstance(event, Exception):
        raise event
    assert event.text == text
    return event


def scheduler(model: ChatModel, **limits) -> Scheduler:
    bundle = model.bundle
    return Scheduler(bundle.model, bundle.template, torch.device("cpu"), Limits(**limits), FeatureCache(16))


def idle(made: Scheduler) -> bool:
    return made.load().running == made.load().waiting == 0


def wait(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_in_company_as_alone(models, pictures, family):
    """Requests of all kinds join and leave; each gets the answer that its seed gives it alone."""
    model = models[family]
    alone: dict = {}
    kinds = st.tuples(
        st.sampled_from(QUESTIONS), st.integers(0, 4), st.integers(1, 14), st.booleans(), st.integers(0, 3),
        st.sampled_from([1.0, 1.5]), st.sampled_from([0.7, 3.0]), st.sampled_from([0, 5]),
        st.sampled_from(["", "9", " "]),
    )  # fmt: skip

    def request(kind):
        question, picture, new, sample, seed, penalty, temperature, top_k, stop = kind
        return model.ask(
            pictures[picture], question, max_new=new, sample=sample, seed=seed, repetition_penalty=penalty,
            temperature=temperature, top_k=top_k, stop=stop,
        ).request  # fmt: skip

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(st.lists(kinds, min_size=2, max_size=12), st.integers(1, 4), st.integers(20, 200))
    def check(asked, rows, step):
        together = scheduler(model, rows=rows, step=step)
        waiting = []
        for kind in asked:
            waiting.append(SimpleQueue())
            together.submit(request(kind), waiting[-1].put)
        found = [ended(events) for events in waiting]
        together.close()
        assert idle(together)
        for kind, answer in zip(asked, found, strict=True):
            if kind not in alone:
                events = SimpleQueue()
                model.scheduler.submit(request(kind), events.put)
                alone[kind] = ended(events)
            assert answer == alone[kind], kind

    check()
    assert {answer.reason for answer in alone.values()} >= {"length", "stop"}


def test_rows_are_shared_and_nobody_overtakes(models, pictures, monkeypatch):
    together = scheduler(models["causal"], rows=2)
    order, most = [], [0]
    step = Cohort.step

    def counted(cohort):
        most[0] = max(most[0], len(cohort.rows))
        step(cohort)

    monkeypatch.setattr(Cohort, "step", counted)
    waiting = []
    for number in range(6):
        events = SimpleQueue()
        request = models["causal"].ask(pictures[number % 5], "what", max_new=6, repetition_penalty=1.0).request

        def put(event, number=number, events=events):
            order.append(number) if number not in order else None
            events.put(event)

        together.submit(request, put)
        waiting.append(events)
    for events in waiting:
        ended(events)
    assert order == sorted(order)
    assert most[0] == 2
    together.close()


def test_prompts_are_read_in_portions(models, pictures, monkeypatch):
    """At most `step` prompt tokens between two steps, but always one prompt."""
    together, read = scheduler(models["causal"], step=20), []
    begin = Cohort.__init__

    def counted(cohort, decoder, rows):
        read.append(sum(len(row.request.prompt.input_ids) for row in rows))
        begin(cohort, decoder, rows)

    monkeypatch.setattr(Cohort, "__init__", counted)
    waiting = [SimpleQueue() for _ in range(8)]
    with together._wake:  # all are there before the first is read
        for events in waiting:
            request = models["causal"].ask(pictures[0], "what is this number", max_new=4).request
            together._wake.release()
            together._wake.acquire()
            together.submit(request, events.put)
    for events in waiting:
        ended(events)
    length = len(request.prompt.input_ids)
    assert sum(read) == 8 * length
    assert max(read) <= max(20, length)
    together.close()


def test_cached_tokens_are_bounded(models, pictures, monkeypatch):
    request = models["causal"].ask(pictures[0], "what", max_new=30).request
    together = scheduler(models["causal"], cached=2 * request.length + 1)
    most, step = [0], Cohort.step
    monkeypatch.setattr(Cohort, "step", lambda cohort: (most.append(len(cohort.rows)), step(cohort)))
    waiting = [SimpleQueue() for _ in range(5)]
    for events in waiting:
        together.submit(request, events.put)
    for events in waiting:
        ended(events)
    assert max(most) == 2
    together.close()
    with pytest.raises(UserError, match="prompt with its answer may have 10 tokens"):
        scheduler(models["causal"], cached=10).submit(request, print)


class Gate:
    """Holds the scheduler at each step until it is opened."""

    def __init__(self, monkeypatch):
        self.open, self.steps = threading.Event(), 0
        step = Cohort.step

        def held(cohort):
            assert self.open.wait(20)
            self.steps += 1
            step(cohort)

        monkeypatch.setattr(Cohort, "step", held)


def endless(model, picture, **sampling):
    """A request whose answer does not end by itself."""
    asked = model.ask(picture, "what", max_new=40, sample=False, **sampling)
    assert model.answer(asked).reason == "length"
    return asked.request


def test_cancelled_is_gone_within_one_step(models, pictures, monkeypatch):
    model = models["causal"]
    request, together = endless(model, pictures[0]), scheduler(model, rows=1)
    gate = Gate(monkeypatch)
    running, queued = SimpleQueue(), SimpleQueue()
    ticket = together.submit(request, running.put)
    second = together.submit(request, queued.put)
    wait(lambda: together.load().running == 1)
    ticket.cancel()
    second.cancel()
    gate.open.set()
    answer = ended(running)
    assert (answer.reason, gate.steps) == ("cancelled", 1)
    assert answer.new_tokens == 2
    assert ended(queued) == Answer("", "cancelled", len(request.prompt.input_ids), 0)
    wait(lambda: idle(together))
    together.close()


def test_a_listener_that_fails_frees_its_place(models, pictures):
    model, together, calls = models["causal"], scheduler(models["causal"]), []
    # both before the first is submitted: a model may be run by one thread at a time
    request, another = endless(model, pictures[0]), endless(model, pictures[1])

    def broken(event):
        calls.append(event)
        raise OSError("the connection is closed")

    together.submit(request, broken)
    other = SimpleQueue()
    together.submit(another, other.put)
    assert ended(other).reason == "length"
    wait(lambda: idle(together))
    assert len(calls) < 10
    together.close()


def test_a_deadline_cuts_those_that_run_and_those_that_wait(models, pictures, monkeypatch):
    model = models["causal"]
    together, events = scheduler(model, rows=1, seconds=0.3), [SimpleQueue(), SimpleQueue()]
    request = endless(model, pictures[0])
    step = Cohort.step
    monkeypatch.setattr(Cohort, "step", lambda cohort: (time.sleep(0.05), step(cohort)))
    for each in events:
        together.submit(request, each.put)
    first, second = ended(events[0]), ended(events[1])
    assert first.reason == second.reason == "deadline"
    assert 0 < first.new_tokens < 12
    assert second.new_tokens == 0
    together.close()


def test_a_full_queue_is_told_with_when_to_come_back(models, pictures, monkeypatch):
    model = models["causal"]
    request, together = endless(model, pictures[0]), scheduler(model, rows=1, queue=2)
    gate, waiting = Gate(monkeypatch), [SimpleQueue() for _ in range(3)]
    together.submit(request, waiting[0].put)
    wait(lambda: together.load().running == 1)
    for events in waiting[1:]:
        together.submit(request, events.put)
    with pytest.raises(Busy, match="2 requests are waiting") as busy:
        together.submit(request, print)
    assert 1 <= busy.value.retry_after < 60
    gate.open.set()
    assert {ended(events).reason for events in waiting} == {"length"}
    together.close()


def test_an_error_of_one_prompt_is_its_own(models, pictures, monkeypatch):
    model = models["causal"]
    together, events = scheduler(model), [SimpleQueue() for _ in range(3)]
    begin = together.reader.decoder

    def breaks(requests):
        if any(request.decoding.seed == 13 for request in requests):
            raise RuntimeError("this prompt breaks it")
        return begin(requests)

    monkeypatch.setattr(together.reader, "decoder", breaks)
    with together._wake:
        for seed, each in zip((1, 13, 2), events, strict=True):
            request = model.ask(pictures[0], "what", max_new=5, seed=seed).request
            together._wake.release()
            together._wake.acquire()
            together.submit(request, each.put)
    assert isinstance(ended(events[0]), Answer)
    assert isinstance(ended(events[2]), Answer)
    with pytest.raises(RuntimeError, match="this prompt"):
        ended(events[1])
    together.close()


def test_an_error_of_the_model_reaches_all_that_run_and_the_thread_goes_on(models, pictures, monkeypatch):
    model = models["causal"]
    request, together = endless(model, pictures[0]), scheduler(model)
    step, broken = Cohort.step, [True]

    def breaks(cohort):
        if len(cohort.rows) == 3 and broken.pop():
            raise torch.OutOfMemoryError("no memory")
        step(cohort)

    monkeypatch.setattr(Cohort, "step", breaks)
    waiting = [SimpleQueue() for _ in range(3)]
    for events in waiting:
        together.submit(request, events.put)
    for events in waiting:
        with pytest.raises(torch.OutOfMemoryError):
            ended(events)
    again = SimpleQueue()
    together.submit(request, again.put)
    assert ended(again).reason == "length"
    assert idle(together) or together.load().running == 0
    together.close()


def test_a_fault_of_the_scheduler_itself_leaves_nobody_waiting(models, pictures, monkeypatch):
    model = models["causal"]
    request, together = endless(model, pictures[0]), scheduler(model)
    deliver, broken = together._deliver, [True]

    def breaks(cohort):
        if broken:
            broken.pop()
            raise KeyError("a fault")
        deliver(cohort)

    monkeypatch.setattr(together, "_deliver", breaks)
    events = SimpleQueue()
    together.submit(request, events.put)
    with pytest.raises(KeyError):
        ended(events)
    again = SimpleQueue()
    together.submit(request, again.put)
    assert ended(again).reason == "length"
    together.close()


def test_a_join_that_fails_reaches_both_sides(models, pictures, monkeypatch):
    model = models["causal"]
    request, together = endless(model, pictures[0]), scheduler(model, step=1)
    monkeypatch.setattr(Cohort, "join", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    waiting = [SimpleQueue() for _ in range(2)]
    for events in waiting:
        together.submit(request, events.put)
    for events in waiting:
        with pytest.raises(torch.OutOfMemoryError):
            ended(events)
    wait(lambda: idle(together))
    together.close()


@pytest.mark.parametrize("finish", [True, False])
def test_closing_finishes_or_cancels(models, pictures, finish):
    model = models["causal"]
    request, together = endless(model, pictures[0]), scheduler(model, rows=1)
    waiting = [SimpleQueue() for _ in range(3)]
    for events in waiting:
        together.submit(request, events.put)
    together.close(finish)
    reasons = [ended(events).reason for events in waiting]
    assert reasons == ["length"] * 3 if finish else "cancelled" in reasons
    with pytest.raises(Closed):
        together.submit(request, print)
    assert not together._thread.is_alive()


def test_a_model_that_cannot_join_keeps_cohorts(models, pictures, monkeypatch):
    model = models["seq2seq"]
    begin = model.scheduler.reader.decoder
    together = scheduler(model, step=1)

    def apart(requests):
        decoder = begin(requests)
        decoder.joins = False
        return decoder

    monkeypatch.setattr(together.reader, "decoder", apart)
    most, step = [], together._step
    monkeypatch.setattr(together, "_step", lambda: (most.append(len(together._cohorts)), step()))
    answers = []
    for number in range(4):
        events = SimpleQueue()
        together.submit(model.ask(pictures[number], "what", max_new=12, seed=2).request, events.put)
        answers.append(events)
    texts = [ended(events).text for events in answers]
    assert max(most) > 1
    assert texts == [model.chat(pictures[n], "what", max_new=12, seed=2)[0] for n in range(4)]
    together.close()


def test_a_thousand_that_leave_hold_nothing(models, pictures):
    model = models["causal"]
    together = scheduler(model, rows=8, queue=64)
    request, events = endless(model, pictures[0]), SimpleQueue()
    for _ in range(1000):
        while True:
            try:
                ticket = together.submit(request, events.put)
                break
            except Busy:
                time.sleep(0.001)
        ticket.cancel()
    wait(lambda: idle(together), 60)
    assert together.load().answered == 1000
    assert together._cohorts == []
    together.close()
