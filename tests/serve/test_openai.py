"""OpenAI's contract, through its own client library."""

import json
import shutil
import subprocess

import openai
import pytest
from run import speaking
from serve.made_server import chat_body, data_url, serving_at, shown

from vglm_train.chat.history import ChatTurn

SAID = {"max_tokens": 12, "temperature": 0.9, "seed": 3}
ASKED = {"max_new": 12, "temperature": 0.9, "seed": 3}


def create(running, *messages, **fields):
    return running.client().chat.completions.create(model="tiny", messages=list(messages), **{**SAID, **fields})


def text_of(answer) -> str:
    return answer.choices[0].message.content


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_an_answer_is_that_of_python(made, pictures, family):
    model, seen = made(family), set()
    with serving_at(model) as running:
        for picture in pictures:
            answer = model.answer(model.ask(picture, "what number", **ASKED))
            whole = create(running, shown("what number", picture))
            assert text_of(whole) == answer.text
            assert whole.choices[0].finish_reason == ("length" if answer.reason == "length" else "stop")
            usage = whole.usage
            assert (usage.prompt_tokens, usage.completion_tokens) == (answer.prompt_tokens, answer.new_tokens)
            assert usage.total_tokens == answer.prompt_tokens + answer.new_tokens
            seen.add(answer.text)
    assert len(seen) > 1


@pytest.mark.parametrize("usage", [False, True])
def test_streamed(tiny, pictures, usage):
    options = {"stream_options": {"include_usage": True}} if usage else {}
    message = shown("what number", *pictures[:2])
    whole = create(tiny, message)
    chunks = list(create(tiny, message, stream=True, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == text_of(whole) == tiny.model.chat(pictures[:2], "what number", **ASKED)[0]
    finished = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finished == [*[None] * (len(finished) - 1), whole.choices[0].finish_reason]
    assert [chunk.usage for chunk in chunks if chunk.usage] == ([whole.usage] if usage else [])
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 4


def test_pictures_in_later_turns(tiny, pictures):
    model = tiny.model
    first, turns = model.chat(pictures[0], "what number", **ASKED)
    wanted, _ = model.chat(pictures[1], "which", turns, **ASKED)
    said = [shown("what number", pictures[0]), {"role": "assistant", "content": first}, shown("which", pictures[1])]
    assert text_of(create(tiny, *said)) == wanted
    assert wanted != model.chat(None, "which", turns, **ASKED)[0]
    said[1]["content"] = [{"type": "text", "text": first}]
    assert text_of(create(tiny, *said)) == wanted
    said[1] = create(tiny, said[0]).choices[0].message.model_dump()  # with all its empty fields
    assert text_of(create(tiny, *said)) == wanted


def test_a_picture_after_a_turn_without_one(tiny, pictures):
    first, turns = tiny.model.chat(None, "which", **ASKED)
    wanted, _ = tiny.model.chat(pictures[0], "what number", turns, **ASKED)
    said = [{"role": "user", "content": "which"}, {"role": "assistant", "content": first}]
    assert text_of(create(tiny, *said, shown("what number", pictures[0]))) == wanted
    assert wanted != tiny.model.chat([pictures[0]], "what number", [("which", first)], **ASKED)[0]


def test_a_system_message_comes_before_the_question(tiny, pictures):
    system = {"role": "system", "content": "this is red"}
    wanted, _ = tiny.model.chat(pictures[0], "this is red\nwhat number", **ASKED)
    assert text_of(create(tiny, system, shown("what number", pictures[0]))) == wanted
    later = [shown("which", pictures[0]), {"role": "assistant", "content": "no"}, {"role": "user", "content": "what"}]
    history = [ChatTurn("which", "no", (pictures[0],))]
    wanted, _ = tiny.model.chat(None, "this is red\nwhat", history, **ASKED)
    assert text_of(create(tiny, system, *later)) == wanted


def test_messages_of_one_side_belong_together(tiny, pictures):
    said = [shown("what", pictures[0]), {"role": "user", "content": "which"}]
    assert text_of(create(tiny, *said)) == tiny.model.chat(pictures[0], "what\nwhich", **ASKED)[0]


def test_a_picture_without_words_is_asked_about_as_in_training(tiny, pictures):
    silent = {"role": "user", "content": shown("", pictures[0])["content"][:1]}
    first, turns = tiny.model.chat(pictures[0], "", **ASKED)
    assert text_of(create(tiny, silent)) == first
    said = [silent, {"role": "assistant", "content": first}, {"role": "user", "content": "what"}]
    assert text_of(create(tiny, *said)) == tiny.model.chat(None, "what", turns, **ASKED)[0]


def test_every_way_of_sampling(tiny, pictures):
    message = shown("what number", pictures[0])
    for fields, sampling in [
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_p": 0.3}, {"top_p": 0.3}),
        ({"seed": 9}, {"seed": 9}),
        ({"extra_body": {"top_k": 2, "repetition_penalty": 1.5}}, {"top_k": 2, "repetition_penalty": 1.5}),
        ({"max_completion_tokens": 12}, {}),
    ]:
        wanted, _ = tiny.model.chat(pictures[0], "what number", **{**ASKED, **sampling})
        assert text_of(create(tiny, message, **fields)) == wanted, fields
    bare = tiny.client().chat.completions.create(model="tiny", messages=[message])
    assert text_of(bare) == tiny.model.chat(pictures[0], "what number")[0]


def test_stop_texts_end_an_answer(tiny, pictures):
    text = tiny.model.chat(pictures[0], "what number", **ASKED)[0]
    for stop in (text[4:6], [text[6:8], "nowhere"]):
        cut = create(tiny, shown("what number", pictures[0]), stop=stop)
        assert text_of(cut) == tiny.model.chat(pictures[0], "what number", stop=stop, **ASKED)[0]
        assert len(text_of(cut)) < len(text)
        assert cut.choices[0].finish_reason == "stop"


def test_defaults_are_those_of_the_server(tiny, made, pictures):
    with serving_at(made(), max_new=3, seed=7) as running:
        given = running.client().chat.completions.create(model="tiny", messages=[shown("what", pictures[0])])
    assert text_of(given) == tiny.model.chat(pictures[0], "what", max_new=3, seed=7)[0]


def test_models(tiny):
    client = tiny.client()
    assert [card.id for card in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("another/one")
    assert caught.value.code == "model_not_found"


HI = {"role": "user", "content": "what"}


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
        ({"n": 2}, 400, "n", "as 1 only"),
        ({"n": True}, 400, "n", "as 1 only"),
        ({"logprobs": True}, 400, "logprobs", "not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "only"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty", "not supported"),
        ({"logit_bias": {"5": 3}}, 400, "logit_bias", "not supported"),
        ({"image_embeds": "x"}, 400, "image_embeds", "not known"),
        ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, 400, "temperature", "valid number"),
        ({"seed": -1}, 400, "seed", "greater than or equal to 0"),
        ({"seed": 2**63}, 400, "seed", "less than"),
        ({"stop": ["a"] * 5}, 400, "stop", "at most 4"),
        ({"stop": ""}, 400, "stop", "at least 1"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 4096}, 400, "max_tokens", "2048 tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "max_tokens", "differ"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "stream: true"),
        ({"model": "gpt"}, 404, "model", "its name is tiny"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0", "'assistant'"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 400, "messages.0.content.0", "tag"),
        ({"messages": [{**HI, "embeds": 1}]}, 400, "messages.0.embeds", "not known"),
        ({"messages": [{"role": "assistant", "content": "x"}, HI]}, 400, "messages[0]", "must follow"),
        ({"messages": [HI, {"role": "assistant", "content": "x"}]}, 400, "messages", "must be a user's"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "messages", "must be a user's"),
        ({"messages": [{"role": "user", "content": "half \ud83d"}]}, 400, None, "surrogate"),
        ({"messages": [{"role": "user", "content": "what " * 500}]}, 422, None, "ids long"),
    ],
)
def test_what_is_refused_is_named(tiny, fields, status, param, words):
    body = json.dumps({**chat_body(HI, max_tokens=2), **fields})
    got = tiny.raw("/v1/chat/completions", body)
    error = got.json()["error"]
    assert (got.status_code, error["param"]) == (status, param), error
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["code"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1/a.png", "fetches no pictures"),
        ("https://example.org/a.png", "fetches no pictures"),
        ("file:///etc/passwd", "must be a data: URL"),
        ("/etc/passwd", "no base64"),
        ("../a.png", "no base64"),
        ("data:text/html;base64,PGI+", "'text/html' is declared"),
        ("data:image/png,abc", "data:image/TYPE"),
        ("data:image/png;base64,@@@@", "no base64"),
        ("data:image/png;base64,aGVsbG8=", "cannot be taken"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "is declared; what is read is"),
        ("", "an empty file"),
    ],
)
def test_pictures_that_are_none(tiny, url, words):
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    with pytest.raises(openai.UnprocessableEntityError, match=words):
        create(tiny, message)


def test_neutral_and_harmless_fields_change_nothing(tiny, pictures):
    message = shown("what number", pictures[0])
    message["content"][0]["image_url"]["detail"] = "high"
    fields = {
        "n": 1, "logprobs": False, "presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "tools": None,
        "response_format": {"type": "text"}, "user": "x", "metadata": {"a": "b"}, "store": False, "stop": None,
        "parallel_tool_calls": None, "service_tier": "auto",
    }  # fmt: skip
    got = tiny.post("/v1/chat/completions", chat_body(message, **SAID, **fields))
    assert got.json()["choices"][0]["message"]["content"] == text_of(create(tiny, shown("what number", pictures[0])))


def test_turns_without_room_are_told(made, pictures):
    model = made(prompt=40)
    history = [(f"what number is this {n}", "red") for n in range(8)]
    said = [{"role": role, "content": text} for pair in history for role, text in zip(("user", "assistant"), pair)]
    asked = model.ask(None, "what", history, max_new=3)
    assert asked.dropped
    with serving_at(model) as running:
        for stream in (False, True):
            got = running.post("/v1/chat/completions", chat_body(*said, HI, max_tokens=3, stream=stream))
            assert got.headers["x-dropped-turns"] == str(asked.dropped)
        got = running.post("/", {"text": "what", "history": history})
        assert got.headers["x-dropped-turns"] == str(model.ask(None, "what", history).dropped)
        assert len(got.json()["history"]) == 9


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
def test_plain_curl(tiny, pictures, tmp_path):
    body = tmp_path / "body.json"
    for stream in (False, True):
        body.write_text(json.dumps(chat_body(shown("what number", *pictures[:2]), **SAID, stream=stream)))
        address = f"{tiny.url}/v1/chat/completions"
        done = subprocess.run(
            ["curl", "-sS", address, "-H", "Content-Type: application/json", "-d", f"@{body}"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        wanted = tiny.model.chat(pictures[:2], "what number", **ASKED)[0]
        if not stream:
            assert json.loads(done.stdout)["choices"][0]["message"]["content"] == wanted
            continue
        lines = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
        assert lines[-1] == "[DONE]"
        deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
        assert "".join(delta.get("content", "") for delta in deltas) == wanted


def test_a_model_that_fails_is_told(tiny, pictures, monkeypatch, caplog):
    def breaks(requests):
        raise RuntimeError("secret what")

    monkeypatch.setattr(tiny.model.scheduler.reader, "decoder", breaks)
    with pytest.raises(openai.InternalServerError, match="the server failed"):
        create(tiny, HI)
    with pytest.raises(openai.APIError, match="the server failed"):
        list(create(tiny, HI, stream=True))
    monkeypatch.setattr(tiny.model, "ask", breaks)
    with caplog.at_level("INFO"), pytest.raises(openai.InternalServerError, match="the server failed"):
        create(tiny, HI)
    ours = [each.getMessage() for each in caplog.records if each.name.startswith("vglm_train.serve")]
    assert any("RuntimeError at " in line for line in ours)
    assert not any("secret" in line for line in ours)


def test_a_data_url_may_be_in_capitals_and_lines(tiny, pictures):
    url = data_url(pictures[0])
    head, text = url.split(",")
    broken = f"{head.replace('data', 'DATA')},{text[:40]}\n{text[40:]}"
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": broken}}]}
    assert text_of(create(tiny, message)) == tiny.model.chat(pictures[0], "", **ASKED)[0]
