"""Tars of random shape with random damage: of the samples that were there, each is read whole or counted.

None becomes part of another, none is read twice, and check_shards, training and convert agree.
"""

import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_pictures import encoded
from made_shards import write_manifest
from PIL import Image

from data_tools.check_shards.__main__ import run as check_shards
from vglm_train.data.record import DamagedSample
from vglm_train.data.sample import StoredSample, use_sample
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.data.tables.layouts.tars import TarTable
from vglm_train.errors import UserError
from vglm_train.image import open_image

PICTURES = [encoded(Image.new("L", (6, 5), 10 * number), "PNG") for number in range(6)]
KEYS = [lambda n: f"{n:06d}", lambda n: f"folder.v1/{n}", lambda n: f"{'long' * 40}/{n}", lambda n: f"图片/第{n}张"]
STRAY = [".DS_Store", "._000000.png", "folder/._x.json", "__MACOSX/a.png", "README", "__meta__.json"]
FORMS = [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]

Member = tuple[str, bytes]


class Shape(NamedTuple):
    """A tar, and what is in it: of each sample, in the order of its first member, its number or what it lacks."""

    data: bytes
    samples: list[int | str]


@st.composite
def shapes(draw: st.DrawFn, neighbours: bool = False) -> Shape:
    """`neighbours`: members of one sample stand together."""
    count, key_of = draw(st.integers(1, 6)), draw(st.sampled_from(KEYS))
    lacking = draw(st.dictionaries(st.integers(0, count - 1), st.sampled_from(["image", "record"]), max_size=2))
    members: list[tuple[int, Member]] = []
    for number in range(count):
        suffix = draw(st.sampled_from(["png", "PNG", "jpg"]))
        record = {"id": str(number), "image_id": number, "captions": {"en": [f"photo {number}"]}}
        own = [
            (f"{key_of(number)}.{suffix}", PICTURES[number]),
            (f"{key_of(number)}.json", json.dumps(record).encode()),
        ]
        if number in lacking:
            del own[lacking[number] == "record"]
        members += [(number, member) for member in own]
    if not neighbours:
        members = draw(st.permutations(members))
    order = list(dict.fromkeys(number for number, _ in members))
    content = [member for _, member in members]
    for name in draw(st.lists(st.sampled_from(STRAY), max_size=3)):
        content.insert(draw(st.integers(0, len(content))), (name, b"stray"))
    return Shape(written(content, draw(st.sampled_from(FORMS))), [lacking.get(number, number) for number in order])


def written(content: list[Member], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def outcome(reader: ShardReader, shard: Shard, index: int) -> tuple[str, int] | str:
    """Key and number of a sample, whose picture and record are of one number; the cause where it cannot be used."""

    def use(stored: StoredSample) -> tuple[str, int]:
        (caption,) = stored.record.captions["en"]
        if caption == f"photo {stored.image_id}":  # else the record itself was hit
            level = open_image(stored.images[0]).getpixel((0, 0))
            assert level == (10 * stored.image_id,) * 3, "a picture of another sample"
        return stored.key, stored.image_id

    try:
        return use_sample(reader, shard, index, use)
    except DamagedSample as damage:
        return damage.cause


def outcomes(path: Path, samples: int) -> list[tuple[str, int] | str]:
    shard = write_manifest(path.parent, {path.name: samples}).shards[0]
    reader = ShardReader(1)
    return [outcome(reader, shard, index) for index in range(samples)]


@settings(deadline=None, max_examples=60)
@given(st.lists(shapes(), min_size=1, max_size=2))
def test_a_tar_of_any_shape(parts: list[Shape]) -> None:
    """Whole tars, one or two put one behind the other (the second's keys then occur twice)."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        path.write_bytes(b"".join(part.data for part in parts))
        expected = [each for part in parts for each in part.samples]
        found = outcomes(path, len(expected))
        assert [each if isinstance(each, str) else each[1] for each in found] == expected
        rows = [row.values for row in TarTable(path, [path]).scan()]
        assert [row is not None and (row.get("image") is not None, "captions" in row) for row in rows] == [
            (each != "image", each != "record") for each in expected
        ]
        for new in (False, True):
            summary = check_shards(path.parent, workers=1, new_manifest=new)
            assert summary["samples"] == len(found)
            assert summary["damage"] == Counter(each for each in found if isinstance(each, str))
            assert not summary["problems"]


@st.composite
def harms(draw: st.DrawFn, data: bytes) -> list[tuple[str, int, int]]:
    """What is done to a file's bytes: (how, where, how much); often at its headers and the names in them."""
    useful = min(len(data), len(data.rstrip(b"\0")) + 600)  # a tar ends in 10 KiB of zeros
    headers = [found.start() - 257 for found in re.finditer(b"ustar", data)]
    near = st.tuples(st.sampled_from(headers), st.integers(0, 1100)).map(sum)
    places = st.one_of(st.integers(0, useful - 1), near.map(lambda place: min(place, useful - 1)))
    kind = st.sampled_from(["flip", "flip", "zeros", "cut"])
    return draw(st.lists(st.tuples(kind, places, st.integers(1, 1500)), min_size=1, max_size=3))


def harmed(data: bytes, harms: list[tuple[str, int, int]]) -> bytes:
    content = bytearray(data)
    for how, where, much in harms:
        if where >= len(content):
            continue
        if how == "flip":
            content[where] ^= much % 255 + 1
        elif how == "zeros":
            content[where : where + much] = bytes(len(content[where : where + much]))
        else:
            del content[where:]
    return bytes(content)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damage_anywhere(data: st.DataObject) -> None:
    """With the manifest of the tar as it was: each of its samples is read or counted, or the shard is refused by
    name."""
    shape = data.draw(shapes(neighbours=data.draw(st.booleans())))
    content = harmed(shape.data, data.draw(harms(shape.data)))
    there = len(shape.samples)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        path.write_bytes(content)
        found = refused(path, there) or outcomes(path, there)
        summary = check_shards(path.parent, workers=1)
        if isinstance(found, str):
            assert str(path) in found
            assert summary["problems"]
            return
        read = [each for each in found if not isinstance(each, str)]
        assert len({key for key, _ in read}) == len({number for _, number in read}) == len(read), "one is read twice"
        counted = Counter(each for each in found if isinstance(each, str))
        beyond = there - summary["samples"]  # training counts each of these, check_shards names what is lost once
        lost = sum(entry["key"].startswith("after ") for entry in summary["damaged"])
        counted["truncated"] += lost - beyond
        assert +counted == summary["damage"]
        told = f"{summary['samples']} samples, the manifest says {there}"
        assert not beyond or any(told in problem for problem in summary["problems"])


def refused(path: Path, samples: int) -> str | None:
    """What is said of the tar as a whole."""
    try:
        outcomes(path, samples)
    except UserError as error:
        return str(error)
    return None
