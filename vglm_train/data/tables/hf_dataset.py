"""Data sets of the library `datasets`: pictures as bytes or paths, never decoded here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from vglm_train.data.tables.base import Row
from vglm_train.errors import UserError


class SavedTable:
    """The folder of `Dataset.save_to_disk`, its rows mapped from the disk. A row's offset is its number."""

    unit = "row"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            rows = datasets.load_from_disk(str(path))
        except Exception as error:  # the library raises many kinds for a folder of another layout
            raise UserError(
                f"{path}: no data set that `datasets` saved: {str(error).splitlines()[0]} A folder of tars is given "
                "as shards."
            ) from None
        if isinstance(rows, datasets.DatasetDict):
            raise UserError(
                f"{path}: holds the splits {', '.join(rows)}; give the folder of one, {path / next(iter(rows))}."
            )
        self.rows = _undecoded(rows)
        self.columns = tuple(rows.column_names)

    @property
    def size(self) -> int:
        return len(self.rows)

    def scan(self) -> Iterator[Row]:
        for number, values in enumerate(self.rows):
            yield Row(number, 1, values, f"row {number}")

    def row(self, offset: int, size: int) -> dict[str, Any]:
        return self.rows[offset]


class DatasetStream:
    """Rows of all splits of a folder of `save_to_disk`, of a folder or file of data, or of a dataset's name."""

    unit = "row"

    def __init__(self, source: str, config: str | None, split: str | None) -> None:
        """`split`: the only one to read. UserError where the library cannot open it."""
        splits = _splits(source, config)
        if split is not None and split not in splits:
            raise UserError(f"{source}: no split {split!r}; it has {sorted(splits)}")
        self.splits = {name: data for name, data in splits.items() if split in (None, name)}
        first = next(iter(self.splits.values()))
        self.columns = tuple(first.column_names or next(iter(first), {}))
        sizes = [_rows(data) for data in self.splits.values()]
        self.size = sum(size for size in sizes if size) if all(sizes) else None

    def scan(self) -> Iterator[Row]:
        done = 0
        for split, data in self.splits.items():
            for number, values in enumerate(_undecoded(data)):
                yield Row(done, 1, values, f"{split} row {number}", split=split)
                done += 1


def _splits(source: str, config: str | None) -> dict[str, Any]:
    folder = Path(source)
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            loaded: Any = datasets.load_from_disk(source)
        elif folder.is_file():
            kind = {".jsonl": "json"}.get(folder.suffix, folder.suffix[1:])
            loaded = datasets.load_dataset(kind, data_files=source, streaming=True)
        else:
            loaded = datasets.load_dataset(source, config, streaming=True)
    except Exception as error:  # the library raises many kinds for a wrong name, no network, or an unknown layout
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{source}: Hugging Face datasets cannot open it: {reason}") from error
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
