"""metrics.jsonl and tables/: what a run has logged, on disk. Every other view is rebuilt from them."""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vglm_train.files import is_temporary, replace_file
from vglm_train.folders import replace_folder

Row = dict[str, float]
Cell = Image.Image | str | float

METRICS = "metrics.jsonl"
TABLES = "tables"


def to_line(step: int, row: Row) -> str:
    """One JSON object and a newline. What is not finite becomes null: JSON has no NaN."""
    finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
    return json.dumps({"step": step, **finite}) + "\n"


class NewRows:
    """Rows of a metrics.jsonl that is being written, each once."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> Iterator[tuple[int, Row]]:
        """(step, row) of each complete line since the last call; null becomes NaN. No file is no rows.

        A line that a kill cut short is passed over.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # the rest of it may be on its way
                    return
                self._offset += len(line)
                if (row := parse_row(line)) is not None:
                    yield row


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """(step, row) of each line, see `NewRows`."""
    return NewRows(path).read()


def parse_row(line: bytes) -> tuple[int, Row] | None:
    """(step, row) of a line; null becomes NaN. None for a line that is cut short."""
    values = _parse(line)
    if values is None:
        return None
    step = values.pop("step")
    return step, {name: math.nan if value is None else value for name, value in values.items()}


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


def cut_back(path: Path, step: int) -> None:
    """Keep the rows up to `step`; the file is replaced in one move, or not touched where nothing changes."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if (values := _parse(line)) is not None and values["step"] <= step]
    if len(kept) == len(lines):
        return
    with replace_file(path) as file:
        file.writelines(kept)


@dataclass(frozen=True, slots=True)
class LoggedTable:
    """A logged table; `folder` holds its table.json and pictures."""

    step: int
    name: str
    folder: Path

    def read(self) -> tuple[list[str], list[list[Cell]]]:
        """Columns and rows as they were logged; pictures have been through JPEG."""
        content = json.loads((self.folder / "table.json").read_text(encoding="utf-8"))
        return content["columns"], [[self._cell(cell) for cell in row] for row in content["rows"]]

    def _cell(self, cell: str | float | dict[str, Any]) -> Cell:
        if isinstance(cell, dict):
            with Image.open(self.folder / cell["image"]) as image:
                return image.convert("RGB")
        return cell


def table_folder(folder: Path, step: int, name: str) -> Path:
    """Where the run `folder` keeps a table."""
    return folder / TABLES / f"step-{step:08d}" / name.replace("/", "_")


def write_table(folder: Path, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Store a table below the run `folder`, complete or not at all."""
    with replace_folder(table_folder(folder, step, name), durable=False) as new:
        stored = [[_store(cell, new, f"{i}-{j}.jpg") for j, cell in enumerate(row)] for i, row in enumerate(rows)]
        content = {"step": step, "name": name, "columns": list(columns), "rows": stored}
        (new / "table.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read_tables(folder: Path) -> list[LoggedTable]:
    """Complete tables of the run `folder`, by step and name."""
    tables = []
    for path in (folder / TABLES).glob("step-*/*/table.json"):
        if is_temporary(path.parent):
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        tables.append(LoggedTable(content["step"], content["name"], path.parent))
    return sorted(tables, key=lambda table: (table.step, table.name))


def cut_back_tables(folder: Path, step: int) -> None:
    """Remove tables of later steps."""
    for path in (folder / TABLES).glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


def _store(cell: Cell, folder: Path, name: str) -> str | float | dict[str, Any]:
    if isinstance(cell, Image.Image):
        cell.convert("RGB").save(folder / name, quality=90)
        return {"image": name}
    return cell


class SampleLog:
    """samples-RANK.jsonl of one rank. Each line is handed to the operating system before the next step begins."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._file = (folder / f"samples-{rank}.jsonl").open("ab", buffering=0)

    def write(self, step: int, keys: Sequence[str]) -> None:
        """`keys`: SOURCE/SHARD/KEY of each sample that this rank read in `step`, damaged ones too."""
        line = json.dumps({"step": step, "keys": list(keys)}, ensure_ascii=False) + "\n"
        self._file.write(line.encode("utf-8", "surrogateescape"))


def forget_samples(folder: Path, step: int) -> None:
    """Drop what any rank read after `step`: it will be read again. One process calls it, before the others write."""
    for path in folder.glob("samples-*.jsonl"):
        cut_back(path, step)
