"""Marks: the answer is where the mark is, half are yes, nothing else tells it, and tables read as they are."""

import json
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from examples.marks.make_data import draw_picture, write_data
from vglm_train.config.data import Holdout, Source
from vglm_train.data.eval_questions import QuestionSet
from vglm_train.data.splits import SplitSource
from vglm_train.errors import UserError


def halves(picture: Image.Image) -> tuple[int, int]:
    """Pixels brighter than anything but a mark, on the left and on the right."""
    bright = np.asarray(picture.convert("L")) > 190
    middle = bright.shape[1] // 2
    return int(bright[:, :middle].sum()), int(bright[:, middle:].sum())


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_mark_is_on_its_side_and_nowhere_else(side: str) -> None:
    for seed in range(20):
        left, right = halves(draw_picture(side, Random(seed)))
        here, there = (left, right) if side == "left" else (right, left)
        assert here > 150
        assert there == 0


def test_tables_are_even_repeatable_and_of_other_patients(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_data(tmp_path / name, 30, 20, seed=3)
    rows = {name: json.loads((tmp_path / "a" / f"{name}.json").read_text()) for name in ("train", "test")}
    for name, count in (("train", 15), ("test", 10)):
        assert Counter(row["label"] for row in rows[name]) == {"yes": count, "no": count}
        assert (tmp_path / "a" / f"{name}.json").read_bytes() == (tmp_path / "b" / f"{name}.json").read_bytes()
    assert not {row["patient"] for row in rows["train"]} & {row["patient"] for row in rows["test"]}
    for row in rows["test"]:
        left, right = halves(Image.open(tmp_path / "a" / row["img"]))
        assert row["label"] == ("yes" if left > right else "no")


def test_they_read_as_closed_questions(tmp_path: Path) -> None:
    write_data(tmp_path / "marks", 40, 10, seed=0)
    source = Source(name="marks", table=str(tmp_path / "marks" / "train.json"))
    kept = list(QuestionSet([SplitSource(source, Holdout(by="group", share=0.3), validation=True)], 32, ["en"]).items())
    assert 0 < len(kept) < 40
    assert {item.kind for item in kept} == {"closed"}
    assert all(item.group for item in kept)


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=r"holds something else; give a new one"):
        write_data(tmp_path, 2, 2, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
