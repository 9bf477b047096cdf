"""Held-out rows: a function of patient, picture or content; mistakes are told."""

from pathlib import Path

import made_tables
import numpy as np
import pytest

from vglm_train.config.data import Data, Fields, Holdout, Source
from vglm_train.data.splits import SplitSource, open_part, training, validating
from vglm_train.data.tables.leaks import find_leaks, side
from vglm_train.errors import UserError

PICTURES = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made_tables.pictures(tmp_path, PICTURES)
    return tmp_path


def rows_of(folder: Path) -> list[dict]:
    """Two questions a picture, two pictures a patient."""
    names = [f"images/{n}.jpg" for n in range(PICTURES)]
    rows = made_tables.visualglm(names)
    for number, row in enumerate(rows):
        row["patient_id"] = f"P{number // 2}"
    return [*rows, *({**row, "prompt": "again?"} for row in rows)]


def both(source: Source, holdout: Holdout) -> tuple[list[dict], list[dict]]:
    data = Data(train=(source,), holdout=holdout)
    sides = []
    for [part] in (training(data), validating(data)):
        shards = open_part(part, ("en",)).shards
        sides.append(
            [shard.table.file.row(*shard.table.index.positions[r, :2].tolist()) for shard in shards for r in shard.rows]
        )
    return sides[0], sides[1]


@pytest.mark.parametrize(("by", "key"), [("group", "patient_id"), ("image", "img"), ("row", None)])
def test_what_belongs_together_stays_together(folder: Path, by: str, key: str | None) -> None:
    rows = rows_of(folder)
    if by != "group":
        rows = [{k: v for k, v in row.items() if k != "patient_id"} for row in rows]
    source = Source(name="made", table=str(made_tables.write_json(folder / "t.json", rows)))
    train, held = both(source, Holdout(by=by, share=0.3))
    assert len(train) + len(held) == len(rows)
    assert 0.1 * len(rows) < len(held) < 0.5 * len(rows)
    if key:
        assert not {row[key] for row in train} & {row[key] for row in held}
    made_tables.write_json(folder / "t.json", rows[::-1])
    assert sorted(map(str, both(source, Holdout(by=by, share=0.3))[1])) == sorted(map(str, held))
    made_tables.write_lines(folder / "more.jsonl", [*rows, {**rows[0], "img": "images/new.jpg", "patient_id": "N"}])
    other = Source(name="more", table=str(folder / "more.jsonl"), fields=Fields(group="patient_id"))
    again = both(other, Holdout(by=by, share=0.3))[1] if by == "group" else held
    assert {str(row) for row in held} <= {str(row) for row in again}


def test_pictures_in_one_row_stay_together(folder: Path) -> None:
    asked = [{"role": "user", "text": "?"}, {"role": "assistant", "text": "!"}]
    chain = [{"image": [f"images/{n}.jpg", f"images/{n + 1}.jpg"], "turns": asked} for n in range(8)]
    rows = [*chain, *({"image": f"images/{n}.jpg", "turns": asked} for n in range(PICTURES))]
    source = Source(name="made", table=str(made_tables.write_lines(folder / "t.jsonl", rows)))
    train, held = both(source, Holdout(by="image", share=0.5))
    names = [{name for row in part for name in np.atleast_1d(row["image"]).tolist()} for part in (train, held)]
    assert not names[0] & names[1]
    linked = {f"images/{n}.jpg" for n in range(9)}
    assert linked <= names[0] or linked <= names[1]


def held_rows(source: Source, by: str) -> list[int]:
    """Numbers of the rows that are kept for validation."""
    [part] = validating(Data(train=(source,), holdout=Holdout(by=by, share=0.3)))
    return [row for shard in open_part(part, ("en",)).shards for row in shard.rows.tolist()]


@pytest.mark.parametrize("by", ["image", "row"])
def test_a_folder_that_moves_is_split_as_before(folder: Path, by: str) -> None:
    """However the paths are written: from the table's folder, from that of the pictures, or in full."""
    names = [f"images/{n}.jpg" for n in range(PICTURES)]
    plain = Source(name="a", table=str(made_tables.write_json(folder / "a.json", made_tables.visualglm(names))))
    expected = held_rows(plain, by)
    assert 4 <= len(expected) <= 20
    dotted = made_tables.visualglm([f"./images/../{name}" for name in names])
    assert held_rows(Source(name="b", table=str(made_tables.write_json(folder / "b.json", dotted))), by) == expected
    full = made_tables.write_json(folder / "c.json", made_tables.visualglm([str(folder / name) for name in names]))
    assert held_rows(Source(name="c", table=str(full)), by) == expected
    new = folder.with_name(f"{folder.name}_moved")
    folder.rename(new)
    full = made_tables.write_json(new / "c.json", made_tables.visualglm([str(new / name) for name in names]))
    assert held_rows(Source(name="c", table=str(full)), by) == expected
    (new / "tables").mkdir()
    elsewhere = full.rename(new / "tables" / "c.json")
    assert held_rows(Source(name="c", table=str(elsewhere), images=str(new)), by) == expected


def test_which_rows_are_kept_does_not_change(folder: Path) -> None:
    """Runs go on with the split that they began with."""
    names = [f"images/{n}.jpg" for n in range(PICTURES)]
    source = Source(name="a", table=str(made_tables.write_json(folder / "a.json", made_tables.visualglm(names))))
    assert held_rows(source, "image") == [2, 5, 9, 10, 12, 15, 27, 29, 36]


@pytest.mark.parametrize(
    ("holdout", "without", "reason"),
    [
        (Holdout(by="image", share=0.3), "", r"held out by image, \d+ groups \(key 'patient_id'\).*by: group"),
        (Holdout(by="group", share=1e-6), "", "keeps 0 of 80 rows.*20 different groups"),
        (Holdout(by="group"), "patient_id", "no key of the rows is known to hold one.*'img', 'prompt', 'label'"),
    ],
)
def test_mistakes(folder: Path, holdout: Holdout, without: str, reason: str) -> None:
    rows = [{k: v for k, v in row.items() if k != without} for row in rows_of(folder)]
    source = Source(name="made", table=str(made_tables.write_json(folder / "t.json", rows)))
    with pytest.raises(UserError, match=reason):
        open_part(SplitSource(source, holdout), ("en",))


def test_languages_are_told(folder: Path) -> None:
    source = Source(name="made", table=str(made_tables.write_json(folder / "t.json", rows_of(folder))))
    with pytest.raises(UserError, match=r"'made' has captions in en only, but data.languages is \[zh\]"):
        open_part(source, ("zh",))


def test_leaks_are_found_under_other_names(folder: Path) -> None:
    rows = rows_of(folder)
    (folder / "val").mkdir()
    (folder / "val" / "copy.jpg").write_bytes((folder / "images/3.jpg").read_bytes())
    other = [{**rows[3], "img": "val/copy.jpg", "patient_id": "Q"}, {**rows[5], "label": "else"}, rows[7]]
    paths = (made_tables.write_json(folder / "a.json", rows[:10]), made_tables.write_json(folder / "b.json", other))
    sides = [side(open_part(Source(name="s", table=str(path)), ("en",)).shards) for path in paths]
    leaks = find_leaks(*sides)
    assert (leaks.groups, leaks.rows, leaks.pictures) == (2, 1, 3)
    assert leaks.examples[0] == "images/3.jpg of a.json = val/copy.jpg of b.json"
    assert "2 groups (patients, studies) are in both" in next(leaks.lines())
    few = find_leaks(*sides, read=12)
    assert few.pictures is None
    assert "check_table" in list(few.lines())[-1]
    assert not find_leaks(sides[0], [(sides[1][0][0], np.zeros(0, np.int64))])


def test_rows_that_say_their_split(folder: Path) -> None:
    rows = [row | {"split": "train" if n % 4 else "test"} for n, row in enumerate(rows_of(folder))]
    table = str(made_tables.write_json(folder / "t.json", rows))
    assert open_part(Source(name="made", table=table, split="test"), ("en",)).samples == 20
    for split, reason in (
        (None, r"several splits: test \(20\), train \(60\)"),
        ("val", "no rows of split 'val'; it has test"),
    ):
        with pytest.raises(UserError, match=reason):
            open_part(Source(name="made", table=table, split=split), ("en",))
