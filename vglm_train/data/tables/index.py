"""What is kept of a table in memory: for each row where it lies, and hashes of what a split must keep together."""

import hashlib
import json
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vglm_train.data.record import RecordError
from vglm_train.data.shards.index import LANGUAGES, estimate_tokens
from vglm_train.data.tables.base import Row, TableFile
from vglm_train.data.tables.canonical import NoPicture, labels, read_row
from vglm_train.data.tables.fields import Columns
from vglm_train.data.tables.image_paths import PictureFolder
from vglm_train.files import replace_file, user_cache
from vglm_train.progress import Progress

VERSION = 5  # of what rows mean, too: an index by older rules must not be read
SPLITS = 255  # that are counted; a key with more values is no split
CACHED_FROM = 8 << 20  # bytes of a table from which its index is kept on disk


@dataclass(frozen=True, slots=True)
class TableIndex:
    """Of n rows, in the order of the table. Hashes are 64 bits of BLAKE2b; 0: there is none."""

    positions: NDArray[np.int64]  # [n,3] offset, size and number, as of Row
    groups: NDArray[np.uint64]  # [n] the patient's or page's name
    pictures: NDArray[np.uint64]  # [n] the first picture: its path, as PictureFolder.key has it, or its bytes
    contents: NDArray[np.uint64]  # [n] texts and pictures: equal rows are one
    more: NDArray[np.uint64]  # [m,2] row, hash of a further picture
    languages: NDArray[np.uint8]  # [n] bit n for entry n of LANGUAGES; 0: the row is damaged
    turn_languages: NDArray[np.uint8]  # [n] the same, of the dialogue alone
    turns: NDArray[np.uint16]  # [n] questions with answers; 0: captions, or damaged
    lengths: NDArray[np.uint16]  # [n] about how many tokens are said: of a dialogue all, of captions the mean
    states: NDArray[np.uint8]  # [n] index into STATES
    splits: NDArray[np.uint8]  # [n] index into split_names
    split_names: NDArray[np.str_]  # what rows say their split is; the first is that of rows that say nothing: ""
    note_names: NDArray[np.str_]  # [k] what of rows that can be used is left out or doubtful, as RowReading.notes
    note_rows: NDArray[np.int64]  # [k] in how many rows

    def __len__(self) -> int:
        return len(self.positions)

    def count(self, state: str) -> int:
        return int((self.states == STATES.index(state)).sum())


BITS = {name: 1 << bit for bit, name in enumerate(LANGUAGES)}
STATES = ("usable", "caption", "record", "text")  # caption: no answer; record: not readable; text: names no picture


def hashed(name: str | bytes) -> int:
    data = name if isinstance(name, bytes) else _bytes(name)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) or 1


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of an emoji, as JSON may escape it
        return text.encode("utf-8", "surrogatepass")


def build_index(file: TableFile, columns: Columns, images: PictureFolder, keep: bool = True) -> TableIndex:
    """One pass over the table, with a progress bar where it takes long; from the last time's where the table has not
    changed since. `keep`: whether it may be written; whoever tries all numbers finds a patient's by its hash."""
    kept = _cache_path(file, columns, images) if keep else None
    if kept is not None and (found := _load(kept)) is not None:
        return found
    draft = _Draft(images)
    with Progress(file.size, file.unit, f"read {file.path.name}") as bar:
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

    def __init__(self, folder: PictureFolder) -> None:
        self.folder = folder
        self.positions, self.more = array("q"), array("Q")
        self.groups, self.pictures, self.contents = array("Q"), array("Q"), array("Q")
        self.languages, self.turns, self.states = array("B"), array("H"), array("B")
        self.turn_languages = array("B")
        self.lengths, self.splits, self.split_names = array("H"), array("B"), {"": 0}
        self.notes: Counter[str] = Counter()

    def add(self, row: Row, columns: Columns) -> None:
        self.positions.extend((row.offset, row.size, row.number))
        group = picture = content = languages = asked = turns = length = 0
        try:
            if row.values is None:
                raise RecordError("record", "not readable")
            record, pictures, notes = read_row(row.values, columns)
        except RecordError as error:
            state, split = "text" if isinstance(error, NoPicture) else error.cause, split_of(row, columns)
        else:
            state, split = "usable", record.get("split", "")
            if notes:
                self.notes.update(note.partition(": ")[0] for note in notes)
            names = [hashed(self.folder.key(each) if isinstance(each, str) else each) for each in pictures]
            picture = names[0]
            for other in names[1:]:
                self.more.extend((len(self.states), other))
            group = hashed(record["group"]) if "group" in record else 0
            texts, asked = _texts(record), _bits([record["language"]] if "turns" in record else ())
            content = hashed("\0".join(texts) + str(names))
            length = sum(map(estimate_tokens, texts)) // (1 if "turns" in record else len(texts))
            languages, turns = asked | _bits(record.get("captions", ())), len(record.get("turns", ())) // 2
        self.splits.append(self.split_names.setdefault(split, min(len(self.split_names), SPLITS)))
        self.turn_languages.append(asked)
        self.lengths.append(min(length, 2**16 - 1))
        self.groups.append(group)
        self.pictures.append(picture)
        self.contents.append(content)
        self.languages.append(languages)
        self.turns.append(min(turns, 2**16 - 1))
        self.states.append(STATES.index(state))

    def index(self) -> TableIndex:
        return TableIndex(
            positions=np.array(self.positions, dtype=np.int64).reshape(-1, 3),
            groups=np.array(self.groups, dtype=np.uint64),
            pictures=np.array(self.pictures, dtype=np.uint64),
            contents=np.array(self.contents, dtype=np.uint64),
            more=np.array(self.more, dtype=np.uint64).reshape(-1, 2),
            languages=np.array(self.languages, dtype=np.uint8),
            turn_languages=np.array(self.turn_languages, dtype=np.uint8),
            turns=np.array(self.turns, dtype=np.uint16),
            lengths=np.array(self.lengths, dtype=np.uint16),
            states=np.array(self.states, dtype=np.uint8),
            splits=np.array(self.splits, dtype=np.uint8),
            split_names=np.array(list(self.split_names)[: SPLITS + 1]),
            note_names=np.array(list(self.notes), dtype=np.str_),
            note_rows=np.array(list(self.notes.values()), dtype=np.int64),
        )


def split_of(row: Row, columns: Columns) -> str:
    """The split of a row that cannot be used; empty where it says none, or cannot be read."""
    return labels(row.values or {}, columns).get("split", "")


def _texts(record: dict[str, Any]) -> list[str]:
    """All its texts: equal records say the same."""
    if "turns" in record:
        return [turn["text"] for turn in record["turns"]]
    return [text for texts in record["captions"].values() for text in texts]


def _bits(languages: Iterable[str]) -> int:
    bits = 0
    for name in languages:
        bits |= BITS.get(name, 0)
    return bits


def _cache_path(file: TableFile, columns: Columns, images: PictureFolder) -> Path | None:
    """Where the index of a large table is kept: in the user's cache folder, under all that it depends on."""
    if not file.path.is_file() or file.path.stat().st_size < CACHED_FROM:
        return None
    state = file.path.stat()
    folder = [str(images.folder.resolve()), images.elsewhere]
    place = str(file.path.resolve())
    key = [VERSION, file.identity, place, state.st_size, state.st_mtime_ns, repr(columns), folder]
    return user_cache() / "tables" / f"{hashed(json.dumps(key)):016x}.npz"


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
