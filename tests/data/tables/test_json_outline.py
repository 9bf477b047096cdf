"""Rows deeper within one JSON object, or in one of several lists: read where that is certain, else told with a step."""

import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_shards import jpeg
from made_tables import write_json

from vglm_train.config.data import Source
from vglm_train.data.tables.base import name_row
from vglm_train.data.tables.readers import open_table
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError


def row(number: int) -> dict[str, Any]:
    return {
        "image": "0.jpg",
        "question": f"{number}?",
        "answer": "yes",
        "boxes": [{"x": 1}],
        "meta": {"site": {"a": 1}},
    }


READ: dict[str, tuple[Any, list[tuple[str, dict[str, Any]]]]] = {
    "one list, deeper": ({"result": {"n": 2, "items": [row(1), row(2)]}}, [("row 1", row(1)), ("row 2", row(2))]),
    "splits, deeper": (
        {"v": 1, "data": {"train": [row(1)], "val": [row(2)]}},
        [("train row 1", row(1) | {"split": "train"}), ("val row 1", row(2) | {"split": "val"})],
    ),
    "splits within names, beside another list": (
        {"labels": [{"id": 1}], "qa_train": [row(1)], "qa_test": [row(2)]},
        [("qa_train row 1", row(1) | {"split": "qa_train"}), ("qa_test row 1", row(2) | {"split": "qa_test"})],
    ),
    "one of several lists": (
        {"info": {}, "categories": [{"id": 1, "name": "x"}], "entries": [row(1)]}, [("row 1", row(1))],
    ),
    "rows under ids, deeper": (
        {"data": {"a": row(1), "b": row(2)}},
        [("row 'a'", {"id": "a"} | row(1)), ("row 'b'", {"id": "b"} | row(2))],
    ),
    "one row": ({"image": "0.jpg", "boxes": [{"x": 1}], "answer": "a"}, [
        ("row 1", {"image": "0.jpg", "boxes": [{"x": 1}], "answer": "a"})]),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_rows_that_can_be_found(name: str, tmp_path: Path) -> None:
    content, expected = READ[name]
    file = open_table(write_json(tmp_path / "t.json", content))
    rows = list(file.scan())
    assert [(name_row(file, each), each.values) for each in rows] == expected
    assert [file.row(each.offset, each.size) for each in rows] == [values for _, values in expected]


def test_lists_that_are_not_read_are_named(tmp_path: Path, caplog) -> None:
    path = write_json(tmp_path / "t.json", READ["one of several lists"][0])
    with caplog.at_level(logging.WARNING):
        open_table(path)
    assert f"{path}: rows are read from entries; not read: categories" in caplog.text


TOLD: dict[str, tuple[Any, str, list[int]]] = {
    "splits with lists below": (
        {"train": {"rows": [row(1)]}, "test": {"rows": [row(2)]}}, "train.rows (of image, question, answer", [1, 2]),
    "lists by picture": ({f"p{n}": [row(n)] for n in range(9)}, "p0 (of image, .* and others", list(range(9))),
    "ids within splits": ({"train": {"a": row(1)}, "test": {"b": row(2)}}, "train (of image, ", [1, 2]),
    "lists of two kinds": (
        {"qa": [row(1)], "reports": [{"image": "0.jpg", "report": "x"}]}, "qa (of .*reports (of .*qa alone", [1]),
    "a list of lists": ([[row(1)], [row(2)]], "a list of lists", [1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_the_step_that_is_told_works(name: str, tmp_path: Path) -> None:
    content, words, numbers = TOLD[name]
    path = write_json(tmp_path / "it's $1.json", content)
    with pytest.raises(UserError) as caught:
        open_table(path)
    assert re.search(words.replace("(", r"\("), str(caught.value))
    [step] = re.findall(r'python (-c ".*?")', str(caught.value))
    subprocess.run([sys.executable, *shlex.split(step)], check=True)
    rows = json.loads((tmp_path / "it's $1_rows.json").read_text())
    assert [each["question"] for each in rows] == [f"{number}?" for number in numbers]


def test_rows_within_rows_are_told(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    rows = [{"image": "0.jpg", "qa": [{"question": "q", "answer": "a"}, {"question": "r", "answer": "b"}]}]
    path = write_json(tmp_path / "t.json", rows)
    with pytest.raises(
        UserError, match=r"Its 'qa' holds rows of its own \('question', 'answer'\): write one row"
    ) as caught:
        Table(Source(name="t", table=str(path)))
    step = re.findall(r"in Python (.*)\.$", str(caught.value))[0]
    assert len(Table(Source(name="t", table=str(write_json(path, eval(step, {"rows": rows}))))).index) == 2
