"""A data set that `datasets` saved: pictures as bytes or paths, rows mapped from the disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from vglm_train.data.tables.base import Span
from vglm_train.errors import UserError


class SavedTable:
    """The folder of `Dataset.save_to_disk`. A row's offset is its number."""

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
        for name, feature in rows.features.items():
            inner = getattr(feature, "feature", None)
            if isinstance(feature, datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
            elif isinstance(inner, datasets.Image):
                rows = rows.cast_column(name, type(feature)(datasets.Image(decode=False)))
        self.rows = rows

    @property
    def size(self) -> int:
        return len(self.rows)

    def scan(self) -> Iterator[Span]:
        for number, values in enumerate(self.rows):
            yield Span(number, 1, values)

    def row(self, offset: int, size: int) -> dict[str, Any]:
        return self.rows[offset]
