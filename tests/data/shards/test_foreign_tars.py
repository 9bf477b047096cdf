"""Tars as other tools and other machines write them: every sample is read or counted, and what is wrong is named."""

import bz2
import gzip
import io
import json
import lzma
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from made_shards import sample, write_manifest, write_shard
from webdataset.tariterators import base_plus_ext

from data_tools.check_shards.__main__ import run as check_shards
from data_tools.convert import __main__ as convert
from vglm_train.config.data import Cache, Source
from vglm_train.data.record import DamagedSample
from vglm_train.data.remote.manifest import manifest_of
from vglm_train.data.sample import StoredSample, use_sample
from vglm_train.data.shards.index import index_path, make_index, parse_index, write_index
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.tar import HIDDEN, read_tar_index, split_name
from vglm_train.data.tables.base import CAUSES
from vglm_train.errors import UserError
from vglm_train.image import open_image

Members = list[tuple[str, bytes]]
Links = tuple[tuple[str, str, bytes], ...]


def members(number: int, key: str = "", image: str = "jpg", record: str = "json") -> Members:
    content = sample(number)
    key = key or content["__key__"]
    return [(f"{key}.{image}", content["jpg"]), (f"{key}.{record}", content["json"])]


def write(
    path: Path, content: Members, links: tuple[tuple[str, str, bytes], ...] = (), form: int = tarfile.PAX_FORMAT
) -> Path:
    """`links`: name, what it leads to, type."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.linkname, info.type = target, kind
            tar.addfile(info)
    return path


def outcomes(path: Path, samples: int) -> list[int | str]:
    """By training's way: the number that the record and the picture agree on, or the cause."""
    shard = write_manifest(path.parent, {path.name: samples}).shards[0]
    reader = ShardReader(1)
    return [outcome(reader, shard, index) for index in range(samples)]


def outcome(reader: ShardReader, shard: Shard, index: int) -> int | str:
    def number(stored: StoredSample) -> int:
        assert open_image(stored.images[0]).tobytes() == open_image(sample(stored.image_id)["jpg"]).tobytes()
        return stored.image_id

    try:
        return use_sample(reader, shard, index, number)
    except DamagedSample as damage:
        return damage.cause


def agree(path: Path, expected: list[int | str]) -> dict:
    """Training and check_shards, with a manifest and writing one, give these outcomes; convert as many rows."""
    assert outcomes(path, len(expected)) == expected
    causes = Counter(each for each in expected if isinstance(each, str))
    for new in (False, True):
        summary = check_shards(path.parent, workers=1, new_manifest=new)
        assert (summary["samples"], summary["damage"]) == (len(expected), causes)
        assert not summary["problems"]
    assert Manifest.read(path.parent).samples == len(expected)
    assert outcomes(path, len(expected)) == expected, "with the index that was written"
    return summary


@pytest.mark.parametrize(("image", "record"), [("JPG", "JSON"), ("Jpeg", "json"), ("jfif", "json"), ("PNG", "json"),
                                               ("TIF", "json"), ("bmp", "json"), ("avif", "json")])  # fmt: skip
def test_suffixes_whatever_their_case(tmp_path: Path, image: str, record: str) -> None:
    agree(write(tmp_path / "a.tar", [*members(0, "", image, record), *members(1, "", image, record)]), [0, 1])


@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_a_sample_that_lacks_a_member_wherever_it_stands(tmp_path: Path, lacking: int) -> None:
    for member, cause in ((0, "image"), (1, "record")):
        content = [each for n in range(3) for m, each in enumerate(members(n)) if (n, m) != (lacking, member)]
        expected: list[int | str] = [0, 1, 2]
        expected[lacking] = cause
        agree(write(tmp_path / f"{cause}" / "a.tar", content), expected)


def test_members_that_are_not_neighbours(tmp_path: Path) -> None:
    """Sorted by extension, or as threads finished: a sample is its key, not its place."""
    pairs = [members(n) for n in range(4)]
    agree(write(tmp_path / "sorted" / "a.tar", [pair[side] for side in (1, 0) for pair in pairs]), [0, 1, 2, 3])
    mixed = [pairs[0][0], pairs[1][0], pairs[1][1], pairs[2][1], pairs[0][1], pairs[3][0], pairs[2][0], pairs[3][1]]
    agree(write(tmp_path / "mixed" / "a.tar", mixed), [0, 1, 2, 3])


def test_keys_that_occur_twice_are_two_samples(tmp_path: Path) -> None:
    first, second, other = members(0, "k"), members(1, "k"), members(2)
    agree(write(tmp_path / "next" / "a.tar", [*first, *second, *other]), [0, 1, 2])
    agree(write(tmp_path / "later" / "a.tar", [*first, *other, *second]), [0, 2, 1])
    agree(write(tmp_path / "half" / "a.tar", [*first, *other, second[0]]), [0, 2, "record"])
    doubtful = agree(write(tmp_path / "doubt" / "a.tar", [first[1], *second, *other]), ["image", "image", 2])
    assert "which belong together cannot be told" in doubtful["damaged"][0]["reason"]


def test_hidden_files_and_what_no_sample_uses(tmp_path: Path) -> None:
    content = [("._000000.jpg", b"mac"), (".DS_Store", b"mac"), *members(0), ("000000.txt", b"a"), ("000000.cls", b"1"),
               ("x/._1.json", b"mac"), *members(1, "x/1"), ("__MACOSX/x/1.jpg", b"mac"), ("README", b"text"),
               ("000000.seg.png", b"mask"), ("000000.png", b"also")]  # fmt: skip
    summary = agree(write(tmp_path / "a.tar", content), [0, 1])
    assert summary["unread"] == {
        HIDDEN: 4,
        ".txt": 1,
        ".cls": 1,
        "files without an extension": 1,
        ".seg.png": 1,
        ".png": 1,
    }
    assert summary["ok"]


def test_a_tar_cut_within_a_file_that_no_sample_uses(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [*members(0), *members(1), ("._x.jpg", bytes(3000))], form=tarfile.USTAR_FORMAT)
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset_data
    path.write_bytes(path.read_bytes()[: end + 1000])
    assert outcomes(path, 2) == [0, 1]


def test_links_stand_for_what_they_lead_to(tmp_path: Path) -> None:
    content = [*members(0, "a/0"), ("a/1.json", sample(0)["json"]), ("b/2.json", sample(0)["json"])]
    links = (("a/1.jpg", "a/0.jpg", tarfile.LNKTYPE), ("b/2.jpg", "../a/0.jpg", tarfile.SYMTYPE))
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        agree(write(tmp_path / str(form) / "a.tar", content, links, form), [0, 0, 0])


def test_a_link_out_of_the_tar_is_counted_and_named(tmp_path: Path) -> None:
    content = [*members(0), ("000001.json", sample(1)["json"]), members(2)[0]]
    links = (("000001.jpg", "/data/raw/1.jpg", tarfile.SYMTYPE), ("000002.json", "x" * 150, tarfile.SYMTYPE))
    summary = agree(write(tmp_path / "a.tar", content, links), [0, "image", "record"])
    reasons = {entry["key"]: entry["reason"] for entry in summary["damaged"]}
    assert reasons["000001"] == "000001.jpg: it is a link to /data/raw/1.jpg, which is not in the tar"
    assert "x" * 150 in reasons["000002"]
    assert not index_path(tmp_path / "a.tar").exists(), "it could not say why"


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_files_stored_with_holes(tmp_path: Path, form: str) -> None:
    """By GNU's tar: their bytes are not those of the file."""
    for name, data in (*members(0), *members(2)):
        (tmp_path / name).write_bytes(data)
    with open(tmp_path / "000001.jpg", "wb") as file:
        for hole in range(1, 60):
            file.seek(hole * 200_000)
            file.write(b"end")
    (tmp_path / "000001.json").write_bytes(sample(1)["json"])
    names = [f"{n:06d}.{kind}" for n in range(3) for kind in ("jpg", "json")]
    (tmp_path / "shards").mkdir()
    subprocess.run(["tar", "--sparse", f"--format={form}", "-cf", "shards/a.tar", *names], cwd=tmp_path, check=True)
    assert (tmp_path / "shards" / "a.tar").stat().st_size < 1_000_000
    summary = agree(tmp_path / "shards" / "a.tar", [0, "image", 2])
    assert "stored with holes" in summary["damaged"][0]["reason"]


def test_tars_put_one_behind_the_other(tmp_path: Path) -> None:
    for first in range(3):
        write(tmp_path / f"{first}.part", members(first))
    (tmp_path / "a.tar").write_bytes(b"".join((tmp_path / f"{n}.part").read_bytes() for n in range(3)))
    agree(tmp_path / "a.tar", [0, 1, 2])


def test_what_is_lost_behind_a_damaged_header_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", [each for n in range(4) for each in members(n)], form=tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    header = int(read_tar_index(path).offsets[2, 0]) - 512
    content[header + 20] ^= 0xFF
    path.write_bytes(content)
    assert outcomes(path, 4) == [0, 1, "truncated", "truncated"]
    assert check_shards(tmp_path, workers=1)["problems"] == ["a.tar: 2 samples, the manifest says 4"]
    for new in (False, True):
        summary = check_shards(tmp_path, workers=1, new_manifest=new)
        assert summary["damage"] == {"truncated": 1}
        assert f"no header of a member is at byte {header}" in summary["damaged"][0]["reason"]
        assert not summary["ok"]


COMPRESSIONS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip data", gzip.compress),
    "bzip2": ("bzip2 data", bz2.compress),
    "xz": ("xz data", lzma.compress),
    "zstd": ("zstd data", lambda data: b"\x28\xb5\x2f\xfd" + data),  # as far as a reader of tars looks
}
OTHERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a web page": (r"a web page \(HTML\)", lambda data: b"<html><body>not found</body></html>".ljust(600)),
    "a pointer": ("a Git LFS pointer", lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
    "anything": ("of no known kind", lambda data: bytes(range(1, 256)) * 4),
}


@pytest.mark.parametrize("kind", [*COMPRESSIONS, *OTHERS])
def test_a_tar_that_is_none_is_named(tmp_path: Path, kind: str) -> None:
    said, make = (COMPRESSIONS | OTHERS)[kind]
    path = write(tmp_path / "shards" / "a.tar", [*members(0), *members(1)])
    path.write_bytes(make(path.read_bytes()))
    refused(path, f"{said}.*, not a tar: ")


def refused(path: Path, words: str, converted: bool = False) -> None:
    """Told alike by check_shards, training with and without a manifest, and convert, unless it is `converted`; no
    manifest is written."""
    summary = check_shards(path.parent, workers=1, new_manifest=True)
    assert summary["problems"][0].startswith("no manifest is written")
    assert len(summary["problems"]) == 2
    wanted = pytest.raises(UserError, match=rf"{path.name}: {words}")
    with wanted:
        raise UserError(summary["problems"][1])
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    source = Source(name="s", shards=f"{path.parent}/{{{path.stem},{path.stem}}}.tar")
    with pytest.raises(UserError, match=rf"{path.name}: {words}"):
        manifest_of(source, Cache(folder=str(path.parent.parent / "cache")))
    with pytest.raises(UserError, match=rf"{path.name}: {words}"):
        ShardReader(1).read(write_manifest(path.parent, {path.name: 1}).shards[0], 0)
    assert any(path.name in each for each in check_shards(path.parent, workers=1)["problems"])
    (path.parent / "manifest.json").unlink()
    for given in () if converted else (path, path.parent, path.parent / "*.tar"):
        args = convert.parse([str(given), "--out", str(path.parent.parent / "out" / "r.jsonl")])
        with pytest.raises(UserError, match=rf"{path.name}: {words}"):
            convert.open_source(args)


DOTTED: dict[str, Members] = {
    "versions": [each for n in range(4) for each in members(n, f"img.v1.{n}")],
    "numbers": [each for n in range(1, 3) for each in members(n, f"scan.{n}")],
    "texts": [(f"a.{n}.{kind}", b"x") for n in "xy" for kind in ("jpg", "txt")],
    "beside a whole sample": [*members(0, "a"), *members(1, "a.edited")],
    "pictures alone": [("a.left.jpg", b"x"), ("a.right.jpg", b"x"), ("a.json", b"{}")],
    "the last one alone": [*members(0, "0"), *members(1, "1"), *members(2, "2.5")],
}


@pytest.mark.parametrize("case", DOTTED)
def test_dots_in_keys_are_named_and_no_manifest_is_written(tmp_path: Path, case: str) -> None:
    """convert, to which a key is only a name, takes them apart."""
    refused(write(tmp_path / "shards" / "a.tar", DOTTED[case]), "names with dots before the extension: ", True)


def test_dots_that_are_no_keys(tmp_path: Path) -> None:
    """In folders, of further pictures, and of members that are something else."""
    dialogue = [("k.jpg", sample(0)["jpg"]), ("k.1.jpg", sample(1)["jpg"]), ("k.json", sample(0)["json"])]
    content = [*members(1, "v1.0/1"), *dialogue, ("k.seg.png", b"mask"), ("k.meta.json", b"{}")]
    assert outcomes(write(tmp_path / "a.tar", content), 2) == [1, 0]


def test_an_empty_tar_and_an_empty_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [sample(0)])
    write(tmp_path / "b.tar", [])
    (tmp_path / "c.TAR").write_bytes(b"")
    summary = check_shards(tmp_path, workers=1, new_manifest=True)
    assert summary["problems"] == ["b.tar: holds no sample, left out", "c.TAR: is an empty file (0 bytes), left out"]
    assert [shard.name for shard in Manifest.read(tmp_path).shards] == ["a.tar"]


def test_compressed_names_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(UserError, match=r"no \*\.tar in it.*a\.tar\.gz is compressed.*decompress it first"):
        check_shards(tmp_path, workers=1, new_manifest=True)


def test_an_index_that_knew_fewer_extensions(tmp_path: Path) -> None:
    """It still serves where its samples are whole; where one lacks a picture, the tar is asked."""
    path = write(tmp_path / "a.tar", [*members(0, image="png"), *members(1)])
    table = make_index(path)
    write_index(path, table, "x")
    content = index_path(path).read_bytes()
    line, _, body = content.partition(b"\n")
    head = json.loads(line)
    numbers = [head["extensions"].index(name) for name in ("png", "jpg")]
    assert body[64:66] == bytes(numbers)
    head["extensions"] = ["jpg", "jpeg", "png", "webp"]
    old = json.dumps(head).encode() + b"\n" + body[:64] + bytes([2, 0]) + body[66:]
    found = parse_index(old, "x")
    assert found is not None
    assert found.extensions.tolist() == table.extensions.tolist()
    lacking = bytearray(old)
    start = len(json.dumps(head)) + 1
    lacking[start + 8 : start + 16] = (-1).to_bytes(8, "little", signed=True)
    assert parse_index(bytes(lacking), "x") is None


def rows_of(tmp_path: Path, given: object) -> tuple[list[dict], convert.Report]:
    args = convert.parse([str(given), "--out", str(tmp_path / "out" / "r.jsonl")])
    report = convert.convert(*convert.open_source(args), convert.target(args))
    return [json.loads(line) for line in args.out.read_text("utf-8").splitlines()], report


def with_text(number: int, image: str = "jpg") -> Members:
    return [(f"{number:06d}.{image}", sample(number)["jpg"]), (f"{number:06d}.txt", f"photo {number}".encode())]


@pytest.mark.parametrize("lacking", [0, 1, 2])
@pytest.mark.parametrize(("member", "cause"), [(0, "the row names no picture"), (1, "the row has no answer")])
def test_convert_counts_a_sample_that_lacks_a_member(tmp_path: Path, lacking: int, member: int, cause: str) -> None:
    content = [each for n in range(3) for m, each in enumerate(with_text(n, "JPEG")) if (n, m) != (lacking, member)]
    records, report = rows_of(tmp_path, write(tmp_path / "in" / "a.tar", content).parent)
    assert [each["captions"] for each in records] == [{"en": [f"photo {n}"]} for n in range(3) if n != lacking]
    assert report.bad == {cause: 1}
    assert f"{lacking:06d}" in report.named[cause][0]


def test_convert_takes_a_tar_a_folder_and_a_pattern(tmp_path: Path) -> None:
    """Captions of img2dataset in KEY.json, tables beside the tars, splits in the names."""
    for part, split in enumerate(("train", "val")):
        fields = json.dumps({"caption": f"photo {part}", "url": "http://x", "image": "elsewhere.jpg"}).encode()
        write(tmp_path / "in" / f"{split}-0.tar", [("0.JPG", sample(part)["jpg"]), ("0.json", fields)])
    (tmp_path / "in" / "0.parquet").write_bytes(b"PAR1")
    for given in (tmp_path / "in", f"{tmp_path}/in/*.tar", f"{tmp_path}/in/{{train,val}}-0.tar"):
        records, _ = rows_of(tmp_path, given)
        assert [(each["captions"], each["split"]) for each in records] == [
            ({"en": ["photo 0"]}, "train"), ({"en": ["photo 1"]}, "val")]  # fmt: skip
        assert (tmp_path / "out" / records[1]["image"]).read_bytes() == sample(1)["jpg"]
        assert {each["source"] for each in records} == {"in"}
    records, _ = rows_of(tmp_path, tmp_path / "in" / "val-0.tar")
    assert len(records) == 1


def test_convert_of_a_damaged_tar(tmp_path: Path) -> None:
    content = [each for n in range(5) for each in with_text(n)]
    content[3] = (content[3][0], b"\xff\xfe")
    path = write(tmp_path / "in" / "a.tar", content, form=tarfile.USTAR_FORMAT)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        end = tar.getmember("000004.jpg").offset_data + 100
    path.write_bytes(data[:end])
    records, report = rows_of(tmp_path, path)
    assert [each["captions"]["en"] for each in records] == [["photo 0"], ["photo 2"], ["photo 3"]]
    assert report.bad == {CAUSES["encoding"]: 1, CAUSES["truncated"]: 1}


@pytest.mark.parametrize(
    "name", ["a.jpg", "a/b.jpg", "a.b/c.seg.png", "a.b/c", "README", "x/README", "a.", "a..b", "/a.b", "x//y.z"]
)
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    key, extension = base_plus_ext(name)
    assert split_name(name) == (key or "", extension or "")
