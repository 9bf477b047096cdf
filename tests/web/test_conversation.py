"""Conversations without a browser: what they keep, and for how long."""

import asyncio

import numpy as np
import pytest
from made_dicom import PLANTED, make_dicom
from web.made_page import held  # noqa: F401

from vglm_train.chat.sampling import Sampling
from vglm_train.errors import UserError
from vglm_train.web import pages as pages_module
from vglm_train.web.conversation import REMEMBERED, Conversation
from vglm_train.web.pages import FRESH, IDLE, LEFT, Pages

SHORT = Sampling(max_new=3)


async def answer(conversation: Conversation, question: str = "what is this", sampling: Sampling = SHORT) -> str:
    return [exchange async for exchange in conversation.ask(question, sampling)][-1].answer


@pytest.fixture
def pages(models):
    return Pages(models["causal"], capacity=3)


def test_who_makes_room_for_a_new_page(pages, pictures):
    async def run() -> None:
        await pages.begin("used").add(pictures[0].read_bytes())
        await pages.begin("used later").add(pictures[0].read_bytes())
        pages.begin("opened long ago").seen -= FRESH
        pages.begin("new")
        assert pages.find("opened long ago") is None
        pages.begin("newest")
        assert list(pages._open) == ["used later", "new", "newest"]

    asyncio.run(run())


def test_a_dicom_is_shown_and_asked_about(pages):
    async def run() -> None:
        conversation = pages.begin("page")
        data = make_dicom(np.arange(600, dtype=np.uint16).reshape(20, 30))
        shown = await conversation.add(data)
        assert shown.jpeg[:2] == b"\xff\xd8"
        assert [word for word in PLANTED if word.encode() in shown.jpeg] == []
        assert await answer(conversation)
        assert conversation.exchanges[0].pictures == (shown,)
        with pytest.raises(UserError, match="DICOM that is cut short"):
            await conversation.add(data[:-20])

    asyncio.run(run())


def test_one_that_is_being_answered_keeps_its_place(pages, held):  # noqa: F811
    async def run() -> None:
        conversation = pages.begin("first")
        answers = conversation.ask("what is this", SHORT)
        await anext(answers)
        for number in range(5):
            pages.begin(f"other{number}")
        assert pages.find("first") is conversation
        await answers.aclose()
        assert not conversation.writing
        assert conversation.exchanges[0].reason == "cancelled"

    asyncio.run(run())


def test_what_nobody_uses_ends(pages, monkeypatch):
    async def run() -> None:
        now = 1000.0
        monkeypatch.setattr(pages_module.time, "monotonic", lambda: now)
        for name in ("left", "returned", "idle"):
            pages.begin(name).seen = now
            pages.find(name)
        pages.leave("left")
        pages.leave("returned")
        pages.find("returned")
        now += LEFT + 1
        pages.sweep()
        assert list(pages._open) == ["idle", "returned"]
        now += IDLE
        pages.sweep()
        assert len(pages) == 0

    asyncio.run(run())


def test_a_failed_answer_leaves_all_as_it_was(pages, pictures, monkeypatch):
    async def run() -> None:
        conversation = pages.begin("one")
        await conversation.add(pictures[0].read_bytes())
        first = await answer(conversation)
        await conversation.add(pictures[1].read_bytes())
        with monkeypatch.context() as patch:
            patch.setattr("vglm_train.chat.cohort.Cohort.step", lambda cohort: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await answer(conversation)
            with pytest.raises(ZeroDivisionError):
                _ = [each async for each in conversation.again(SHORT)]
        assert [exchange.answer for exchange in conversation.exchanges] == [first]
        assert len(conversation.waiting) == 1
        assert not conversation.writing
        _, history = pages.model.chat(pictures[0], "what is this", max_new=3)
        assert await answer(conversation, "red") == pages.model.chat(pictures[1], "red", history, max_new=3)[0]

    asyncio.run(run())


def test_clearing_while_an_answer_is_written(pages, pictures, held):  # noqa: F811
    async def run() -> None:
        pages.model.features.forget(list(pages.model.features._kept))
        conversation = pages.begin("one")
        await conversation.add(pictures[0].read_bytes())
        answers = conversation.ask("what is this", SHORT)
        await anext(answers)
        conversation.clear()
        assert [each async for each in answers] == []
        assert conversation.empty
        assert len(pages.model.features) == 0

    asyncio.run(run())


def test_a_long_conversation_does_not_grow(pages):
    async def run() -> None:
        conversation = pages.begin("long")
        for _ in range(REMEMBERED + 3):
            await answer(conversation, "no", Sampling(max_new=1))
        assert len(conversation.exchanges) == REMEMBERED

    asyncio.run(run())
