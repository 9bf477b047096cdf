"""Rows of the formats people have: JSONL, COCO captions, CSV, TSV, Hugging Face `datasets`.

All are read as a stream, except a COCO file: its captions are in no order of images, so its text is held in memory.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from vglm_train.errors import UserError

Format = Literal["jsonl", "coco", "csv", "tsv", "hf"]
PEEK = 100  # rows of a JSONL file whose keys are taken as its columns


@dataclass(frozen=True, slots=True)
class Row:
    """One row, or what is wrong with it."""

    place: str  # "line 12", "image 7", "train row 3": names the row in messages
    values: dict[str, Any]
    done: int  # progress after this row, in the source's unit
    cause: str | None = None  # "json", "encoding", "columns": the row cannot be read
    split: str | None = None  # what the source itself says, apart from any column


class RowReader(Protocol):
    """A stream of rows that knows its columns before it is read."""

    columns: list[str]
    total: int | None
    unit: str

    def __iter__(self) -> Iterator[Row]: ...


def _file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of the captions file")
    return path


class JsonLines:
    """One JSON object a line."""

    unit = "B"

    def __init__(self, path: Path) -> None:
        self.path = _file(path)
        self.total: int | None = path.stat().st_size
        good = (row.values for row in islice(self, PEEK) if row.cause is None)
        self.columns = list(dict.fromkeys(key for values in good for key in values))

    def __iter__(self) -> Iterator[Row]:
        done = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                done += len(line)
                if line.strip():
                    values, cause = _json_object(line.removeprefix(b"\xef\xbb\xbf"))
                    yield Row(f"line {number}", values, done, cause)


def _json_object(line: bytes) -> tuple[dict[str, Any], str | None]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return {}, "encoding"
    except (json.JSONDecodeError, RecursionError):
        return {}, "json"
    return (value, None) if isinstance(value, dict) else ({}, "json")


class SeparatedRows:
    """CSV (quoted fields) or TSV (never quoted); the first row names the columns unless `columns` are given."""

    unit = "B"

    def __init__(self, path: Path, delimiter: str, encoding: str, columns: list[str] | None) -> None:
        self.path = _file(path)
        self.total: int | None = path.stat().st_size
        self.delimiter = delimiter
        self.encoding = encoding
        self.header = columns is None
        if columns is None:
            with open(path, "rb") as file:
                columns = next(self._reader(self._text(file)), [])
        self.columns = [name.strip() for name in columns]
        if not any(self.columns):
            raise UserError(f"{path}: the file is empty; its first row must name the columns")
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise UserError(f"{path}: column {repeated[0]!r} occurs twice in the first row; rename one of them")

    def _text(self, file: Any) -> TextIOWrapper:
        try:
            # surrogates mark bytes that are not in the encoding, so that one bad row is counted instead of stopping all
            return TextIOWrapper(file, encoding=self.encoding, errors="surrogateescape", newline="")
        except LookupError:
            raise UserError(f"--encoding {self.encoding}: no such encoding; try utf-8-sig or gb18030") from None

    def _reader(self, text: TextIOWrapper) -> Iterator[list[str]]:
        if self.delimiter == ",":
            return csv.reader(text)
        return csv.reader(text, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)

    def __iter__(self) -> Iterator[Row]:
        csv.field_size_limit(1 << 24)
        with open(self.path, "rb") as file:
            reader = self._reader(self._text(file))
            if self.header:
                next(reader, None)
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    cells = []
                    yield Row(f"line {reader.line_num}", {}, file.tell(), "columns")  # type: ignore[attr-defined]
                if cells:
                    yield self._row(cells, f"line {reader.line_num}", file.tell())  # type: ignore[attr-defined]

    def _row(self, cells: list[str], place: str, done: int) -> Row:
        if any("\udc80" <= letter <= "\udcff" for cell in cells for letter in cell):
            return Row(place, {}, done, "encoding")
        if len(cells) != len(self.columns):
            return Row(place, {}, done, "columns")
        return Row(place, dict(zip(self.columns, cells)), done)


class Coco:
    """`{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`: a row an image."""

    unit = "image"

    def __init__(self, path: Path) -> None:
        try:
            content = json.loads(_file(path).read_bytes())
            self.images: list[dict[str, Any]] = content["images"]
            self.captions: dict[Any, list[str]] = {}
            for note in content["annotations"]:
                self.captions.setdefault(note["image_id"], []).append(note["caption"])
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{path}: not a COCO captions file ({reason}); it needs 'images' with 'id' and 'file_name', "
                "and 'annotations' with 'image_id' and 'caption'"
            ) from None
        self.total: int | None = len(self.images)
        self.columns = ["id", "image", "captions"]

    def __iter__(self) -> Iterator[Row]:
        for number, image in enumerate(self.images, 1):
            name, key = image.get("file_name"), image.get("id")
            yield Row(f"image {key}", {"id": key, "image": name, "captions": self.captions.get(key, [])}, number)


class HuggingFace:
    """A folder of `save_to_disk`, a folder or file of data, or a dataset's name; pictures stay undecoded bytes."""

    unit = "row"

    def __init__(self, source: str, config: str | None, split: str | None) -> None:
        splits = _hub_splits(source, config)
        if split is not None and split not in splits:
            raise UserError(f"{source}: no split {split!r}; it has {sorted(splits)}")
        self.splits = {name: data for name, data in splits.items() if split in (None, name)}
        first = next(iter(self.splits.values()))
        columns = first.column_names or list(next(iter(first), {}))
        self.columns = list(columns)
        sizes = [_rows(data) for data in self.splits.values()]
        self.total: int | None = sum(size for size in sizes if size) if all(sizes) else None

    def __iter__(self) -> Iterator[Row]:
        done = 0
        for split, data in self.splits.items():
            for number, values in enumerate(_undecoded(data)):
                done += 1
                yield Row(f"{split} row {number}", values, done, None, split)


def _hub_splits(source: str, config: str | None) -> dict[str, Any]:
    import datasets

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


def _undecoded(data: Any) -> Iterable[dict[str, Any]]:
    import datasets

    for name, feature in (data.features or {}).items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
    return data


def open_rows(
    source: str,
    kind: Format,
    *,
    encoding: str = "utf-8-sig",
    columns: list[str] | None = None,
    hf_config: str | None = None,
    hf_split: str | None = None,
) -> RowReader:
    """The rows of `source`; UserError names it when it cannot be opened or is not of that format."""
    match kind:
        case "jsonl":
            return JsonLines(Path(source))
        case "coco":
            return Coco(Path(source))
        case "csv":
            return SeparatedRows(Path(source), ",", encoding, columns)
        case "tsv":
            return SeparatedRows(Path(source), "\t", encoding, columns)
        case "hf":
            return HuggingFace(source, hf_config, hf_split)
