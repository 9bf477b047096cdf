"""What check_table passes is what training takes and convert keeps: random rows of every layout of keys, with random
damage."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_tables
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_shards import TOKENS, jpeg
from prompt.made_tokenizers import words_folder
from same_rows import EPOCHS, check, damage_in_convert, damage_of, prompts

from data_tools.check_table.scan import TableScan, scan_table
from vglm_train.config.data import Source
from vglm_train.config.model import Text
from vglm_train.data.processors import PairProcessor, Processor
from vglm_train.data.rules import LanguageCheck
from vglm_train.prompt.qformer_text import build_text

WORDS = [*"abcdefg", "▁one", "▁two", "Which", "organ", "<image>"]

PICTURES = [
    "images/0.jpg", "images/1.jpg", "images/2.jpg", "images/3", "images\\1.jpg", "D:\\data\\images\\2.jpg",
    "images/gone.jpg", "images/broken.jpg", "images/short.jpg", "images", "", "a\0b.jpg", "x" * 300 + ".jpg",
    "https://example.org/1.jpg", "\ud800.jpg", "file:///images/1.jpg",
]  # fmt: skip
TEXTS = [
    "one two", "狗", "yes", "nan", "NULL", "None", "N/A", "", "  ", "A", "B", "1", "2.0", "True", "\ud83d", "</s>", "[",
    "{", "<image>", "<image> one", "<Image>two", "<image><image>", "<img>images/1.jpg</img> one", "a\0b", "liver",
    "B. heart",
]  # fmt: skip
JUNK = [
    None, math.nan, math.inf, True, False, 0, 1, -1, 7, 2.0, 12.5, 10**400, [], {}, [None], [[]], {"x": 1},
    {"en": "one"}, {"A": "liver", "B": "heart"}, ["one", math.nan], [["one", "two"]], [{"from": "human"}],
    {"answer": None}, "[1, 2]", {"x": math.nan}, {"bytes": None, "path": "images/1.jpg"}, {"a": {"b": ["c"]}},
    [1, "one"], "\ud800", "['a', 'b']",
]  # fmt: skip
texts = st.sampled_from(TEXTS)
pictures = st.sampled_from(PICTURES) | st.lists(st.sampled_from(PICTURES[:9]), max_size=4)
answers = texts | st.sampled_from([1, 0, True, 2.5, None, math.nan])
ROLES = st.sampled_from(["human", "gpt", "user", "assistant", "Human", "system", "bing", "function_call", None])


def turns_of(role: str, text: str) -> st.SearchStrategy:
    """Dialogues in order, mostly."""
    pair = st.tuples(texts, answers).map(
        lambda said: [{role: "user", text: said[0]}, {role: "assistant", text: said[1]}]
    )
    ordered = st.lists(pair, min_size=1, max_size=EPOCHS).map(lambda pairs: [turn for each in pairs for turn in each])
    return ordered | st.lists(st.fixed_dictionaries({role: ROLES, text: answers}), max_size=5)


LAYOUTS: list[dict[str, st.SearchStrategy]] = [
    {"img": pictures, "prompt": texts, "label": answers},
    {"image": pictures, "question": texts, "answers": st.lists(answers | st.builds(dict, answer=answers), max_size=10)},
    {"image": pictures, "question": texts, "answer": st.dictionaries(texts, st.floats(0, 1), max_size=3)},
    {"image": pictures, "question": texts, "answer": answers, "options": st.lists(texts, max_size=4) | texts},
    {"image": pictures, "question": texts, "answer": answers, "A": texts, "B": texts, "C": answers, "hint": answers},
    {"images": pictures, "instruction": texts, "input": answers, "output": answers, "history": st.none()
     | st.lists(st.lists(texts, min_size=1, max_size=3), max_size=2)},
    {"images": pictures, "query": texts, "response": answers, "history": st.lists(st.tuples(texts, answers).map(list))},
    {"image": pictures, "conversations": turns_of("from", "value")},
    {"images": pictures, "messages": turns_of("role", "content")},
    {"image": pictures, "turns": turns_of("role", "text"), "answers": st.none() | st.lists(answers, max_size=3),
     "captions": st.none() | st.dictionaries(st.sampled_from(["en", "zh", "fr"]), st.lists(texts, max_size=2)),
     "image_id": st.none() | st.sampled_from([5, -1, "ab", 1.5])},
    {"image": pictures, "captions": st.dictionaries(st.sampled_from(["en", "fr"]), st.lists(answers, max_size=2))},
    {"image": pictures, "caption": answers, "caption_zh": answers, "patient": answers, "language": answers},
    {"image": pictures, "question": st.lists(texts, max_size=3), "answer": st.lists(answers, max_size=3)},
]  # fmt: skip

SOUND = [
    {"image": "images/0.jpg", "caption": "one two"},
    {"image": "images/0.jpg", "caption": "狗"},
    {"image": "images/0.jpg", "question": "one", "answer": "two", "kind": "open"},
]


@st.composite
def rows_of(draw: Callable) -> dict[str, Any]:
    """A row of one layout; of some, one cell is damaged or missing."""
    row = draw(st.fixed_dictionaries(draw(st.sampled_from(LAYOUTS))))
    if draw(st.booleans()):
        key = draw(st.sampled_from(sorted(row)))
        row |= {key: draw(st.sampled_from(JUNK))} if draw(st.booleans()) else {}
        row = row if draw(st.integers(0, 3)) else {name: cell for name, cell in row.items() if name != key}
    return row


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows")
    made_tables.pictures(path, 4)
    (path / "images/broken.jpg").write_bytes(b"no picture")
    (path / "images/short.jpg").write_bytes(jpeg(5)[:400])
    words_folder(path / "words", WORDS)
    (path / "vocab.txt").write_text("\n".join([*TOKENS, *WORDS]) + "\n", "utf-8")
    return path


def write(table: list[dict], folder: Path) -> Path:
    (folder / "t.json").write_text(json.dumps(table))  # half of an emoji can stand there as an escape alone
    return folder / "t.json"


def compare_all(table: Path, processor: Processor) -> TableScan:
    """The scan, after a comparison with training, and of what a run has no say in with `convert`."""
    source = Source(name="t", table=str(table))
    scan = check(source, processor)
    assert damage_of(source) == damage_in_convert([str(table)], table.with_name("records.jsonl"))
    return scan


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_rows_of_every_layout(folder: Path, family: str) -> None:
    processor = prompts(folder, family)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(st.lists(rows_of(), min_size=4, max_size=12))
    def compare(table: list[dict]) -> None:
        scan = compare_all(write([*SOUND, *table], folder), processor)
        assert len(scan.usable) == len(SOUND) + len(table)
        free = scan_table(scan.table, LanguageCheck(("en", "zh")), workers=1)
        stricter = scan.damage.counts - free.damage.counts
        assert all("prompt.max_images" in what or what == "an answer is empty" for what in stricter)
        assert free.usable.sum() - scan.usable.sum() >= 0

    compare()


def test_pairs_of_stage_one(folder: Path) -> None:
    """Captions alone, and the first picture alone is looked at."""
    text = build_text(Text(tokenizer=str(folder / "vocab.txt"), processor="plain"))
    processor = PairProcessor(text, ("en", "zh"))

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(st.lists(rows_of(), min_size=4, max_size=12))
    def compare(table: list[dict]) -> None:
        several = {"image": ["images/1.jpg", "images/broken.jpg"], "caption": "one two"}
        scan = compare_all(write([*SOUND, several, *table], folder), processor)
        assert scan.usable[:4].tolist() == [True, True, False, True]

    compare()


def test_cells_of_csv(folder: Path) -> None:
    processor = prompts(folder, "causal")
    cells = st.sampled_from([text for text in (*TEXTS, *PICTURES, '[["one", "two"]]') if text.isprintable()])
    columns = ("image", "question", "answer", "options", "history", "caption", "answer_type", "patient", "input")
    sound = [
        {**dict.fromkeys(columns, ""), "image": "images/0.jpg", "question": said, "answer": said}
        for said in ("one", "狗")
    ]

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(st.lists(st.fixed_dictionaries({name: cells for name in columns}), min_size=4, max_size=12))
    def compare(table: list[dict]) -> None:
        compare_all(made_tables.write_csv(folder / "t.csv", [*sound, *table]), processor)

    compare()
