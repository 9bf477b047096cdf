"""Data sets of the library `datasets`, and Parquet files: pictures as bytes or paths, never decoded here."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vglm_train.data.tables.base import Row, TableFile
from vglm_train.data.tables.file_kinds import is_saved
from vglm_train.data.tables.layouts.splits import SplitTable, split_of
from vglm_train.errors import UserError, needs_extra

with needs_extra("train", "a table of Parquet files, of the hub or that `datasets` saved"):
    import datasets


class SavedTable:
    """A data set whose rows are mapped from the disk. A row's offset is its number."""

    unit = "row"

    def __init__(self, path: Path, rows: datasets.Dataset) -> None:
        self.path = path
        self.rows = _undecoded(rows)
        self.columns = tuple(rows.column_names)

    @property
    def size(self) -> int:
        return len(self.rows)

    @property
    def identity(self) -> str:
        return type(self).__name__

    def scan(self) -> Iterator[Row]:
        for number, values in enumerate(self.rows):
            yield Row(number, 1, values, number + 1)

    def where(self, offset: int, size: int, number: int) -> str:
        return f"row {number}"

    def row(self, offset: int, size: int) -> dict[str, Any]:
        values: dict[str, Any] = self.rows[offset]
        return values


def open_saved(folder: Path) -> TableFile:
    """The folder of `save_to_disk`, with its splits where it has several. UserError where it cannot be opened."""
    try:
        rows = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises many kinds for a folder of another layout
        raise UserError(f"{folder}: no data set that `datasets` saved: {_first_line(error)}") from None
    if isinstance(rows, datasets.DatasetDict):
        return _with_splits(folder, rows)
    return SavedTable(folder, rows)


def open_parquet(path: Path, files: Sequence[Path]) -> TableFile:
    """Parquet files, with the splits that their names say. The library keeps an Arrow copy of them in its cache, which
    rows are read from. UserError where they cannot be read."""
    parts = _parquet(path, files, streaming=False)
    return SavedTable(path, parts[""]) if list(parts) == [""] else _with_splits(path, parts)


def _parquet(path: Path, files: Sequence[Path], streaming: bool) -> dict[str, Any]:
    """By the name of the split that the files' names say, in the order of these names; empty: they say none."""
    names: dict[str, list[str]] = {}
    for file in files:
        split = split_of(str(file.relative_to(path) if path.is_dir() else file.name)) or ""
        names.setdefault(split, []).append(str(file))
    try:
        return {
            name: datasets.load_dataset("parquet", data_files=own, split="train", streaming=streaming)
            for name, own in sorted(names.items())
        }
    except Exception as error:  # many kinds, for a file that is cut or is none
        raise UserError(f"{path}: no Parquet table: {_first_line(error)}") from None


def _with_splits(path: Path, parts: Mapping[str, datasets.Dataset]) -> TableFile:
    return SplitTable(path, {name: SavedTable(path, rows) for name, rows in parts.items()})


class DatasetStream:
    """Rows of all splits of a folder or file of data, or of a dataset's name. Each row has its split's name as `split`,
    unless it names one itself, or the data has no splits."""

    unit = "row"

    def __init__(
        self, source: str, config: str | None = None, split: str | None = None, parquet: Sequence[Path] = ()
    ) -> None:
        """`split`: the only one to read; `parquet`: the files, where the source is that, read as `open_parquet` does,
        without a copy. UserError where the library cannot open it."""
        self.source = source
        splits = _parquet(Path(source), parquet, streaming=True) if parquet else _splits(source, config)
        if split is not None and split not in splits:
            raise UserError(f"{source}: no split {split!r}; it has {', '.join(sorted(splits))}.")
        self.splits = {name: data for name, data in splits.items() if split in (None, name)}
        first = next(iter(self.splits.values()))
        self.columns = tuple(dict.fromkeys((*(first.column_names or next(iter(first), {})), "split")))
        self.starts: list[int] = []  # offset of the first row of each split that was begun to be read
        sizes = [_rows(data) for data in self.splits.values()]
        self.size = sum(size for size in sizes if size) if all(sizes) else None

    def scan(self) -> Iterator[Row]:
        done, self.starts = 0, []
        for split, data in self.splits.items():
            self.starts.append(done)
            for number, values in enumerate(self._rows_of(split, data), 1):
                yield Row(done, 1, values if values.get("split") or not split else values | {"split": split}, number)
                done += 1

    def where(self, offset: int, size: int, number: int) -> str:
        split = list(self.splits)[bisect_right(self.starts, offset) - 1]
        return f"{split} row {number}".lstrip()

    def _rows_of(self, split: str, data: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from _undecoded(data)
        except Exception as error:  # many kinds, for a file that is cut or damaged
            raise UserError(
                f"{self.source}: its split {split} cannot be read to its end: {_first_line(error)}"
            ) from error


def _splits(source: str, config: str | None) -> dict[str, Any]:
    folder = Path(source)
    try:
        if is_saved(folder):
            saved = datasets.load_from_disk(source)
            return dict(saved) if isinstance(saved, dict) else {"": saved}
        loaded: Any
        if folder.is_file():
            kind = {".jsonl": "json"}.get(folder.suffix, folder.suffix[1:])
            loaded = datasets.load_dataset(kind, data_files=source, streaming=True)
        else:
            loaded = datasets.load_dataset(source, config, streaming=True)
    except Exception as error:  # the library raises many kinds for a wrong name, no network, or an unknown layout
        raise UserError(f"{source}: Hugging Face datasets cannot open it: {_first_line(error)}") from error
    return dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}


def _rows(data: Any) -> int | None:
    if hasattr(data, "__len__"):
        return len(data)
    known = (data.info.splits or {}).get(str(data.split))
    return known.num_examples if known else None


def _undecoded(data: Any) -> Any:
    for name, feature in (data.features or {}).items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
        elif isinstance(inner, datasets.Image):
            data = data.cast_column(name, type(feature)(datasets.Image(decode=False)))
    return data


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
