"""Of every layout of a published data set, with random damage to its files and pictures, the rows that check_table
passes are those that training draws and convert keeps; every other row is counted, by the same causes."""

import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import datasets
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_layouts import LAYOUTS, Made, put, words
from made_layouts.base import asked, caption
from made_shards import jpeg
from prompt.made_tokenizers import words_folder
from same_rows import check, damage_in_convert, damage_of, prompts
from spoilt import DAMAGE, files_of

from vglm_train.config.data import Format, Source
from vglm_train.data.processors import Processor
from vglm_train.data.tables.readers import find_format
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError

BYTES = (b"", b"<html>404</html>", b"no picture", jpeg(5)[:300], b"{}", jpeg(6))
CELLS = (None, "", "nan", "None", "A", "one", "<image>")
COLUMNAR = ("parquet", "img2dataset_files", "saved")


def saved(folder: Path) -> Made:
    """As `datasets` saves splits of a data set."""
    parts = {}
    for split, numbers in (("train", (0, 1, 2)), ("test", (3,))):
        rows = [{"image": jpeg(n), "question": f"q{n}?", "answer": "yes"} for n in numbers]
        parts[split] = datasets.Dataset.from_list(spoil_cells(rows, folder))
    datasets.DatasetDict(parts).save_to_disk(folder / "saved")
    return Made(folder / "saved", [asked(split, n, f"q{n}?", "yes") for split, n in (("train", 0), ("test", 3))], 4)


def spoil_cells(rows: list[dict], folder: Path) -> list[dict]:
    """Some cells are another text, no picture, or null; which is told by the number that the folder holds."""
    number = folder / "number"
    rng = random.Random(int(number.read_text()) if number.is_file() else None)
    for row in rows if number.is_file() else ():
        key = rng.choice(sorted(row))
        if isinstance(row[key], dict) and rng.random() < 0.8:
            row[key] = {"bytes": rng.choice(BYTES), "path": None}
        elif isinstance(row[key], bytes):
            row[key] = rng.choice(BYTES)
        elif row[key] is None or isinstance(row[key], str):
            row[key] = rng.choice(CELLS)
    return rows


def spoil_columns(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        table = pyarrow.parquet.read_table(path)
        rows = spoil_cells(table.to_pylist(), folder)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, table.schema), path)


def spoil_pictures(folder: Path, rng: random.Random) -> None:
    """One is lost, one is a folder, one is something else."""
    files = sorted(path for path in folder.rglob("*") if path.suffix == ".jpg")
    for path in rng.sample(files, min(len(files), rng.randint(0, 2))):
        path.unlink()
        if rng.random() < 0.8:
            path.write_bytes(rng.choice(BYTES))
        elif rng.random() < 0.5:
            path.mkdir()


def open_clip(folder: Path) -> Made:
    """Its lists, cells between tabs."""
    put(folder, 0, 1, 2)
    table = folder / "train.tsv"
    table.write_text("filepath\ttitle\n" + "".join(f'{n}.jpg\tphoto "{n}\n' for n in (0, 1, 1, 2)))
    return Made(table, [caption(None, n, f'photo "{n}') for n in (0, 1, 1, 2)], 4)


MADE = {**LAYOUTS, "saved": saved, "open_clip": open_clip}


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processor]:
    """Of a later stage; the library's copies of Parquet files go with the tests."""
    folder = tmp_path_factory.mktemp("words")
    words_folder(folder / "words", [*"abcdefg", "▁one"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
        yield prompts(folder, "causal")


def make(name: str, folder: Path, kind: str, seed: int) -> Made:
    """A data set with damage."""
    rng = random.Random(seed)
    (folder / "number").write_text(str(seed))
    made = MADE[name](folder)
    spoil_pictures(folder, rng)
    if name in COLUMNAR:
        spoil_columns(folder)
    elif kind != "none":
        DAMAGE[kind](rng.choice(files_of(made, folder)), rng)
    return made


@pytest.mark.parametrize("name", MADE)
def test_the_three_agree(name: str, processor: Processor) -> None:
    @settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(kind=st.sampled_from(["none", *sorted(DAMAGE)]), seed=st.integers(0, 2**32))
    def compare(kind: str, seed: int) -> None:
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "data").mkdir()
            made = make(name, Path(place) / "data", kind, seed)
            source = Source(name="made", table=str(made.table), **made.options)
            assert damage_of(source) == damage_in_convert(words(made), Path(place) / "out" / "records.jsonl")
            try:
                splits = list(Table(source).splits()) or [None]
            except UserError:
                return
            for split in splits:
                check(replace(source, split=split), processor)

    compare()


def test_every_format_has_a_layout(tmp_path: Path) -> None:
    formats = set()
    for name, make_one in MADE.items():
        (tmp_path / name).mkdir()
        made = make_one(tmp_path / name)
        formats.add(made.options.get("format") or find_format(made.table))
    assert formats == set(get_args(Format))
