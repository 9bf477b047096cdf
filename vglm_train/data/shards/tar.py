"""Tars as samples, by webdataset's rule: a sample is what shares a name up to the first dot of the file's name."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vglm_train.data.shards.tar_members import Member, TarWalk
from vglm_train.files import open_binary
from vglm_train.image import SUFFIXES

IMAGE_EXTENSIONS = SUFFIXES
PREFERRED = ("jpg", "jpeg", "png", "webp")  # where a sample has several pictures, one of these is taken
RECORD = "json"
TEXTS = frozenset((RECORD, "txt"))
HIDDEN = "hidden files, such as macOS's ._* and .DS_Store"
SHOWN = 4  # members that are named

_IMAGES = frozenset(IMAGE_EXTENSIONS)
_NUMBERED = re.compile(rf"(\d{{1,6}})\.({'|'.join(IMAGE_EXTENSIONS)})")  # behind the key: pictures of a dialogue


class CaptionCounts(NamedTuple):
    """What the records of a shard say: how many captions, and how long. See data/shards/index.py."""

    counts: NDArray[np.uint8]  # [n,languages] captions
    lengths: NDArray[np.uint8]  # [captions] about how many tokens each has, sample by sample, language by language
    starts: NDArray[np.int64]  # [n] where in `lengths` a sample begins


@dataclass(slots=True)
class TarSample:
    """The members of one sample by what follows its key, in small letters: "jpg", "1.jpg", "json"."""

    key: str
    members: dict[str, Member]
    doubt: bool = False  # which members of the key belong together cannot be told

    def image(self) -> tuple[str, Member] | None:
        """Its picture with the extension: the first of PREFERRED in the tar, else the first of IMAGE_EXTENSIONS, else
        the numbered one with the smallest number."""
        pictures = [name for name in self.members if name in _IMAGES]
        chosen = next((name for name in pictures if name in PREFERRED), pictures[0] if pictures else None)
        if chosen is not None:
            return chosen, self.members[chosen]
        name = next(iter(self.numbered()), None)
        return None if name is None else (name.rpartition(".")[2], self.members[name])

    def numbered(self) -> list[str]:
        """Names of its numbered pictures, "1.jpg" and on, in order."""
        found = [(int(match[1]), name) for name in self.members if (match := _NUMBERED.fullmatch(name))]
        return [name for _, name in sorted(found)]

    def further(self) -> list[Member]:
        """The numbered pictures behind its first."""
        numbered = self.numbered()
        first_is_numbered = bool(numbered) and _IMAGES.isdisjoint(self.members)
        return [self.members[name] for name in numbered[first_is_numbered:]]

    def dotted(self) -> list[str]:
        """Names of members that seem to be samples of their own, whose keys hold dots: such a key is lost.

        They are KEY.a.jpg beside KEY.a.json or KEY.a.txt, and what a sample lacks if KEY.a alone has it.
        """
        stems: dict[str, set[str]] = {}
        for name in self.members:
            stem, dot, extension = name.rpartition(".")
            if dot and (extension in _IMAGES or extension in TEXTS):
                stems.setdefault(stem, set()).add(extension)
        if not stems:
            return []
        lacks_picture, lacks_text = self.image() is None, TEXTS.isdisjoint(self.members)
        found = []
        for stem, extensions in stems.items():
            texts, pictures = extensions & TEXTS, extensions & _IMAGES
            if (texts and (pictures or lacks_text)) or (pictures and lacks_picture):
                found += [f"{self.key}.{stem}.{extension}" for extension in sorted(extensions)]
        return found


@dataclass(slots=True)
class TarContents:
    """A tar's samples, in the order of their first members, and what else it holds."""

    samples: list[TarSample]
    walk: TarWalk
    last: int | None  # the sample of the last member
    beyond: bool  # the file ends within that member
    unread: Counter[str]  # members that belong to no sample, by what they are

    def cut(self) -> int | None:
        """The sample within which the file ends."""
        if not self.walk.cut or self.last is None:
            return None
        sample = self.samples[self.last]
        whole = not self.beyond and sample.image() is not None and RECORD in sample.members
        return None if whole else self.last

    def unread_members(self) -> Counter[str]:
        """Members that no reader of samples looks at, by what they are."""
        unread = Counter(self.unread)
        for sample in self.samples:
            image = sample.image()
            used = {RECORD, *sample.numbered(), *(image or ())[:1]}
            unread.update(f".{name}" for name in sample.members if name not in used)
        return unread

    def fault(self) -> str | None:
        """Why the file cannot be read as samples, and what to do."""
        if self.walk.fault is not None:
            return self.walk.fault
        found = [(sample.key, names) for sample in self.samples if (names := sample.dotted())]
        if not found:
            return None
        key, names = found[0]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        others = f", and {len(found) - 1} other samples are alike" if len(found) > 1 else ""
        return (
            f"names with dots before the extension: {', '.join(names[:SHOWN])}{more}. A sample's key ends at the first "
            f"dot, so these would be parts of one sample, {key!r}{others}. Rename the files, with another sign in "
            "place of the dots, and pack them anew"
        )


@dataclass(frozen=True, slots=True)
class TarIndex:
    """Where the n samples of a shard lie, in the order of the file."""

    keys: NDArray[np.bytes_]  # [n] UTF-8
    offsets: NDArray[np.int64]  # [n,4] offset and size of image, then of JSON; size -1: there is none
    extensions: NDArray[np.uint8]  # [n] index into IMAGE_EXTENSIONS
    cut: int | None  # the sample within which the file ends, which is damaged; more may be lost
    languages: NDArray[np.uint8] | None = None  # [n] bits, see data/shards/index.py; None: not read yet
    caption_counts: CaptionCounts | None = None  # None: not read yet
    more: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 3), dtype=np.int64))
    # [m,3] sample, offset and size of every further picture, KEY.1.jpg and on, in the order of samples and numbers
    fault: str | None = None  # why it cannot be read as samples
    lost: str | None = None  # where the walk met something that is no member: what is behind it is lost
    lacks: dict[int, str] = field(default_factory=dict)  # sample -> why a member of it cannot be had
    unread: dict[str, int] = field(default_factory=dict)  # members that are not used, by what they are

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        key: str = self.keys[index].decode("utf-8", "surrogateescape")
        return key

    def further(self, index: int) -> list[tuple[int, int]]:
        """Offset and size of each further picture of sample `index`."""
        if not len(self.more):
            return []
        first, last = np.searchsorted(self.more[:, 0], (index, index + 1))
        return [(offset, size) for _, offset, size in self.more[first:last].tolist()]


def read_tar_index(path: Path) -> TarIndex:
    """Walk over the headers of a tar. A damaged header ends the walk as the end of the file would."""
    handle = open_binary(path)
    try:
        return walk_tar(handle)
    finally:
        os.close(handle)


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member: what is before and behind the first dot of its file's name; "" without one."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return (f"{folder}{slash}{stem}", extension) if stem and stem != file else ("", "")


def read_contents(handle: int) -> TarContents:
    """The samples of an open tar. Members of one key need not be neighbours, as long as the key occurs once."""
    walk = TarWalk(handle)
    unread: Counter[str] = Counter()
    pieces: dict[tuple[int, str], list[_Piece]] = {}
    place, ours = -1, False
    for member in walk.members():
        key, extension = split_name(member.name)
        name = member.name.rpartition("/")[2]
        ours = bool(key) and not name.startswith((".", "__")) and "__MACOSX/" not in member.name
        if ours:
            place += 1
            pieces.setdefault((member.part, key), []).append(_Piece(place, extension.lower(), member))
        elif name.startswith(".") or "__MACOSX/" in member.name:
            unread[HIDDEN] += 1
        elif not key:  # else it is one of webdataset's own marks, __KEY
            unread["files without an extension"] += 1
    groups = [(key, *group) for (_, key), own in pieces.items() for group in _grouped(own)]
    groups.sort(key=lambda group: group[1][0].place)
    samples = [TarSample(key, {piece.extension: piece.member for piece in own}, doubt) for key, own, doubt in groups]
    last = next((number for number, (_, own, _) in enumerate(groups) if own[-1].place == place), None)
    return TarContents(samples, walk, last, walk.beyond and ours, unread)


class _Piece(NamedTuple):
    """A member of a sample. `place`: which one it is of all such members of the tar."""

    place: int
    extension: str
    member: Member


def _grouped(pieces: list[_Piece]) -> Iterator[tuple[list[_Piece], bool]]:
    """The members of one key as samples, and whether it is in doubt which of them belong together.

    Where an extension occurs twice there are several samples of the key. Then neighbours belong together, and another
    sample begins where an extension comes again. That is in doubt where it gives samples of unequal members.
    """
    if len({piece.extension for piece in pieces}) == len(pieces):
        yield pieces, False
        return
    runs: list[list[list[_Piece]]] = []
    for before, piece in zip([None, *pieces], pieces):
        if before is None or piece.place != before.place + 1:
            runs.append([[]])
        elif any(piece.extension == own.extension for own in runs[-1][-1]):
            runs[-1].append([])
        runs[-1][-1].append(piece)
    for run in runs:
        doubt = len({frozenset(piece.extension for piece in own) for own in run}) > 1
        yield from ((own, doubt) for own in run)


def walk_tar(handle: int) -> TarIndex:
    """`read_tar_index` of an open file."""
    contents = read_contents(handle)
    n = len(contents.samples)
    offsets = np.tile(np.array((0, -1, 0, -1), dtype=np.int64), (n, 1))
    extensions = np.zeros(n, dtype=np.uint8)
    more: list[tuple[int, int, int]] = []
    lacks: dict[int, str] = {}
    for number, sample in enumerate(contents.samples):
        image, record = sample.image(), sample.members.get(RECORD)
        if image is not None:
            extensions[number] = IMAGE_EXTENSIONS.index(image[0])
        for column, member in ((0, image and image[1]), (2, record)):
            if member is not None and member.lack is None:
                offsets[number, column : column + 2] = member.offset, member.size
            elif member is not None:
                lacks[number] = f"{member.name}: {member.lack}"
        further = sample.further()
        more += [(number, member.offset, member.size) for member in further]
        for member in further:
            if member.lack is not None:
                lacks[number] = f"{member.name}: {member.lack}"
        if sample.doubt:
            lacks[number] = "several samples have this key, with unequal members: which belong together cannot be told"
    return TarIndex(
        keys=np.array([sample.key.encode("utf-8", "surrogateescape") for sample in contents.samples], dtype=np.bytes_),
        offsets=offsets,
        extensions=extensions,
        cut=contents.cut(),
        more=np.array(more, dtype=np.int64).reshape(-1, 3),
        fault=contents.fault(),
        lost=contents.walk.lost,
        lacks=lacks,
        unread=dict(contents.unread_members().most_common()),
    )
