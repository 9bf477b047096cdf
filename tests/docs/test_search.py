"""The search box of the Chinese pages, in a browser: a query is cut as the pages are."""

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from web.made_page import chromium

from docs.search import ChineseSearch

ROOT = Path(__file__).resolve().parents[2]
INDEX = "# 文档\n\n```{toctree}\nbalance\nmetrics\n```\n"
BALANCE = "# 混合来源\n\n两种语言各占一半，用 `data.balance` 设定。\n"
METRICS = "# 指标名称\n\n`eval/zh_i2t_r1` 是前 1 名召回率。服务器没有应答时计为 unreachable。\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a site of two pages that is built as `make docs` builds the Chinese one."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name, text in (("index", INDEX), ("balance", BALANCE), ("metrics", METRICS)):
        (source / f"{name}.md").write_text(text, "utf-8")
    options = ["-q", "-W", "-E", "-b", "html", "-c", "docs", "-D", "language=zh_CN"]
    subprocess.run([sys.executable, "-m", "sphinx", *options, source, site], cwd=ROOT, check=True, timeout=300)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(30)
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


def found(browser: Browser, address: str, query: str) -> list[str]:
    """Titles of the results, once the page says that it has searched."""
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    page.fill("input.sidebar-search", query)
    page.press("input.sidebar-search", "Enter")
    page.wait_for_function("/完成|没有匹配/.test(document.querySelector('p.search-summary')?.innerText ?? '')")
    titles = page.locator("#search-results ul.search li > a").all_inner_texts()
    page.close()
    return titles


@pytest.mark.parametrize(
    ("query", "titles"),
    [
        ("语言", ["混合来源"]),
        ("两种语言各占一半", ["混合来源"]),  # of several words
        ("言各", ["混合来源"]),  # across what a dictionary takes for words
        ("召回率", ["指标名称"]),
        ("eval/zh_i2t_r1", ["指标名称"]),
        ("服务器 unreachable", ["指标名称"]),
        ("服务器unreachable", ["指标名称"]),
        ("eval/zh_i2t_r1 是什么", ["指标名称"]),
        ("balance", ["混合来源"]),
        ("占语言", ["混合来源"]),  # single characters are left out beside words
        ("怎样设定语言来源", ["混合来源"]),  # words in another order, and one that only asks
        ("半各", []),  # both characters, but not beside each other
    ],
)
def test_a_query_finds_its_page(browser, address, query, titles):
    assert found(browser, address, query) == titles


def test_a_page_is_found_under_characters_and_pairs():
    assert ChineseSearch({}).split("训练GPU：r_1 中") == ["训", "练", "训练", "GPU", "r_1", "中"]
