"""The blind page keeps answers, also across reloads and browsers, and knows who has seen those of the model."""

import json

import pytest
from blind_reader import answer, check_scores, ready, saved, skip_all

HIDE = """hidden => {
  Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


def test_a_reload_goes_on_where_it_was_and_time_is_counted(made, window, tmp_path):
    page = window(made, clock=True)
    page.click("#start")
    page.clock.run_for(3_000)
    page.evaluate(HIDE, True)
    page.clock.run_for(60_000)
    page.evaluate(HIDE, False)
    page.clock.run_for(4_000)
    answer(page, made.answers[0])
    page.clock.run_for(5_000)
    page.reload()
    ready(page)
    assert page.locator("#start").inner_text() == "Go on"
    page.click("#start")
    assert page.locator("[aria-current=true]").inner_text() == "2"
    for given in made.answers[1:]:
        page.clock.run_for(2_000)
        answer(page, given)
    page.click("#finish")
    page.wait_for_selector("#verdict")
    content = saved(page, tmp_path / "answers.json")
    seconds = [each["seconds"] for each in content["answers"]]
    assert seconds == pytest.approx([7, 7, *[2] * 8], abs=0.9)
    assert page.locator("#main").inner_text().count("2 s") >= 8
    page.reload()
    ready(page)
    page.wait_for_selector("#verdict")
    assert not page.locator("#start").count(), "no answer can be changed any more"


def test_answers_go_on_in_another_browser_by_a_file(made, window, tmp_path):
    first, path = window(made), tmp_path / "half.json"
    first.click("#start")
    for given in made.answers[:5]:
        answer(first, given)
    assert saved(first, path)["finished"] is False
    second = window(made)
    second.set_input_files("#file", path)
    second.wait_for_selector("#start:has-text('Go on')")
    second.click("#start")
    for given in made.answers[5:]:
        answer(second, given)
    second.click("#finish")
    second.wait_for_selector("#verdict")
    check_scores(saved(second, tmp_path / "whole.json")["scores"], made.expected(made.answers))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: {**content, "page": "another"},
        lambda content: {**content, "answers": content["answers"][1:]},
        lambda content: {**content, "answers": [{**each, "value": {"a": 1}} for each in content["answers"]]},
        lambda content: {**content, "answers": [{**each, "seconds": -1} for each in content["answers"]]},
        lambda content: {**content, "seen": "<b>"},
        lambda content: [content],
        lambda content: None,
    ],
)
def test_a_file_of_something_else_is_refused(made, window, tmp_path, spoil):
    page, path = window(made), tmp_path / "<b>other.json"
    content = saved(page, path)
    path.write_text(json.dumps(spoil(content)))
    page.set_input_files("#file", path)
    page.wait_for_selector("#told:has-text('<b>other.json holds no answers to this page')")
    page.click("#start")
    assert page.locator("[aria-current=true]").inner_text() == "1"


def test_who_has_seen_the_answers_is_told_so(made, window, tmp_path):
    page, half = window(made), tmp_path / "half.json"
    saved(page, half)
    skip_all(page)
    assert "not blind" not in page.locator("#main").inner_text()
    page.click("#again")
    skip_all(page)
    assert "shown before in this browser: 1 ×. This reading was not blind" in page.locator("#main").inner_text()
    page.set_input_files("#file", half)
    page.wait_for_selector("#start")
    skip_all(page)
    assert "shown before in this browser: 2 ×" in page.locator("#main").inner_text()
    page.click("#another")
    skip_all(page)
    assert "not blind" not in page.locator("#main").inner_text()


def test_where_the_browser_keeps_nothing_it_says_so(made, window):
    blocked = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no'); } })"
    page = window(made, script=blocked)
    assert "Save them before you close" in page.locator("#kept").inner_text()
    skip_all(page)
    assert "No question was answered" in page.locator("#main").inner_text()
