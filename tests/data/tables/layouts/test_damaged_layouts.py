"""Whatever is wrong with a data set's files: each row is read or counted under a cause, and nobody sees a traceback."""

import copy
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_layouts import LAYOUTS, Made, words
from made_shards import jpeg

from data_tools.convert import __main__ as command
from vglm_train.config.data import Source
from vglm_train.data.record import DamagedSample, parse
from vglm_train.data.tables.base import CAUSES, name_row
from vglm_train.data.tables.index import STATES
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError

PARQUET = {"parquet", "img2dataset_files"}  # other programs' bytes: what is wrong with them is theirs to say
JUNK = (None, 3, -1.5, True, "", "x", [], {}, [None], {"a": []}, "9" * 30, float("nan"), ["<image>"] * 3)


def files_of(made: Made, folder: Path) -> list[Path]:
    """The files of a data set but its pictures."""
    kinds = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".token", ".tar")
    return sorted(path for path in folder.rglob("*") if path.suffix in kinds and "_stats" not in path.name)


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in list(pairs):
        yield value, key
        yield from nodes(held)


def spoil_values(path: Path, rng: random.Random) -> None:
    """Wrong types, missing keys, rows twice."""
    if path.suffix not in (".json", ".jsonl"):
        return spoil_lines(path, rng)
    text = path.read_text("utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    values = [json.loads(line) for line in lines]
    for _ in range(rng.randint(1, 4)):
        places = list(nodes(values))
        if not places:
            break
        container, key = rng.choice(places)
        if key in ("from", "role"):
            continue
        change = rng.random()
        if change < 0.6:
            container[key] = copy.deepcopy(rng.choice(JUNK))
        elif change < 0.8:
            del container[key]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
    path.write_text("\n".join(json.dumps(value, ensure_ascii=False) for value in values), "utf-8")


def spoil_lines(path: Path, rng: random.Random) -> None:
    """Lines lost, doubled, cut, joined, or in other bytes."""
    lines = path.read_bytes().split(b"\n")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        half = lines[at][: rng.randint(0, len(lines[at]))]
        junk = rng.choice([b'"', b"\xff\xfe", b"\0", b",", b"\t", b"|", b"}", b"[", b"\r", "“照".encode("gbk"), b""])
        lines[at : at + 1] = rng.choice([[], [lines[at]] * 2, [half], [half + junk + lines[at][len(half) :]], [junk]])
        lines = lines or [b""]
    path.write_bytes(b"\n".join(lines))


def spoil_bytes(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 3)):
        first = rng.randint(0, len(content))
        content[first : first + rng.randint(0, 40)] = rng.randbytes(rng.randint(0, 8))
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randint(0, len(content))])


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    each.__name__: each for each in (spoil_values, spoil_lines, spoil_bytes, cut, remove)
}


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
    total = len(list(rows.scan()))
    merged = 0

    def count(first: Any, second: Any, merge: Any = command.merge) -> Any:
        nonlocal merged
        found = merge(first, second)
        merged += found is not None
        return found

    with patch.object(command, "merge", count):
        report = command.convert(rows, columns, command.target(args))
    assert report.records + report.bad.total() + merged == total


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
