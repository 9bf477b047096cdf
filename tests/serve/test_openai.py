"""OpenAI's contract, through its own client library."""

import pytest
from serve.made_server import shown

SAID = {"max_tokens": 12, "temperature": 0.9, "seed": 3}


def text_of(stream) -> tuple[str, list]:
    chunks = list(stream)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks


def test_an_answer_is_that_of_python(tiny, pictures):
    client, model = tiny.client(), tiny.model
    for picture in pictures:
        wanted, _ = model.chat(picture, "what number", max_new=12, temperature=0.9, seed=3)
        whole = client.chat.completions.create(model="tiny", messages=[shown("what number", picture)], **SAID)
        assert whole.choices[0].message.content == wanted
        asked = model.ask(picture, "what number", max_new=12, temperature=0.9, seed=3)
        answer = model.answer(asked)
        assert whole.choices[0].finish_reason == ("length" if answer.reason == "length" else "stop")
        usage = whole.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (answer.prompt_tokens, answer.new_tokens)
        assert usage.total_tokens == answer.prompt_tokens + answer.new_tokens


@pytest.mark.parametrize("usage", [False, True])
def test_streamed(tiny, pictures, usage):
    options = {"stream_options": {"include_usage": True}} if usage else {}
    body = {"model": "tiny", "messages": [shown("what number", *pictures[:2])], **SAID}
    whole = tiny.client().chat.completions.create(**body)
    text, chunks = text_of(tiny.client().chat.completions.create(**body, stream=True, **options))
    assert text == whole.choices[0].message.content
    assert text == tiny.model.chat(pictures[:2], "what number", max_new=12, temperature=0.9, seed=3)[0]
    finished = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finished == [*[None] * (len(finished) - 1), whole.choices[0].finish_reason]
    assert [chunk.usage for chunk in chunks if chunk.usage] == ([whole.usage] if usage else [])
    assert len({chunk.id for chunk in chunks}) == 1
