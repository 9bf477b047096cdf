"""Bundles and pictures are those of the tests of chat, models those of the tests of serve."""

from collections.abc import Callable, Iterator

import pytest
from chat.conftest import bundles, models, pictures  # noqa: F401  (fixtures)
from playwright.sync_api import Browser
from serve.conftest import made  # noqa: F401
from web.made_page import Served, Watched, chromium, held, page_of  # noqa: F401

from vglm_train.chat.model import ChatModel


@pytest.fixture(scope="session")
def served(made: Callable[..., ChatModel]) -> Iterator[Served]:  # noqa: F811
    """The page of a decoder-only model, without a token: one for all files, since Gradio takes long to build it."""
    with page_of(made(), max_new=12) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for a file: while playwright runs, no test in this thread could begin an event loop."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def windows(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Opens windows of a page; afterwards nothing may have gone wrong in them."""
    opened: list[Watched] = []

    def window(served: Served, **options: object) -> Watched:
        opened.append(Watched(browser, served, **options))
        return opened[-1]

    yield window
    assert [problem for each in opened for problem in each.close()] == []
