"""The page in a real Chromium, of which each window watches that no other host is asked."""

import re

import httpx
import pytest
from web.made_page import TOKEN, add_pictures, ask, last_answer, page_of, told, until

from vglm_train.web.notice import Notice

QUESTIONS = ("what is this", "which colour is that")


@pytest.fixture(autouse=True)
def _clean(request):
    """Each test finds a page that nobody has used."""
    yield
    if "served" in request.fixturenames:
        served = request.getfixturevalue("served")
        for session in list(served.pages._open):
            served.pages.leave(session)
        until(lambda: served.model.load().running == 0)


def test_two_questions_as_from_python(served, windows, pictures):
    page = windows(served).open()
    add_pictures(page, pictures[0], pictures[1])
    found = [ask(page, question) for question in QUESTIONS]
    assert page.locator("#strip li").count() == 0
    assert page.locator("#past .asked").first.locator("img").count() == 2
    first, history = served.model.chat([pictures[0], pictures[1]], QUESTIONS[0], max_new=12)
    second, _ = served.model.chat(None, QUESTIONS[1], history, max_new=12)
    alone, _ = served.model.chat(None, QUESTIONS[1], max_new=12)
    assert found == [first, second]
    assert second != alone  # the history and its pictures count


def test_a_picture_in_a_later_turn(served, windows, pictures):
    page = windows(served).open()
    add_pictures(page, pictures[0])
    ask(page, QUESTIONS[0])
    add_pictures(page, pictures[2])
    found = ask(page, QUESTIONS[1])
    _, history = served.model.chat(pictures[0], QUESTIONS[0], max_new=12)
    assert found == served.model.chat(pictures[2], QUESTIONS[1], history, max_new=12)[0]


def test_answer_again_adds_one_to_the_seed(served, windows, pictures):
    page = windows(served).open()
    add_pictures(page, pictures[0])
    before = ask(page, QUESTIONS[0])
    page.click("#again")
    page.wait_for_function("text => document.querySelector('#past .answered .text')?.textContent != text", arg=before)
    until(lambda: not served.conversation().writing)
    page.wait_for_function("document.querySelector('#now').textContent.trim() == ''")
    again, history = served.model.chat(pictures[0], QUESTIONS[0], max_new=12, seed=1)
    assert last_answer(page) == again != before
    assert page.locator("#past section").count() == 1
    assert ask(page, QUESTIONS[1]) == served.model.chat(None, QUESTIONS[1], history, max_new=12, seed=1)[0]


def test_the_settings_count(served, windows, pictures):
    page = windows(served).open()
    page.click("#settings button")
    page.fill("#max_new input[type=number]", "5")
    page.fill("#temperature input[type=number]", "0")
    page.press("#temperature input[type=number]", "Tab")
    for name, value in (
        ("max_new", "5"),
        ("temperature", "0"),
    ):  # Gradio takes a number over a moment after it is typed
        page.wait_for_function(
            "([name, value]) => document.querySelector(`#${name} input[type=range]`).value === value", arg=[name, value]
        )
    add_pictures(page, pictures[0])
    assert ask(page, QUESTIONS[0]) == served.model.chat(pictures[0], QUESTIONS[0], max_new=5, temperature=0)[0]


def test_clear_forgets_everything(served, windows, pictures):
    page = windows(served).open()
    served.model.features.forget(list(served.model.features._kept))
    add_pictures(page, pictures[0])
    ask(page, QUESTIONS[0])
    add_pictures(page, pictures[1])
    address = page.locator("#past .asked img").get_attribute("src")
    assert httpx.get(f"{served.url}/{address}").status_code == 200
    assert len(served.model.features) == 1
    page.click("#clear")
    told(page, "A new conversation")
    assert page.locator("#past section, #strip li").count() == 0
    assert len(served.model.features) == 0
    assert served.conversation().empty
    assert httpx.get(f"{served.url}/{address}").status_code == 404
    assert ask(page, QUESTIONS[1]) == served.model.chat(None, QUESTIONS[1], max_new=12)[0]


def test_a_second_tab_is_a_conversation_of_its_own(served, windows, pictures):
    window = windows(served)
    first, second = window.open(), window.open()
    add_pictures(first, pictures[0])
    ask(first, QUESTIONS[0])
    assert second.locator("#past section, #strip li").count() == 0
    assert ask(second, QUESTIONS[1]) == served.model.chat(None, QUESTIONS[1], max_new=12)[0]
    second.click("#clear")
    told(second, "A new conversation")
    assert first.locator("#past section").count() == 1
    assert ask(first, QUESTIONS[1]) != ""


def test_stop_ends_the_answer_within_one_step(served, windows, held):
    page = windows(served).open()
    before = served.model.load().new_tokens
    page.fill("#question textarea", QUESTIONS[0])
    page.click("#send")
    page.wait_for_selector("#now section")
    page.click("#stop")
    page.wait_for_selector("#past section")
    assert "stopped" in page.inner_text("#past")
    assert served.model.load().new_tokens - before <= 2
    held.set()
    assert ask(page, QUESTIONS[1]) != ""


def test_a_page_that_is_closed_stops_its_answer(served, windows, held):
    window = windows(served)
    page = window.open()
    page.fill("#question textarea", QUESTIONS[0])
    page.click("#send")
    page.wait_for_selector("#now section")
    assert served.model.load().running == 1
    page.close()
    until(lambda: served.model.load().running == 0)
    assert not held.is_set()
    assert served.conversation().left is not None


def test_one_question_at_a_time(served, windows, held):
    page = windows(served).open()
    page.fill("#question textarea", QUESTIONS[0])
    page.press("#question textarea", "Enter")
    page.wait_for_selector("#now section")
    page.fill("#question textarea", QUESTIONS[1])
    page.press("#question textarea", "Enter")
    told(page, "still being answered")
    assert page.input_value("#question textarea") == QUESTIONS[1]
    held.set()
    page.wait_for_selector("#past section")


def test_a_full_queue_says_when_to_come_back(made, windows, held):
    with page_of(made(rows=1, queue=1), max_new=4) as full:
        window = windows(full, locale="zh-CN")
        for waiting in (0, 1):
            page = window.open()
            page.fill("#question textarea", QUESTIONS[0])
            page.press("#question textarea", "Enter")
            until(lambda count=waiting: full.model.load().running == 1 and full.model.load().waiting == count)
        page = window.open()
        page.fill("#question textarea", QUESTIONS[1])
        page.press("#question textarea", "Enter")
        told(page, "现在提问的人较多")
        assert page.input_value("#question textarea") == QUESTIONS[1]
        held.set()
        assert ask(page, QUESTIONS[1]) != ""


def test_the_language_is_the_browsers_and_can_be_switched(served, windows):
    page = windows(served, locale="zh-CN").open()
    page.wait_for_selector("text=看图对话")
    assert page.inner_text("#clear") == "清除"
    assert page.evaluate("document.documentElement.lang") == "zh"
    page.click("#language")
    page.wait_for_selector("text=Talk about pictures")
    assert page.inner_text("#clear") == "Clear"
    assert page.evaluate("document.documentElement.lang") == "en"
    page.press("#question textarea", "Enter")
    told(page, "Add a picture or write a question first.")


def test_the_keyboard_is_enough(served, windows, pictures):
    page = windows(served).open()
    focused = "document.activeElement"
    names: list[str] = []
    page.focus("#language")
    for number in range(14):
        page.keyboard.press("Tab") if number else None
        names.append(page.evaluate(f"{focused}.closest('[id]:not(textarea):not(input)')?.id || ''"))
        if names[-1] in ("settings", ""):
            break
        seen = page.evaluate(f"getComputedStyle({focused}).outlineStyle")
        assert seen != "none", names
        if page.evaluate(f"{focused}.dataset.pick") == "files":
            with page.expect_file_chooser() as chooser:
                page.keyboard.press("Enter")
            chooser.value.set_files([pictures[0]])
            page.wait_for_selector("#strip li img")
            page.focus("#conversation")
            add = page.locator("#strip [data-pick=files]")
            page.keyboard.press("Tab")
            assert add.evaluate("element => element == document.activeElement")
        if names[-1] == "question":
            page.keyboard.type(QUESTIONS[0])
            page.keyboard.press("Enter")
            page.wait_for_selector("#past section")
    order = [name for number, name in enumerate(names) if name not in names[:number]]
    assert order == ["language", "conversation", "strip", "question", "send", "stop", "again", "clear", "settings"]
    assert last_answer(page) == served.model.chat(pictures[0], QUESTIONS[0], max_new=12)[0]


def test_everything_has_a_name_for_readers_of_the_screen(served, windows, pictures):
    page = windows(served).open()
    page.click("#settings button")
    add_pictures(page, pictures[0])
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, img')].filter(each => each.checkVisibility()
        && !(each.ariaLabel || each.alt || each.textContent.trim() || each.title || each.labels?.[0]?.textContent.trim()
        )).map(each => each.outerHTML)"""
    )
    assert nameless == []
    assert page.get_attribute("#conversation", "role") == "log"


def test_enter_that_chooses_a_word_of_pinyin_sends_nothing(served, windows):
    page = windows(served).open()
    page.fill("#question textarea", "zhe shi")
    page.evaluate(
        """() => document.querySelector('#question textarea').dispatchEvent(
        new KeyboardEvent('keydown', {key: 'Enter', keyCode: 229, isComposing: true, bubbles: true}))"""
    )
    ask(page, QUESTIONS[0])
    assert page.locator("#past section").count() == 1
    assert page.locator("#past .asked .text").all_text_contents() == [QUESTIONS[0]]


def test_no_sideways_scroll_on_a_phone(served, windows, pictures):
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    for scheme, bright in (("light", True), ("dark", False)):
        page = windows(served, color_scheme=scheme, **phone).open()
        assert page.is_visible("#strip [data-pick=camera]")
        add_pictures(page, *pictures[:5])
        ask(page, "x" * 300)
        page.click("#settings button")
        page.wait_for_selector("#seed input")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        colour = page.evaluate("getComputedStyle(document.querySelector('#conversation')).backgroundColor")
        assert (int(re.findall(r"\d+", colour)[0]) > 128) == bright


def test_what_is_written_is_text_and_no_markup(served, windows):
    page = windows(served).open()
    evil = "<img src=x onerror=\"document.title='hit'\"> {{value}} ${document.title='hit'} <b>x</b>"
    ask(page, evil)
    assert page.locator("#past .asked .text").text_content() == evil
    assert page.title() != "hit"


def test_drop_and_paste(served, windows):
    page = windows(served).open()
    for number, kind in enumerate(("drop", "paste"), 1):
        page.evaluate(
            """async kind => {
              const canvas = Object.assign(document.createElement('canvas'), {width: 20, height: 20});
              canvas.getContext('2d').fillRect(0, 0, 20, 20);
              const blob = await new Promise(done => canvas.toBlob(done));
              const data = new DataTransfer();
              data.items.add(new File([blob], 'a.png', {type: 'image/png'}));
              const both = {bubbles: true, cancelable: true};
              const event = kind == 'drop' ? new DragEvent('drop', {dataTransfer: data, ...both})
                : new ClipboardEvent('paste', {clipboardData: data, ...both});
              document.body.dispatchEvent(event);
            }""",
            kind,
        )
        page.wait_for_function(f"document.querySelectorAll('#strip li').length == {number}")
    page.click("#strip [data-remove] >> nth=0")
    page.wait_for_function("document.querySelectorAll('#strip li').length == 1")


def test_a_picture_that_cannot_be_used_is_told(served, windows, tmp_path, pictures):
    window = windows(served)
    page = window.open()
    bad = tmp_path / "bad.png"
    bad.write_bytes(pictures[0].read_bytes()[:60])
    with page.expect_file_chooser() as chooser:
        page.click("#strip [data-pick=files]")
    chooser.value.set_files([bad, pictures[0]])
    page.wait_for_selector("#said >> text=bad.png: This picture cannot be used")
    page.wait_for_selector("#strip li")
    assert page.locator("#strip li").count() == 1
    ask(page, QUESTIONS[0])
    assert page.inner_text("#said") == ""
    assert len(window.problems) == 1
    assert "422" in window.problems.pop()  # the browser's own line about it


def test_a_conversation_that_has_ended_is_told(served, windows):
    page = windows(served).open()
    for session in list(served.pages._open):
        served.pages.end(session)
    page.fill("#question textarea", QUESTIONS[0])
    page.press("#question textarea", "Enter")
    told(page, "This conversation had ended")
    assert ask(page, QUESTIONS[0]) == served.model.chat(None, QUESTIONS[0], max_new=12)[0]


def test_the_token_is_asked_for_once(made, windows, pictures):
    with page_of(made(), token=TOKEN, max_new=4) as closed:
        window = windows(closed)
        page = window.context.new_page()
        page.goto(closed.url)
        page.fill("#token", "not the token at all")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=This is not the token.")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#strip")
        assert page.url == f"{closed.url}/"
        add_pictures(page, pictures[0])
        assert ask(page, QUESTIONS[0]) == closed.model.chat(pictures[0], QUESTIONS[0], max_new=4)[0]
        (cookie,) = window.context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert TOKEN not in cookie["value"]
        window.problems[:] = [each for each in window.problems if "401" not in each]
        assert windows(closed).open(f"/?token={TOKEN}").url == f"{closed.url}/"


def test_a_medical_model_warns_and_links_its_verdict(made, windows, tmp_path):
    verdict = tmp_path / "report.html"
    verdict.write_text("<title>verdict</title><p>recall 61 %</p><script>document.title = 'ran'</script>")
    with page_of(made(), Notice(True, verdict), max_new=4) as medical:
        window = windows(medical)
        page = window.open()
        assert "no medical device" in page.inner_text("#head .warning")
        with window.context.expect_page() as opened:
            page.click("#head a")
        opened.value.wait_for_load_state()
        assert "recall 61 %" in opened.value.inner_text("body")
        assert opened.value.title() == "verdict"
        window.problems[:] = [each for each in window.problems if "script" not in each]
        page.click("#language")
        page.wait_for_selector("text=本程序不是医疗器械")
