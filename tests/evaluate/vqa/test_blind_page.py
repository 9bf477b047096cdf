"""The blind page in a real Chromium, from a file: it scores as the evaluation does, and keeps answers."""

import gzip
import json
import random
import re
import unicodedata
from base64 import b64decode

import pytest
from made_blind import EVIL, SKIP, MadePage
from playwright.sync_api import Page
from web.made_page import chromium

from vglm_train.evaluate.metrics import answers, vqav2
from vglm_train.evaluate.metrics.answers import commonest
from vglm_train.evaluate.vqa.blind import rules

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
SCORES = """content => {
  const [rules, pairs] = JSON.parse(content), scorer = new Scorer(rules);
  const found = ([one, other]) => [scorer.normalised(one), scorer.spoken(one), scorer.overlap(one, other)];
  return JSON.stringify(pairs.map(found));
}"""

HIDE = """hidden => {
  Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> MadePage:
    return MadePage(tmp_path_factory.mktemp("blind"))


@pytest.fixture(scope="module")
def made_report(tmp_path_factory) -> MadePage:
    return MadePage(tmp_path_factory.mktemp("blind"), "report")


@pytest.fixture
def window(browser):
    """Opens windows, which may ask nobody and in which nothing may go wrong."""
    problems, contexts = [], []

    def opening(of: MadePage, clock: bool = False, script: str = "", **options) -> Page:
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
        ready(page)
        return page

    yield opening
    for context in contexts:
        context.close()
    assert problems == []


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


def test_words_are_compared_as_the_evaluation_compares_them(made, window):
    """Every letter that Python knows below the rarer Chinese ones, and texts of what the rules are about."""
    usual = [*range(0x4E10), *range(0x9F00, 0xAC10), *range(0xD790, 0x20010)]
    letters = [chr(code) for code in usual if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
    thirds = zip(letters[::3], letters[1::3], letters[2::3])
    texts = [f"The {one}{two}{three}'s 1{one}5, a{two} {three}." for one, two, three in thirds]
    rng = random.Random(0)
    pieces = [
        *"aA.,'’?!;/()[]{}\"=+\\_-><@` \t\u3000\u00a0\x1c\x85ßİΣς", "ſ", "ﬁ", "Ａ", "１", "²", "½", "Ⅳ", *"是红不",
        "1.5", "1,000", "dont", "wont", "the ", " an", "none", " two", "its", "youre", "constructor", "toString", "肺 ",
        "e\u0301", "x-ray", "10", "no.",
    ]  # fmt: skip
    texts += ["".join(rng.choices(pieces, k=rng.randint(1, 9))) for _ in range(4000)]
    others = [" ".join(rng.choices(text.split() or [""], k=4)) for text in texts]
    content = json.dumps([rules(), list(zip(texts, others))])
    found = json.loads(window(made).evaluate(SCORES, content))
    assert len(found) == len(texts) > 12_000
    expected = [
        [answers.normalised(text), vqav2.normalised(text), list(answers.overlap(text, other))]
        for text, other in zip(texts, others)
    ]
    wrong = [(ascii(text), own, right) for text, own, right in zip(texts, found, expected) if own != right]
    assert wrong[:3] == []


def test_a_person_gets_the_scores_of_the_evaluation(made, window, tmp_path):
    page = window(made)
    read_all(page, made.answers)
    content = saved(page, tmp_path / "answers.json")
    check_scores(content["scores"], made.expected(made.answers))
    assert {"accuracy", "closed", "exact", "recall", "f1", "v2"} == content["scores"].keys()
    shown = page.locator("#main").inner_text()
    assert "9 of 10 questions answered; 1 skipped" in shown
    accuracy = content["scores"]["accuracy"]
    assert f"accuracy: you {accuracy['you']['value']:.1f} %, the model {accuracy['model']['value']:.1f} %" in shown
    assert "made for a test" in page.locator("#verdict").inner_text()


def test_all_right_is_as_sure_as_patients_are_many(made, window, tmp_path):
    """100 per cent has an interval too, which depends on how many patients there are, not questions."""
    page = window(made)
    right = [commonest(made.items[index].answers) for index in made.order]
    right = ["否" if answer == "不是" else answer for answer in right]
    read_all(page, right)
    found = saved(page, tmp_path / "answers.json")["scores"]
    check_scores(found, made.expected(right))
    assert found["accuracy"]["you"]["value"] == 100
    assert found["accuracy"]["you"]["ends"][0] == pytest.approx(100 * 0.025 ** (1 / 7))


def test_marked_findings_get_the_scores_of_reports(made_report, window, tmp_path):
    page = window(made_report)
    read_all(page, made_report.answers)
    found = saved(page, tmp_path / "answers.json")["scores"]
    expected = made_report.expected(made_report.answers)
    assert found.keys() == {"finding_recall", "finding_precision", "normal", "normal_truth"}
    for name in ("recall", "f1", "finding_side"):  # of texts, and of sides, which nobody marks
        expected.scores.pop(name, None)
    check_scores(found, expected)
    assert "marked by yourself" in page.locator(".case").first.inner_text()


@pytest.mark.parametrize("given", [[SKIP] * 10, ["yes", *[SKIP] * 9]])
def test_nearly_all_skipped(made, window, given, tmp_path):
    order = [made.items[index].key for index in made.order]
    at = order.index("q0")
    given = [given[0] if n == at else SKIP for n in range(10)]
    page = window(made)
    read_all(page, given)
    shown = page.locator("#main").inner_text()
    if given[at] is SKIP:
        assert "No question was answered" in shown
        assert not page.locator("#scores").count()
    else:
        check_scores(saved(page, tmp_path / "answers.json")["scores"], made.expected(given))
        assert "too few to tell, 1 patients or pictures" in shown


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
