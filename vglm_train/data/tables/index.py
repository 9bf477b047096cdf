"""What is kept of a table in memory: for each row where it lies, and hashes of what a split must keep together."""

import hashlib
import json
import os
import sys
import zipfile
from array import array
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vglm_train.data.record import RecordError
from vglm_train.data.shards.index import LANGUAGES, estimate_tokens
from vglm_train.data.tables.base import Row, TableFile
from vglm_train.data.tables.canonical import NoPicture, to_record
from vglm_train.data.tables.fields import Columns
from vglm_train.files import replace_file

VERSION = 3
SPLITS = 255  # that are counted; a key with more values is no split
CACHED_FROM = 8 << 20  # bytes of a table from which its index is kept on disk


@dataclass(frozen=True, slots=True)
class TableIndex:
    """Of n rows, in the order of the table. Hashes are 64 bits of BLAKE2b; 0: there is none."""

    offsets: NDArray[np.int64]  # [n,2] offset and size
    groups: NDArray[np.uint64]  # [n] the patient's or page's name
    pictures: NDArray[np.uint64]  # [n] the first picture: its path, see Names, or its bytes
    contents: NDArray[np.uint64]  # [n] texts and pictures: equal rows are one
    more: NDArray[np.uint64]  # [m,2] row, hash of a further picture
    languages: NDArray[np.uint8]  # [n] bit n for entry n of LANGUAGES; 0: the row is damaged
    turns: NDArray[np.uint16]  # [n] questions with answers; 0: captions, or damaged
    lengths: NDArray[np.uint16]  # [n] about how many tokens are said: of a dialogue all, of captions the mean
    states: NDArray[np.uint8]  # [n] index into STATES
    splits: NDArray[np.uint8]  # [n] index into split_names
    split_names: NDArray[np.str_]  # what rows say their split is; the first is that of rows that say nothing: ""

    def __len__(self) -> int:
        return len(self.offsets)

    def count(self, state: str) -> int:
        return int((self.states == STATES.index(state)).sum())


STATES = ("usable", "caption", "record", "text")  # caption: no answer; record: not readable; text: names no picture


def hashed(name: str | bytes) -> int:
    data = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) or 1


class Names:
    """How pictures' paths are compared: images/./a.jpg and images/a.jpg are one, and so is, in a table whose paths
    start from /data, /data/images/a.jpg. An absolute path to anywhere else stays as it is.
    """

    def __init__(self, images: Path) -> None:
        """`images`: the folder that paths start from."""
        self._starts = tuple(f"{folder}/" for folder in dict.fromkeys((os.path.abspath(images), images.resolve())))

    def of(self, path: str) -> str:
        name = os.path.normpath(path)
        start = next((start for start in self._starts if name.startswith(start)), "")
        return name.removeprefix(start).replace("\\", "/")


def build_index(file: TableFile, columns: Columns, images: Path) -> TableIndex:
    """One pass over the table, with a progress bar where it takes long; from the last time's where the table has not
    changed since."""
    kept = _cache_path(file, columns, images)
    if kept is not None and (found := _load(kept)) is not None:
        return found
    draft = _Draft(Names(images))
    interval = 0.2 if sys.stderr.isatty() else 15.0  # sparse lines in a log
    title = f"read {file.path.name}"
    bar = tqdm(total=file.size, unit=file.unit, unit_scale=True, desc=title, delay=2, mininterval=interval)
    with bar:
        for row in file.scan():
            draft.add(row, columns)
            if len(draft.states) % 1000 == 0:
                bar.update(row.offset + row.size - bar.n)
    index = draft.index()
    if kept is not None:
        _save(kept, index)
    return index


class _Draft:
    """The columns of an Index as they grow."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.offsets, self.more = array("q"), array("Q")
        self.groups, self.pictures, self.contents = array("Q"), array("Q"), array("Q")
        self.languages, self.turns, self.states = array("B"), array("H"), array("B")
        self.lengths, self.splits, self.split_names = array("H"), array("B"), {"": 0}

    def add(self, row: Row, columns: Columns) -> None:
        self.offsets.extend((row.offset, row.size))
        group = picture = content = languages = turns = split = length = 0
        try:
            if row.values is None:
                raise RecordError("record", "not readable")
            record, pictures = to_record(row.values, columns)
        except RecordError as error:
            state = "text" if isinstance(error, NoPicture) else error.cause
        else:
            state = "usable"
            names = [hashed(self.names.of(each) if isinstance(each, str) else each) for each in pictures]
            picture = names[0]
            for other in names[1:]:
                self.more.extend((len(self.states), other))
            group = hashed(record["group"]) if "group" in record else 0
            split = self.split_names.setdefault(record.get("split", ""), min(len(self.split_names), SPLITS))
            texts = _texts(record)
            content = hashed("\0".join(texts) + str(names))
            length = sum(map(estimate_tokens, texts)) // (1 if "turns" in record else len(texts))
            languages, turns = _languages(record), len(record.get("turns", ())) // 2
        self.splits.append(split)
        self.lengths.append(min(length, 2**16 - 1))
        self.groups.append(group)
        self.pictures.append(picture)
        self.contents.append(content)
        self.languages.append(languages)
        self.turns.append(min(turns, 2**16 - 1))
        self.states.append(STATES.index(state))

    def index(self) -> TableIndex:
        return TableIndex(
            offsets=np.array(self.offsets, dtype=np.int64).reshape(-1, 2),
            groups=np.array(self.groups, dtype=np.uint64),
            pictures=np.array(self.pictures, dtype=np.uint64),
            contents=np.array(self.contents, dtype=np.uint64),
            more=np.array(self.more, dtype=np.uint64).reshape(-1, 2),
            languages=np.array(self.languages, dtype=np.uint8),
            turns=np.array(self.turns, dtype=np.uint16),
            lengths=np.array(self.lengths, dtype=np.uint16),
            states=np.array(self.states, dtype=np.uint8),
            splits=np.array(self.splits, dtype=np.uint8),
            split_names=np.array(list(self.split_names)[: SPLITS + 1]),
        )


def _texts(record: dict[str, Any]) -> list[str]:
    """All its texts: equal records say the same."""
    if "turns" in record:
        return [turn["text"] for turn in record["turns"]]
    return [text for texts in record["captions"].values() for text in texts]


def _languages(record: dict[str, Any]) -> int:
    languages = [record["language"]] if "turns" in record else record["captions"]
    return sum(1 << bit for bit, name in enumerate(LANGUAGES) if name in languages)


def _cache_path(file: TableFile, columns: Columns, images: Path) -> Path | None:
    """Where the index of a large table is kept: in the user's cache folder, under all that it depends on."""
    if not file.path.is_file() or file.path.stat().st_size < CACHED_FROM:
        return None
    state = file.path.stat()
    key = [VERSION, file.identity, str(file.path.resolve()), state.st_size, state.st_mtime_ns, repr(columns)]
    key.append(str(images.resolve()))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "vglm_train" / "tables" / f"{hashed(json.dumps(key)):016x}.npz"


def _load(path: Path) -> TableIndex | None:
    try:
        with np.load(path) as arrays:
            return TableIndex(**{part.name: arrays[part.name] for part in fields(TableIndex)})
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _save(path: Path, index: TableIndex) -> None:
    """Whole or not at all; a machine that cannot keep it reads the table again next time."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as out:
            np.savez(out, **{part.name: getattr(index, part.name) for part in fields(TableIndex)})
