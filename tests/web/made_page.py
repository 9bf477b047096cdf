"""A page of a tiny model in this process, and a browser that looks at it."""

import asyncio
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from vglm_train.access import Access, address, bind
from vglm_train.chat.cohort import Cohort
from vglm_train.chat.model import ChatModel
from vglm_train.chat.sampling import Sampling
from vglm_train.web.conversation import Conversation
from vglm_train.web.notice import Notice
from vglm_train.web.pages import Pages
from vglm_train.web.server import Server, build_app, configure

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
TOKEN = "a-token-of-this-test-0123456789"


@dataclass
class Served:
    """A page on a free port."""

    url: str
    model: ChatModel
    pages: Pages
    over: bool = False

    def conversation(self) -> Conversation:
        """That of the page which was used last."""
        return next(reversed(self.pages._open.values()))


@contextlib.contextmanager
def page_of(
    model: ChatModel,
    notice: Notice = Notice(False, None),  # noqa: B008
    token: str | None = None,
    capacity: int = 20,
    **sampling: Any,
) -> Iterator[Served]:
    """The page in a thread, as the command runs it."""
    pages = Pages(model, capacity)
    app = build_app(pages, notice, Sampling(**sampling), Access("127.0.0.1", token))
    listener = bind("127.0.0.1", 0)
    server = Server(configure(app), pages)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        served = Served(address(listener), model, pages)
        yield served
        served.over = True
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        listener.close()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Skips where there is none, but fails in CI, which installs it."""
    path = shutil.which("chromium")
    if path is None:
        assert not os.environ.get("CI"), "chromium is missing"
        pytest.skip("no chromium on this machine; CI has one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class Watched:
    """A browser's window. It must ask no other host, and nothing may go wrong in it."""

    def __init__(self, browser: Browser, served: Served, **options: Any) -> None:
        self.context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1000, "height": 800}, **options})
        self.context.set_default_timeout(20_000)
        self.served, self.problems = served, []  # type: ignore[var-annotated]
        self.context.on("request", lambda request: self._check(request.url))
        self.context.on("weberror", lambda error: self.problems.append(str(error.error)))
        self.context.on("console", lambda told: told.type == "error" and self.problems.append(told.text))

    def open(self, path: str = "/") -> Page:
        page = self.context.new_page()
        page.on("filechooser", lambda _: None)  # playwright begins to catch these a little after it is asked to
        page.goto(self.served.url + path)
        page.wait_for_selector("#strip")
        return page

    def close(self) -> list[str]:
        """What went wrong. That a server which has ended hung up is nothing."""
        self.context.close()
        lost = "ERR_INCOMPLETE_CHUNKED_ENCODING" if self.served.over else "\0"
        return [each for each in self.problems if lost not in each]

    def _check(self, url: str) -> None:
        if not url.startswith((self.served.url + "/", "data:", "blob:")):
            self.problems.append(f"another host was asked: {url}")


def add_pictures(page: Page, *paths: Path) -> None:
    """As a person: the button, the dialogue for files, and then they are seen."""
    before = page.locator("#strip li").count()
    with page.expect_file_chooser() as chooser:
        page.click("#strip [data-pick=files]")
    chooser.value.set_files(list(paths))
    page.wait_for_function(f"document.querySelectorAll('#strip li').length == {before + len(paths)}")


def ask(page: Page, question: str) -> str:
    """The whole answer."""
    before = page.locator("#past section").count()
    page.fill("#question textarea", question)
    page.press("#question textarea", "Enter")
    page.wait_for_function(f"document.querySelectorAll('#past section').length == {before + 1}")
    return last_answer(page)


def last_answer(page: Page) -> str:
    return page.locator("#past .answered .text").last.text_content() or ""


def told(page: Page, text: str) -> None:
    """Wait until the line below the conversation says this."""
    page.wait_for_function("text => document.querySelector('#told')?.textContent.includes(text)", arg=text)


def until(true: Callable[[], bool]) -> None:
    """Wait for what the server's threads do by themselves."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Answers stay at their first token until they are cancelled, or the event is set."""
    free, step = threading.Event(), Cohort.step

    def waiting(cohort: Cohort) -> None:
        until(lambda: free.is_set() or any(row.cancelled for row in cohort.rows))
        step(cohort)

    monkeypatch.setattr(Cohort, "step", waiting)
    yield free
    free.set()
