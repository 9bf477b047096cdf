"""Rows of features in files, found by the picture they are of.

    FOLDER/KEY/store.json          what the rows are of (`Identity`), in words; KEY is its hash
              /part-*.rows         rows of p x c values, one after the other
              /part-*.index        an entry a row: picture, view, checksum; a row without an entry is not there
              /done                shards all of whose pictures are stored

A row is written and synced before its entry, so a kill leaves nothing that looks whole and is not. Rows are read with
pread and not through a memory map: a file that was cut or a disk that fails is then an error, not the process's end.
"""

import os
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vglm_train.data.features.identity import Identity, picture_digest
from vglm_train.data.lru import LruCache
from vglm_train.errors import UserError
from vglm_train.files import write_text
from vglm_train.folders import make_folder
from vglm_train.image import ImageError

ENTRY = np.dtype([("key", "S20"), ("row", "<i4"), ("sum", "<u4")])  # key: digest of the picture, number of the view
DAMAGED = -1  # row of a picture that cannot be decoded; `sum` is its index in CAUSES
CAUSES = ("undecodable", "bomb")  # of ImageError
PART_BYTES = 2**31
SYNC_BYTES = 2**26
OPEN_FILES = 64


def row_key(digest: bytes, view: int) -> bytes:
    return digest + view.to_bytes(4)


class FeatureStore:
    """Features of the views of pictures. `refresh` finds rows that were added later."""

    def __init__(self, root: Path, identity: Identity, views: int) -> None:
        """Opens the folder, or makes it. UserError where it cannot be used."""
        self.root, self.folder, self.identity, self.views = root, root / identity.key, identity, views
        self.shape = (identity.tokens, identity.width)
        self.dtype: torch.dtype = getattr(torch, identity.dtype)
        self.row_bytes = identity.tokens * identity.width * self.dtype.itemsize
        self._handles: LruCache[int, int] = LruCache(OPEN_FILES, self._open, os.close)
        self._claim()
        self.refresh()

    def read(self, image: bytes, epoch: int) -> Tensor:
        """Features [p,c] of an encoded picture as `epoch` sees it: view epoch % views.

        ImageError for a picture that could not be decoded. UserError where the row is not there, or is not what was
        written; it is then taken out of use, and the next start makes it again.
        """
        key = row_key(picture_digest(image), epoch % self.views)
        index = int(np.searchsorted(self._entries["key"], np.array(key, "S20")))
        if index == len(self._entries) or self._entries["key"][index] != np.array(key, "S20"):
            self._forget()
            raise UserError(
                f"{self.folder}: holds no features of a picture that training reads; it must have changed since they "
                "were made. Start again: what is missing is computed first."
            )
        entry = self._entries[index]
        if entry["row"] == DAMAGED:
            raise ImageError(CAUSES[entry["sum"]], "as it was when its features were to be made")
        return self._row(int(self._owners[index]), int(entry["row"]), int(entry["sum"]))

    def refresh(self) -> None:
        """Read the indices again. Of a row that stands twice the first is kept."""
        self.parts = sorted(self.folder.glob("part-*.index"))
        read = [_read_index(path, self.row_bytes) for path in self.parts]
        found = [entries for entries, _ in read]
        entries = np.concatenate([np.zeros(0, ENTRY), *found])
        owners = np.repeat(np.arange(len(found), dtype=np.int32), [len(part) for part in found])
        _, first = np.unique(entries["key"], return_index=True)
        self._entries, self._owners = entries[first], owners[first]
        lost = np.concatenate([np.zeros(0, ENTRY), *(each for _, each in read)])
        if not self.holds(lost["key"]).all():
            self._forget()  # a file was cut: what is missing is made as that of new pictures is
        for handle in self._handles.values.values():
            os.close(handle)
        self._handles.values.clear()

    def __len__(self) -> int:
        """Rows, those of damaged pictures too."""
        return len(self._entries)

    def holds(self, keys: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of `keys` (S20) are stored."""
        return np.isin(keys, self._entries["key"])

    def used(self) -> dict[str, int]:
        """Bytes of the rows of each store in the root, by folder's name."""
        found: dict[str, int] = {}
        for path in self.root.glob("*/part-*.rows"):
            found[path.parent.name] = found.get(path.parent.name, 0) + path.stat().st_size
        return found

    def done(self) -> set[str]:
        """Names of what was stored whole, with at least this many views."""
        try:
            lines = [line.split() for line in (self.folder / "done").read_text().splitlines()]
        except FileNotFoundError:
            return set()
        return {line[0] for line in lines if len(line) == 2 and int(line[1]) >= self.views}

    def mark_done(self, names: Iterable[str]) -> None:
        """Remember that all pictures of `names` (of shards) are stored."""
        with open(self.folder / "done", "a") as file:
            file.write("".join(f"{name} {self.views}\n" for name in names))
            file.flush()
            os.fsync(file.fileno())

    def _claim(self) -> None:
        described = self.folder / "store.json"
        make_folder(f"data.features.folder {self.root}", self.folder)
        try:
            if not described.exists():
                write_text(described, self.identity.json())
            found = described.read_text()
        except OSError as error:
            raise UserError(
                f"data.features.folder {self.root}: {error.strerror}. Make it writable, or give another."
            ) from error
        if found != self.identity.json():
            raise UserError(f"{described}: describes other features than its folder's name says. Delete {self.folder}.")

    def _row(self, part: int, row: int, checksum: int) -> Tensor:
        values = torch.empty(self.row_bytes, dtype=torch.uint8)
        try:
            read = os.preadv(self._handles[part], [values.numpy().data], row * self.row_bytes)
        except OSError as error:
            raise UserError(f"{self.parts[part].with_suffix('.rows')}: cannot be read: {error.strerror}") from None
        if read != self.row_bytes or zlib.crc32(values.numpy().data) != checksum:
            rows = self.parts[part].with_suffix(".rows")
            self._forget()
            self.parts[part].unlink(missing_ok=True)
            rows.unlink(missing_ok=True)
            raise UserError(
                f"{rows}: row {row} is not what was written to it. The file was deleted; start again, and what it held "
                "is computed first. If it happens again, the disk is failing."
            )
        return values.view(self.dtype).view(self.shape)

    def _open(self, part: int) -> int:
        return os.open(self.parts[part].with_suffix(".rows"), os.O_RDONLY)

    def _forget(self) -> None:
        """The next start looks at every picture again."""
        (self.folder / "done").unlink(missing_ok=True)


class Writer:
    """Adds rows to a store, in files of its own: any number of processes may write at once."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.unsaved: list[NDArray[Any]] = []
        self._part: tuple[BinaryIO, BinaryIO] | None = None  # rows, index
        self._rows = self._saved = 0  # in this part

    def add(self, keys: NDArray[Any], features: Tensor) -> None:
        """Keys (S20) and features [k,p,c] on the CPU. UserError where the disk is full."""
        values = features.contiguous().view(torch.uint8).reshape(len(keys), -1).numpy()
        assert values.shape[1] == self.store.row_bytes
        for key, row in zip(keys, values):
            with _explained(self.store.folder):
                self._files()[0].write(row)
            self.unsaved.append(np.array([(key, self._rows, zlib.crc32(row))], ENTRY))
            self._rows += 1
            if (self._rows - self._saved) * self.store.row_bytes >= SYNC_BYTES:
                self.save()
            if self._rows * self.store.row_bytes >= PART_BYTES:
                self.close()

    def add_damaged(self, key: bytes, cause: str) -> None:
        """A picture that cannot be decoded, so that nobody tries again. `cause`: ImageError's."""
        self.unsaved.append(np.array([(key, DAMAGED, CAUSES.index(cause))], ENTRY))

    def save(self) -> None:
        """Make what was added survive a kill."""
        if not self.unsaved:
            return
        with _explained(self.store.folder):
            rows, index = self._files()
            for file, content in ((rows, b""), (index, np.concatenate(self.unsaved).tobytes())):
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        self.unsaved, self._saved = [], self._rows

    def close(self) -> None:
        self.save()
        for file in self._part or ():
            file.close()
        self._part, self._rows, self._saved = None, 0, 0

    def _files(self) -> tuple[BinaryIO, BinaryIO]:
        if self._part is None:
            path = self.store.folder / f"part-{uuid.uuid4().hex}.index"
            self._part = (path.with_suffix(".rows").open("xb"), path.open("xb"))
        return self._part

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Within it, an OSError is a UserError that says what was not written."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: features cannot be written: {error.strerror}. Make room, or give another "
            "data.features.folder; what is stored is kept, and the same command continues."
        ) from error


def _read_index(path: Path, row_bytes: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The entries of a part whose rows are there, and the others. What a kill cut off at the end is left out."""
    try:
        content = path.read_bytes()
        rows = path.with_suffix(".rows").stat().st_size // row_bytes
    except FileNotFoundError:  # taken out of use by another process
        return np.zeros(0, ENTRY), np.zeros(0, ENTRY)
    entries = np.frombuffer(content, ENTRY, len(content) // ENTRY.itemsize)
    there = entries["row"] < rows
    return entries[there], entries[~there]
