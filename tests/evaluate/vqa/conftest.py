"""Blind pages, and windows of a real Chromium that open them from a file."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from made_blind import MadePage

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from web.made_page import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadePage:
    return MadePage(tmp_path_factory.mktemp("blind"))


@pytest.fixture(scope="module")
def made_report(tmp_path_factory: pytest.TempPathFactory) -> MadePage:
    return MadePage(tmp_path_factory.mktemp("blind"), "report")


@pytest.fixture
def window(browser: Any) -> Iterator[Callable[..., "Page"]]:
    """Opens windows, which may ask nobody and in which nothing may go wrong."""
    problems: list[str] = []
    contexts: list[Any] = []

    def opening(of: MadePage, clock: bool = False, script: str = "", **options: Any) -> "Page":
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1200, "height": 900}, **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        context.on(
            "request", lambda asked: asked.url.startswith(("file:", "data:", "blob:")) or problems.append(asked.url)
        )
        context.on("weberror", lambda error: problems.append(str(error.error)))
        context.on("console", lambda told: told.type == "error" and problems.append(told.text))
        if script:
            context.add_init_script(script)
        page = context.new_page()
        if clock:
            page.clock.install()
        page.goto(of.file.as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield opening
    for context in contexts:
        context.close()
    assert problems == []
