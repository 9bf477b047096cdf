"""The files of protocols: all that are shipped, and what a file may not say."""

import re
from pathlib import Path

import pytest

from vglm_train.errors import UserError
from vglm_train.evaluate.protocols import schema
from vglm_train.evaluate.protocols.rules import ANSWER_RULES
from vglm_train.evaluate.protocols.schema import fingerprint, load_protocol, names

NAMES = (
    "coco-caption", "coco-retrieval", "flickr30k-retrieval", "gqa", "okvqa", "pathvqa", "slake", "vqa-rad", "vqav2",
)  # fmt: skip


def test_all_protocols_are_there():
    assert names() == list(NAMES)
    assert schema.RULES["answer"] == tuple(ANSWER_RULES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_protocol(name):
    """It has its name, and what its paper gives is compared with a score that the result has."""
    protocol = load_protocol(name)
    assert protocol.name == name
    assert protocol.published
    assert {each.score for each in protocol.published} <= {score.name for score in protocol.scores}
    assert all(layout.main.endswith((".json", ".parquet")) for layout in protocol.layouts)


def test_what_blip2_asked():
    """The values that every reader of the paper knows, in case a file loses one."""
    protocol = load_protocol("vqav2")
    prompts = {each.family: each.text for each in protocol.prompts}
    assert prompts == {"causal": "Question: {} Answer:", "seq2seq": "Question: {} Short answer:"}
    assert protocol.search is not None
    decoding = protocol.search.decoding()
    assert (decoding.beams, decoding.max_new, decoding.length_penalty, decoding.sample) == (5, 10, -1.0, False)
    caption = load_protocol("coco-caption")
    assert caption.search is not None
    assert (caption.search.min_new.value, caption.search.max_new.value, caption.prompts[0].text) == (
        8,
        30,
        "a photo of",
    )
    matching = load_protocol("coco-retrieval").matching
    assert matching is not None
    assert (matching.candidates.value, matching.max_length.value, matching.score.value) == (128, 35, "match")


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """Loads VQAv2's protocol after a change of its text."""

    def load(old: str, new: str) -> schema.Protocol:
        text = (Path(schema.__file__).parent / "vqav2.yaml").read_text("utf-8")
        assert old in text
        (tmp_path / "vqav2.yaml").write_text(text.replace(old, new, 1), "utf-8")
        monkeypatch.setattr(schema, "FOLDER", tmp_path)
        return load_protocol("vqav2")

    return load


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("task: answer\n", "task: answer\nbeems: 5\n", r"vqav2.yaml:5: beems: unknown key"),
        ("  beams:\n    value: 5\n", "  beams:\n    value: five\n", r"search.beams.value: expected a whole number"),
        ("  value: 214354\n", "  value: -1\n", r"items.value: must not be negative"),
        ("  value: val2014\n", "", r"split.value: is missing"),
        (
            '  source: "https://visualqa.org/evaluation.html"\n',
            "",
            r"source: is missing",
        ),
        (
            'text: "Question: {} Short',
            'text: "Question: Short',
            r"prompts.1.text: must hold {} where the question goes",
        ),
        ("    question: question\n", "", r"layouts.0.question: belongs to task answer"),
        ("    rule: vqa_lavis", "    rule: cider", r"scores.1.rule: is not of task answer"),
        (
            "score: accuracy_lavis, value: 50.1",
            "score: accuracy_old, value: 50.1",
            r"published.0.score: must be one of",
        ),
        ("  - name: accuracy_lavis", "  - name: accuracy", r"scores.1: score 'accuracy' is already"),
        ("  value: blip_question", "  value: upper", r"question.value: expected one of blip_question"),
        ("task: answer", "task: retrieval", r"matching: belongs to task retrieval"),
    ],
)
def test_what_a_file_may_not_say(changed, old, new, message):
    with pytest.raises(UserError, match=message):
        changed(old, new)


def test_a_name_that_is_none():
    with pytest.raises(UserError, match=r"--protocol vqa: the protocols are coco-caption, .*vqav2\."):
        load_protocol("vqa")


def test_the_fingerprint_is_of_what_the_file_says(changed):
    shipped = fingerprint("vqav2")
    assert re.fullmatch("[0-9a-f]{12}", shipped)
    changed("value: 214354", "value: 214355")
    assert fingerprint("vqav2") != shipped
    changed("value: 214354", "value: 214354\n  note: counted by others")
    assert fingerprint("vqav2") == shipped  # words about a value are none of it
    file = schema.FOLDER / "vqav2.yaml"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert fingerprint("vqav2") == shipped
