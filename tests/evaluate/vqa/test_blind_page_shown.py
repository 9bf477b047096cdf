"""What the blind page shows, in which language, on which device, and what it runs."""

import gzip
import json
import re
from base64 import b64decode

import pytest
from blind_reader import answer, read_all, ready, saved
from made_blind import EVIL

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def test_answers_are_not_seen_before(made, window):
    source = made.file.read_text("utf-8")
    sealed = re.search(r'id="sealed">([^<]+)<', source)
    assert sealed
    content = json.loads(gzip.decompress(b64decode(sealed[1])))
    assert {truth["commonest"] for truth in content["truths"]} >= {"PA", "红色"}
    outside = source.replace(sealed[1], "")
    for secret in ("posteroanterior", "\\u7ea2\\u8272", "红色", "a large nodule", "the left lung", "made for a test"):
        assert secret not in outside
    page = window(made)
    page.click("#start")
    for given in made.answers:
        seen = page.content().replace(sealed[1], "")
        assert "posteroanterior" not in seen
        assert "made for a test" not in seen
        answer(page, given)


def test_texts_stay_texts(made, window):
    """No markup of a question, an answer or a reference becomes part of the page."""
    page = window(made)
    read_all(page, made.answers)
    assert page.title() == "Answer before the model"
    assert page.locator("#main img[src=x]").count() == 0
    own = page.locator(".case", has=page.locator(".question", has_text=EVIL)).locator("td")
    assert own.first.inner_text() == EVIL


def test_only_its_own_script_runs(made, browser):
    """The page's policy stops a script that somehow got into it."""
    page = browser.new_page()
    page.goto(made.file.as_uri())
    ready(page)
    page.evaluate("""() => {
      document.body.insertAdjacentHTML('beforeend', `<img src="data:," onerror="window.taken = 1">`);
      const script = document.createElement('script'); script.textContent = 'window.taken = 1';
      document.body.append(script);
    }""")
    with pytest.raises(Exception, match=r"Failed to fetch"):
        page.evaluate("fetch('http://127.0.0.1:9/')")
    assert page.evaluate("window.taken") is None
    page.close()


def test_languages_and_themes(made, window):
    page = window(made, locale="zh-CN", color_scheme="dark")
    paper = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    assert page.locator("#title").inner_text() == "先于模型作答"
    page.click("#theme")  # dark
    assert page.evaluate(paper) == dark
    page.click("#theme")  # light
    assert page.evaluate(paper) != dark
    read_all(page, made.answers)
    assert "您的分数与模型的分数" in page.locator("#main").inner_text()
    page.click("#language")
    assert "Your score beside the model's" in page.locator("#main").inner_text()
    assert "{" not in page.locator("#main").inner_text()


def test_both_languages_have_all_words(made, window):
    page = window(made)
    assert page.evaluate("Object.keys(WORDS.en)") == page.evaluate("Object.keys(WORDS.zh)")
    blanks = "language => Object.values(WORDS[language]).map(text => (text.match(/\\{\\w+\\}/g) ?? []).sort().join())"
    assert page.evaluate(blanks, "en") == page.evaluate(blanks, "zh")


@pytest.mark.parametrize("task", ["vqa", "report"])
def test_a_phone_needs_no_sideways_scrolling_to_answer(made, made_report, window, task):
    of = made if task == "vqa" else made_report
    page = window(of, **PHONE)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 390
    page.tap("#start")
    for given in of.answers:
        assert page.evaluate(width) <= 390
        answer(page, given)
    assert page.evaluate(width) <= 390
    page.tap("#finish")
    page.wait_for_selector("#verdict")
    assert page.evaluate(width) <= 390


def test_the_keyboard_is_enough(made, window, tmp_path):
    page = window(made)
    page.focus("#start")
    page.keyboard.press("Enter")
    page.keyboard.press("Space")  # left
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")  # no
    page.keyboard.press("Enter")
    page.keyboard.type("in the lobe")
    page.keyboard.press("Enter")
    assert page.locator("[aria-current=true]").inner_text() == "4"
    found = saved(page, tmp_path / "answers.json")["answers"]
    assert [each["value"] for each in found[:4]] == ["left", "否", "in the lobe", None]


def test_pictures_are_enlarged(made, window):
    page = window(made)
    page.click("#start")
    assert page.evaluate("document.querySelector('.reading img').naturalWidth") == 1024
    page.locator(".reading .picture").click()
    size = "() => document.querySelector('#zoom img').getBoundingClientRect().width"
    whole = page.evaluate(size)
    page.click("#larger")
    assert page.evaluate(size) == pytest.approx(1.5 * whole, abs=2)
    page.locator("#zoom .field").hover()
    page.mouse.wheel(0, -100)
    page.wait_for_function(f"{size[6:]} > {1.7 * whole}")
    field = page.locator("#zoom .field").bounding_box()
    scrolled = "() => document.querySelector('#zoom .field').scrollLeft"
    before = page.evaluate(scrolled)
    page.mouse.move(field["x"] + 500, field["y"] + 300)
    page.mouse.down()
    page.mouse.move(field["x"] + 400, field["y"] + 300, steps=4)
    page.mouse.up()
    assert page.evaluate(scrolled) == pytest.approx(before + 100, abs=2)
    page.fill("#zoom [name=contrast]", "200")
    assert "contrast(200%)" in page.evaluate("document.querySelector('#zoom img').style.filter")
    page.keyboard.press("Escape")
    page.wait_for_selector("#zoom", state="detached")
