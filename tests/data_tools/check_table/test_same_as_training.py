"""What check_table passes is what training takes: random rows of every layout, with random damage.

Training is the real stream with the real processor of a later stage, over as many epochs as a dialogue has turns, so
that every answer has been the last one.
"""

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

from data_tools.check_table.scan import TableScan, scan_table
from vglm_train.config.data import Data, Source
from vglm_train.config.language import Language, Prompt, Questions
from vglm_train.config.model import Model, Text, Vision
from vglm_train.config.run import Config, Engine, Run
from vglm_train.data import loader
from vglm_train.data.processors import PairProcessor, Processor, PromptProcessor
from vglm_train.data.rules import LanguageCheck
from vglm_train.data.tables.canonical import NoPicture
from vglm_train.data.tables.table import Table
from vglm_train.distributed import Ranks
from vglm_train.prompt.build import build_template
from vglm_train.prompt.qformer_text import build_text
from vglm_train.prompt.tokenizers import build_tokenizer

EPOCHS = 4  # as many as the longest dialogue here has answers
MOST = 3  # prompt.max_images
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


def prompts(folder: Path, family: str) -> PromptProcessor:
    language = Language(family=family, config="config.json", tokenizer=str(folder / "words"))
    prompt = Prompt(style="blip2", max_images=MOST, end="</s>")
    template = build_template(prompt, language, build_tokenizer(language), 2)
    return PromptProcessor(template, Questions(en="one", zh="狗"), ("en", "zh"))


def taken(source: Source, processor: Processor) -> tuple[dict[int, int], int]:
    """Row -> epochs in which training takes it, of the rows of the stream; and how often a sample was damaged."""
    config = Config(
        run=Run(name="test"),
        data=Data(train=(source,), languages=("en", "zh"), global_batch=1, workers=0),
        model=Model(vision=Vision(image_size=16, patch=8)),
        engine=Engine(precision="fp32", backend="gloo"),
    )
    stream = loader.build(config, processor, Ranks()).dataset
    epochs: dict[int, int] = {}
    damaged = 0
    for number in range(EPOCHS * stream.epoch_samples):
        position = stream.mixture.at(number)
        row = int(position.shard.rows[position.nth])
        batch = stream[number]
        epochs[row] = epochs.get(row, 0) + int(batch.valid.sum())
        damaged += sum(batch.damaged.values())
    return epochs, damaged


def write(table: list[dict], folder: Path) -> Path:
    (folder / "t.json").write_text(json.dumps(table))  # half of an emoji can stand there as an escape alone
    return folder / "t.json"


def check(table: Path, processor: Processor) -> TableScan:
    """The scan, after a comparison with training."""
    source = Source(name="t", table=str(table))
    opened = Table(source)
    scan = scan_table(opened, processor, workers=1)
    epochs, damaged = taken(source, processor)
    assert damaged == sum(EPOCHS - times for times in epochs.values())
    rows = len(opened.index)
    passed = {row for row in range(rows) if scan.usable[row]}
    assert passed == {row for row, times in epochs.items() if times == EPOCHS}
    assert scan.usable.sum() + scan.damage.counts.total() + scan.outside == rows
    assert rows - len(epochs) == scan.damage.counts[str(NoPicture())]
    return scan


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_rows_of_every_layout(folder: Path, family: str) -> None:
    processor = prompts(folder, family)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(st.lists(rows_of(), min_size=4, max_size=12))
    def compare(table: list[dict]) -> None:
        scan = check(write([*SOUND, *table], folder), processor)
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
        scan = check(write([*SOUND, several, *table], folder), processor)
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
        check(made_tables.write_csv(folder / "t.csv", [*sound, *table]), processor)

    compare()
