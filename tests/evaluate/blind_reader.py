"""A person at the blind page: answers, saves, and gets scores."""

import json

import pytest
from made_blind import SKIP
from playwright.sync_api import Page


def ready(page: Page) -> None:
    page.wait_for_selector("body[data-ready]")


def answer(page: Page, given: object) -> None:
    """Answer the question that is shown, and go on."""
    if given is SKIP:
        page.click("#skip")
        return
    if isinstance(given, list):
        for name in given or ["none"]:
            page.check(f".choices input[value='{name}']")
    elif page.locator(".choices").count():
        page.check(f".choices input[value='{given}']")
    else:
        page.fill("#answer", str(given))
    page.click("#next")


def read_all(page: Page, given: list[object]) -> None:
    page.click("#start")
    for each in given:
        answer(page, each)
    page.click("#finish")
    page.wait_for_selector("#verdict")


def skip_all(page: Page) -> None:
    page.click("#start")
    page.click("#end")
    page.click("#finish")
    page.wait_for_selector("#verdict")


def saved(page: Page, path) -> dict:
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(path)
    return json.loads(path.read_text("utf-8"))


def check_scores(found: dict, expected) -> None:
    """`found`: the page's; each value, interval, difference and its interval is the evaluation's own."""
    names = {"you": "model", "model": "shuffled", "majority": "majority"}
    assert found.keys() == {metric for metric, row in expected.scores.items() if "model" in row or metric in found}
    for metric, row in found.items():
        assert {names[system] for system in row} == expected.scores[metric].keys()
        for system, score in row.items():
            wanted = expected.scores[metric][names[system]]
            assert [score["value"], *(score["ends"] or [])] == pytest.approx(numbers(wanted), abs=1e-9)
            if system != "you" and "you" in row:
                gain = expected.gains[metric][names[system]]
                assert [score["gain"], *(score["gainEnds"] or [])] == pytest.approx(numbers(gain), abs=1e-9)


def numbers(score) -> list[float]:
    return [value for value in (score.value, score.low, score.high) if value is not None]
