"""What a record may look like, and what it is counted under when it may not."""

import json

import pytest

from vglm_train.data.record import RecordError, as_fields, content_id, kind_of, parse

WHOLE = {
    "id": "7",
    "image": "7.jpg",
    "image_id": 2**63 - 1,
    "captions": {"en": ["a dog"], "zh": ["狗", "一只狗"]},
    "source": "s",
    "split": "train",
    "group": "page 3",
}


def test_whole_record() -> None:
    for form in (WHOLE, json.dumps(WHOLE), json.dumps(WHOLE).encode()):
        record = parse(form)
        assert (record.id, record.image, record.image_id) == ("7", "7.jpg", 2**63 - 1)
        assert record.captions == {"en": ("a dog",), "zh": ("狗", "一只狗")}
        assert (record.source, record.split, record.group) == ("s", "train", "page 3")


def test_blank_captions_are_left_out() -> None:
    record = parse({"captions": {"en": ["", " \n", "a dog"], "zh": [], "fr": None, "de": "ein Hund"}})
    assert record.captions == {"en": ("a dog",), "de": ("ein Hund",)}
    assert (record.image_id, record.group) == (None, None)


def test_image_id_may_be_any_text() -> None:
    one, same, other = (parse({**WHOLE, "image_id": text}).image_id for text in ("ab12", "ab12", "ab13"))
    assert one == same != other
    assert 0 <= one < 2**63


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"{", "record"),
        (b"\xff\xfe", "record"),
        (b"", "record"),
        (b"[" * 100_000, "record"),
        (b"[1]", "record"),
        ({"captions": ["a dog"]}, "record"),
        ({"captions": {"en": [1]}}, "record"),
        ({"captions": {"en": 5}}, "record"),
        ({"captions": {"en": ["a"]}, "image_id": 2**63}, "record"),
        ({"captions": {"en": ["a"]}, "image_id": -1}, "record"),
        ({"captions": {"en": ["a"]}, "image_id": True}, "record"),
        ({"captions": {"en": ["a"]}, "image_id": 1.5}, "record"),
        ({}, "caption"),
        ({"captions": None}, "caption"),
        ({"captions": {}}, "caption"),
        ({"captions": {"en": ["  "]}}, "caption"),
    ],
)
def test_causes(data, cause: str) -> None:
    with pytest.raises(RecordError) as caught:
        parse(data)
    assert caught.value.cause == cause


def test_content_id_fits_an_int64_and_tells_bytes_apart() -> None:
    ids = {content_id(bytes([n])) for n in range(200)}
    assert len(ids) == 200
    assert all(0 <= n < 2**63 for n in ids)
    assert content_id(b"abc") == 7808549525826226860  # shards on disk hold it: it must not change


def test_everything_a_record_holds_comes_back() -> None:
    turns = [{"role": role, "text": text} for role, text in zip(("user", "assistant") * 2, ("one?", "1", "two?", "2"))]
    further = {"answers": ["2", "two"], "options": ["2", "3"], "type": "number", "kind": "closed", "language": "en"}
    record = parse({**WHOLE, **further, "turns": turns, "image": ["7.jpg", "8.jpg"]})
    assert parse(as_fields(record)) == record
    assert (record.answers, record.options, record.type) == (("2", "two"), ("2", "3"), "number")
    assert [record.answers_to(turn) for turn in (0, 1)] == [("1",), ("2", "two")]
    assert parse({**WHOLE, "answers": [1, 2.5]}).answers == ("1", "2.5")
    for wrong in ("yes", {"yes": 1}, [["yes"]], [None]):
        with pytest.raises(RecordError, match="answers must be a list of texts"):
            parse({**WHOLE, "answers": wrong})


def test_half_a_character_becomes_a_question_mark() -> None:
    """As pack_shards writes it; a tokenizer would refuse it with a TypeError."""
    turns = [{"role": "user", "text": "one \ud83d?"}, {"role": "assistant", "text": "\ud83d\ude00 \ude00"}]
    record = parse(json.dumps({"captions": {"en": ["a \ud83d dog"]}, "turns": turns, "answers": ["\ud83d"]}))
    assert record.captions == {"en": ("a ? dog",)}
    assert (record.turns, record.answers) == ((("one ??", "\U0001f600 ?"),), ("?",))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (3, "the number 3"),
        (0.5, "the number 0.5"),
        ("a" * 50, f"the text '{'a' * 40}'"),
        ([1], "a list"),
        ({"a": 1}, "an object"),
    ],
)
def test_what_a_value_is_in_words_of_json_and_not_of_python(value: object, words: str) -> None:
    assert kind_of(value) == words
