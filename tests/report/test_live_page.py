"""The live page in a real Chromium: it updates by itself, zooms, compares, and asks no other host."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page
from report.made_runs import TOTAL, row, write_four, write_run
from report.test_live import served
from web.made_page import chromium

from vglm_train.log.jsonl import METRICS, to_line

ROOT = Path(__file__).resolve().parents[2]
DRAWN = "n => Number(document.body.dataset.drawn || 0) > n"
SCALE = "(title) => { const s = page.charts.get(title).plot.scales.x; return [s.min, s.max]; }"


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def window(browser):
    """Opens windows, in which nothing may go wrong."""
    problems, contexts = [], []

    def opening(url: str, **options: object) -> Page:
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1200, "height": 900}, **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        context.on("request", lambda request: request.url.startswith(url) or problems.append(request.url))
        context.on("weberror", lambda error: problems.append(str(error.error)))
        context.on("console", lambda told: told.type == "error" and problems.append(told.text))
        page = context.new_page()
        page.goto(url)
        page.wait_for_function(DRAWN, arg=0)
        return page

    yield opening
    for context in contexts:
        context.close()
    assert problems == []


def test_it_redraws_while_the_run_goes_on(tmp_path, window):
    write_run(tmp_path, "healthy", 5000)
    with served(tmp_path) as url:
        page = window(url)
        assert "learning" in page.locator("#health .line").inner_text()
        drawn = page.evaluate("Number(document.body.dataset.drawn)")
        with (tmp_path / METRICS).open("a") as file:
            for step in range(5050, 6001, 50):
                file.write(to_line(step, {**row(step, random.Random(step), "starved")}))
        page.wait_for_function(DRAWN, arg=drawn)
        assert page.evaluate(SCALE, "loss") == [0, 6000]
        page.wait_for_selector("#health .note.warn:has-text('Raise data.workers')")
        assert "starved" in page.locator("#health .line").inner_text()


def test_two_runs_are_compared(tmp_path, window):
    write_four(tmp_path)
    with served(tmp_path) as url:
        page = window(url)
        boxes = page.locator("#runs input")
        assert boxes.count() == 4
        drawn = page.evaluate("Number(document.body.dataset.drawn)")
        row_of = {name: page.locator(f"#runs tr:has(td.name:text-is('{name}'))") for name in ("healthy", "blind")}
        for each in row_of.values():
            each.locator("input").check()
        page.wait_for_function("() => document.querySelectorAll('#health article').length >= 2")
        page.wait_for_function(DRAWN, arg=drawn)
        legend = "() => page.charts.get('ITC loss').plot.root.innerText"
        page.wait_for_function(f"() => ['healthy', 'blind'].every(name => ({legend})().includes(name))")


def test_zoom_and_back(tmp_path, window):
    write_run(tmp_path, "healthy", TOTAL)
    with served(tmp_path) as url:
        page = window(url)
        chart = page.locator(".chart:has(figcaption:text-is('loss')) .u-over")
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60, steps=5)
        page.mouse.up()
        page.wait_for_function("() => page.charts.get('ITM loss (blind: 0.637)').plot.scales.x.max < 12000")
        low, high = page.evaluate(SCALE, "loss")
        assert 4000 < low < 6000
        assert 9000 < high < 11000
        assert page.evaluate(SCALE, "ITM loss (blind: 0.637)") == [low, high]
        steps = page.evaluate("() => page.charts.get('loss').plot.data[0].filter(step => step >= 5000 && step <= 6000)")
        assert set(range(5000, 6001, 50)) <= set(steps), "the part is drawn with all its rows"
        chart.dblclick()
        page.wait_for_function("() => page.charts.get('loss').plot.scales.x.max === 20000")
        page.click("#range [data-share='0.5']")
        page.wait_for_function("() => page.charts.get('loss').plot.scales.x.min === 10000")


def test_pictures_languages_and_themes(tmp_path, window):
    write_run(tmp_path, "healthy", TOTAL // 2)
    with served(tmp_path) as url:
        page = window(url, color_scheme="dark", locale="zh-CN")
        paper = "() => getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(paper)
        assert page.locator("#health .line").inner_text().startswith("正在学习；等待数据")
        page.click("#theme")  # dark
        assert page.evaluate(paper) == dark
        page.click("#theme")  # light
        assert page.evaluate(paper) != dark
        page.click("#language")
        assert page.locator("#health .line").inner_text().startswith("learning; waiting")
        pictures = page.locator("[data-section=Retrieval] img")
        pictures.first.scroll_into_view_if_needed()
        page.wait_for_function("() => document.querySelector('[data-section=Retrieval] img').naturalWidth > 0")
        page.select_option("[data-section=Retrieval] select", "4000")
        page.wait_for_function(
            "() => document.querySelector('[data-section=Retrieval]').innerText.includes('(step 4000)')"
        )


def test_a_phone_needs_no_sideways_scrolling(tmp_path, window):
    write_four(tmp_path)
    with served(tmp_path) as url:
        page = window(url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
        page.wait_for_selector("#verdict details")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.tap("#range [data-share='0.1']")
        page.wait_for_function("() => page.range !== null")


def test_the_command_and_a_page_that_outlives_it(tmp_path, browser):
    write_run(tmp_path / "a", "healthy", 1000)
    words = [sys.executable, "-m", "vglm_train.report", str(tmp_path), "--watch", "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    page = browser.new_page()
    try:
        assert process.stdout is not None
        page.goto(process.stdout.readline().split()[1])
        page.wait_for_function(DRAWN, arg=0)
        process.terminate()
        assert process.wait(20) == 0
        page.wait_for_selector("#fresh.lost")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        page.close()
