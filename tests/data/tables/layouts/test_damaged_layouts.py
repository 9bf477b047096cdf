"""Whatever is wrong with a data set's files: each row is read or counted under a cause, and nobody sees a traceback."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_layouts import LAYOUTS, Made, words
from made_shards import jpeg
from spoilt import DAMAGE, files_of

from data_tools.convert import __main__ as command
from vglm_train.config.data import Source
from vglm_train.data.record import DamagedSample, parse
from vglm_train.data.tables.base import CAUSES, name_row
from vglm_train.data.tables.index import STATES
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError

PARQUET = {"parquet", "img2dataset_files"}  # other programs' bytes: what is wrong with them is theirs to say


def train(made: Made) -> None:
    """Open it as training does, and read every row."""
    table = Table(Source(name="made", table=str(made.table), **made.options))
    scanned = list(table.file.scan())
    assert sum(table.index.count(state) for state in STATES) == len(table.index) == len(scanned)
    assert all(row.cause in CAUSES for row in scanned if row.values is None)
    read = 0
    for number, row in enumerate(scanned):
        try:
            parse(table.read("made", number).json)
        except DamagedSample:
            pass
        else:
            assert row.values is not None
            read += 1
    assert read <= table.index.count("usable")


def convert(made: Made, folder: Path) -> None:
    """As `convert` does: rows that were read and rows that are counted are all that there are."""
    args = command.parse([*words(made), "--out", str(folder / "out" / "r.jsonl")])
    rows, columns = command.open_source(args)
    report = command.convert(rows, columns, command.target(args))
    assert report.rows == len(list(rows.scan()))


def outcome(use: Callable[[], None]) -> str | None:
    """What a person is told; None: it went well."""
    try:
        use()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in PARQUET])
@settings(max_examples=12, deadline=None)
@given(kind=st.sampled_from(sorted(DAMAGE)), seed=st.integers(0, 2**32))
def test_damage_is_counted_or_told(name: str, kind: str, seed: int) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        made = LAYOUTS[name](Path(folder))
        DAMAGE[kind](rng.choice(files_of(made, Path(folder))), rng)
        for use in (lambda: train(made), lambda: convert(made, Path(folder))):
            told = outcome(use)
            assert told is None or folder in told or "no row makes a record" in told


def test_the_sample_in_which_a_tar_ends_is_counted(tmp_path: Path) -> None:
    made = LAYOUTS["tars_by_pattern"](tmp_path)
    tar = tmp_path / "cc-val-00.tar"
    lies = tar.read_bytes().index(jpeg(11))
    tar.write_bytes(tar.read_bytes()[: lies + 100])
    file = Table(Source(name="made", table=str(made.table))).file
    assert [(name_row(file, row), row.cause) for row in file.scan()][2:] == [
        ("cc-val-00.tar img.v1.0", None),
        ("cc-val-00.tar img.v1.1", "truncated"),
    ]


@pytest.mark.parametrize("name", sorted(PARQUET))
def test_a_damaged_parquet_file_is_told(name: str, tmp_path: Path) -> None:
    made = LAYOUTS[name](tmp_path)
    file = next(tmp_path.rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-50])
    for use in (lambda: train(made), lambda: convert(made, tmp_path)):
        with pytest.raises(UserError, match=r"Parquet|cannot be read|cannot open"):
            use()
