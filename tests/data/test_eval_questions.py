"""Questions with their true answers, from tables and shards."""

import json
from collections import Counter
from pathlib import Path

import made_tables
import pytest
import torch
from made_shards import jpeg, sample, write_manifest, write_shard

from vglm_train.config.data import Data, Holdout, Source
from vglm_train.data.eval_questions import EvalQuestion, QuestionSet
from vglm_train.data.splits import validating
from vglm_train.image import eval_pixels, open_image
from vglm_train.prompt.dialogue import Dialogue, Turn


def asked(path: Path, languages=("en", "zh"), limit: int | None = None) -> QuestionSet:
    source = Source(name="made", table=str(path)) if path.is_file() else Source(name="made", shards=str(path))
    return QuestionSet([source], 16, languages, limit)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": role, "text": text} for role, text in zip(("user", "assistant") * len(texts), texts)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made_tables.pictures(tmp_path, 6)
    return tmp_path


ROWS = [
    {"image": "images/0.jpg", "question": "plane?", "answer": "pa", "type": "plane", "patient": 7},
    {"image": "images/1.jpg", "question": "effusion?", "answer": "Yes."},
    {"image": "images/2.jpg", "question": "有积液吗？", "answer": "没有"},
    {"image": "images/3.jpg", "question": "Findings?", "answer": "Clear lungs.", "type": "report"},
    {"image": "images/4.jpg", "question": "What colour?", "answers": ["red"] * 9 + ["pink"]},
    {"image": "images/gone.jpg", "question": "?", "answer": "x"},
    {"image": "images/5.jpg", "question": "?", "answer": ""},
]


@pytest.mark.parametrize("workers", [0, 2])
def test_rows(folder: Path, workers: int) -> None:
    data = asked(made_tables.write_lines(folder / "t.jsonl", ROWS))
    found = list(data.items(workers))
    assert len(data) == 7
    assert data.damaged == {"image": 1, "caption": 1}
    assert [item.kind for item in found] == ["open", "closed", "closed", "report", "open"]
    first = found[0]
    assert (first.key, first.group, first.type, first.answers) == ("t line 1", "7", "plane", ("pa",))
    assert first.dialogue == Dialogue("plane?", None, images=1)
    assert torch.equal(first.pixels, eval_pixels(open_image(jpeg(0)), 16)[None])
    assert found[4].answers == ("red",) * 9 + ("pink",)


def test_languages_parts_and_limit(folder: Path) -> None:
    path = made_tables.write_lines(folder / "t.jsonl", ROWS[:5])
    assert [item.answers[0] for item in asked(path, ("zh",)).items()] == ["没有"]
    keys = [item.key for item in asked(path, limit=4).items()]
    assert len(keys) == 4
    assert keys == sorted(keys)
    assert "t line 3" in keys, "the only Chinese one"
    assert [[item.key for item in asked(path, limit=4).items(0, part, 3)] for part in range(3)] == [
        keys[part::3] for part in range(3)
    ]


def test_a_limit_is_spread_over_sources_and_languages(folder: Path, tmp_path: Path) -> None:
    def rows(question: str, count: int) -> list[dict[str, str]]:
        return [{"image": "images/0.jpg", "question": f"{question}{n}", "answer": "a"} for n in range(count)]

    english = made_tables.write_lines(folder / "en.jsonl", rows("what?", 60))
    both = made_tables.write_lines(folder / "both.jsonl", rows("what?", 60) + rows("什么？", 6))
    sources = [Source(name=path.stem, table=str(path)) for path in (english, both)]
    found = list(QuestionSet(sources, 16, ("en", "zh"), 40).items())
    assert Counter((item.source, item.dialogue.language) for item in found) == {
        ("en", "en"): 20, ("both", "en"): 14, ("both", "zh"): 6,
    }  # fmt: skip
    turned = list(QuestionSet(sources[::-1], 16, ("zh", "en"), 40).items())
    assert {item.key for item in turned} == {item.key for item in found}
    answers = [(each.dialogue.question, each.answers) for each in QuestionSet(sources, 16, ("en", "zh"), 40).answers()]
    assert answers == [(item.dialogue.question, item.answers) for item in found]


def test_a_limit_on_shards(tmp_path: Path) -> None:
    dialogue = json.dumps(DIALOGUE).encode()
    samples = [sample(n, **{"json": dialogue, "1.jpg": jpeg(1)}) for n in range(8)] + [sample(8, json=b"{"), sample(9)]
    write_shard(tmp_path / "a.tar", samples)
    write_manifest(tmp_path, {"a.tar": 10})
    data = asked(tmp_path, limit=6)
    found = [item.key for item in data.items()]
    assert len(data) == len(found) == 6
    assert "000009:1" in found, "the only Chinese one"
    assert not data.damaged


DIALOGUE = {"image": ["a.jpg", "b.jpg"], "turns": turns("First <image>?", "One.", "And <image>?", "Two.")}


def check_dialogue(items: list[EvalQuestion]) -> None:
    assert [item.key.partition(":")[2] for item in items] == ["", "1"]
    assert [item.pixels.shape[0] for item in items] == [1, 2]
    assert items[0].dialogue == Dialogue("First <image>?", None, images=1)
    assert items[1].dialogue == Dialogue("And <image>?", None, (Turn("First <image>?", "One."),), images=2)
    assert [item.answers for item in items] == [("One.",), ("Two.",)]


def test_a_dialogue_asks_once_a_turn(folder: Path) -> None:
    row = DIALOGUE | {"image": ["images/0.jpg", "images/1.jpg"]}
    check_dialogue(list(asked(made_tables.write_lines(folder / "t.jsonl", [row])).items()))


def test_shards_ask_too(tmp_path: Path) -> None:
    dialogue = json.dumps(DIALOGUE).encode()
    write_shard(
        tmp_path / "a.tar", [sample(0, **{"json": dialogue, "1.jpg": jpeg(1)}), sample(1), sample(2, json=b"{")]
    )
    write_manifest(tmp_path, {"a.tar": 3})
    data = asked(tmp_path)
    assert len(data) == 5
    first, second, english, chinese = data.items()
    check_dialogue([first, second])
    assert (english.kind, english.dialogue) == ("report", Dialogue("", None, images=1))
    assert english.answers == ("a photo number 1", "photo 1")
    assert (chinese.dialogue.language, chinese.answers) == ("zh", ("第1张照片",))
    assert data.damaged == {"record": 1}


def test_answers_need_no_pictures(folder: Path) -> None:
    """The same questions with the same answers, where pictures are damaged or gone too; what says nothing is not."""
    data = asked(made_tables.write_lines(folder / "t.jsonl", ROWS))
    whole = [(item.kind, item.answers, item.type, item.dialogue.question) for item in data.items()]
    for picture in (folder / "images").iterdir():
        picture.write_bytes(b"no picture")
    assert list(data.items()) == []
    found = list(data.answers())
    assert [(item.kind, item.answers, item.type, item.dialogue.question) for item in found[:5]] == whole
    assert (found[5].answers, len(found)) == (("x",), 6)
    assert data.damaged == {"caption": 1}


def test_answers_of_shards_need_no_pictures(tmp_path: Path) -> None:
    dialogue = json.dumps(DIALOGUE).encode()
    bad = sample(0, **{"json": dialogue, "jpg": b"no", "1.jpg": b"no"})
    write_shard(tmp_path / "a.tar", [bad, sample(1), sample(2, json=b"{")])
    write_manifest(tmp_path, {"a.tar": 3})
    data = asked(tmp_path)
    found = list(data.answers())
    assert [item.answers for item in found] == [
        ("One.",), ("Two.",), ("a photo number 1", "photo 1"), ("第1张照片",),
    ]  # fmt: skip
    assert [item.dialogue.language for item in found] == ["en", "en", "en", "zh"]
    assert data.damaged == {"record": 1}


def test_rows_without_a_question_are_counted(folder: Path) -> None:
    rows = [*ROWS[:3], {"question": "text alone?", "answer": "yes"}]
    path = made_tables.write_lines(folder / "t.jsonl", rows)
    assert asked(path, ("zh",)).unasked == {"language": 2, "picture": 1}
    assert asked(path).unasked == {"language": 0, "picture": 1}


def test_held_out_rows_are_asked(folder: Path) -> None:
    rows = [{"image": f"images/{n % 6}.jpg", "question": f"{n}?", "answer": "a"} for n in range(60)]
    source = Source(name="made", table=str(made_tables.write_lines(folder / "t.jsonl", rows)))
    data = Data(train=(source,), holdout=Holdout(by="row", share=0.3))
    found = list(QuestionSet(validating(data), 16, ("en",)).items())
    assert 5 < len(found) < 35


def test_x_rays(shared: Path) -> None:
    data = asked(shared / "data" / "xray_vqa" / "test.json", limit=60)
    found = list(data.items())
    assert len(found) == 60
    assert not data.damaged
    assert Counter(item.kind for item in found)["report"] == sum(item.type == "report" for item in found) > 10


def test_several_answers_are_to_the_last_question(folder: Path) -> None:
    row = {"image": "images/0.jpg", "turns": turns("one?", "1", "two?", "2"), "answers": ["2", "two"], "type": "number"}
    found = list(asked(made_tables.write_lines(folder / "t.jsonl", [row])).items())
    assert [(item.answers, item.type) for item in found] == [(("1",), "number"), (("2", "two"), "number")]


def test_options_belong_to_the_last_question(folder: Path) -> None:
    row = {"image": "images/0.jpg", "question": "Which?", "options": ["liver", "heart"], "answer": "B",
           "history": [["First?", "One."]]}  # fmt: skip
    first, last = asked(made_tables.write_lines(folder / "t.jsonl", [row])).items()
    assert (first.options, last.options) == ((), ("liver", "heart"))
    assert (last.kind, last.answers, last.dialogue.question) == ("closed", ("heart",), "Which?\nA. liver\nB. heart")


@pytest.mark.parametrize("languages", [("en",), ("zh",), ("en", "zh")])
def test_a_dialogue_in_another_language_leaves_its_captions(folder: Path, languages: tuple[str, ...]) -> None:
    """Counted without reading as it is asked, in tables and in shards."""
    row = {"turns": turns("one?", "1", "two?", "2"), "captions": {"zh": ["照片"], "en": ["a photo"]}}
    table = made_tables.write_lines(folder / "t.jsonl", [{**row, "image": "images/0.jpg"}])
    write_shard(folder / "a.tar", [sample(0, json=json.dumps(row).encode())])
    write_manifest(folder, {"a.tar": 1})
    expected = [("照片",)] if languages == ("zh",) else [("1",), ("2",)]
    for path in (table, folder):
        data = asked(path, languages)
        assert len(data) == len(expected)
        assert [item.answers for item in data.items()] == expected
