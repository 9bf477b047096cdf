"""The table of a shard is what the standard library and webdataset see in it, however it was written."""

import io
import tarfile
from pathlib import Path

import pytest
import webdataset
from made_shards import sample, write_manifest, write_shard

from vglm_train.data.shards.reader import DamagedSample, RawSample, ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.tar import read_tar_index
from vglm_train.errors import UserError

LONG = "folder/" + "long" * 20 + "/" + "name" * 15


def shard_of(path: Path, samples: int) -> Shard:
    return write_manifest(path.parent, {path.name: samples}).shards[0]


def read_all(shard: Shard) -> list[RawSample]:
    reader = ShardReader(1)
    return [reader.read(shard, index) for index in range(shard.samples)]


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_form(tmp_path: Path, form: int) -> None:
    path = tmp_path / "a.tar"
    keys = ["0", "folder/1", LONG] + ([] if form == tarfile.USTAR_FORMAT else [f"{'very' * 60}/long", "图片/三"])
    with tarfile.open(path, "w", format=form) as tar:
        add(tar, "folder", type=tarfile.DIRTYPE)
        add(tar, "__meta__.json", b"{}")
        add(tar, "README", b"no extension")
        for number, key in enumerate(keys):
            add(tar, f"{key}.JPG" if number == 1 else f"{key}.jpg", b"picture" * (100 * number), mtime=1.5)
            add(tar, f"{key}.link", type=tarfile.SYMTYPE, linkname="x" * (90 if form == tarfile.USTAR_FORMAT else 150))
            add(tar, f"{key}.txt", b"beside")
            add(tar, f"{key}.json", key.encode())
    found = read_all(shard_of(path, len(keys)))
    assert [key for key, *_ in found] == keys
    assert [image for _, image, *_ in found] == [b"picture" * (100 * n) for n in range(len(keys))]
    assert [json.decode() for *_, json, _ in found] == keys
    assert {extension for _, _, extension, *_ in found} == {"jpg"}


def test_same_samples_as_webdataset(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [sample(n) for n in range(20)])
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    ours = read_all(shard_of(path, 20))
    assert [key for key, *_ in ours] == [each["__key__"] for each in theirs]
    assert [image for _, image, *_ in ours] == [each["jpg"] for each in theirs]
    assert [json for *_, json, _ in ours] == [each["json"] for each in theirs]


def test_keys_end_at_the_first_dot_and_the_first_picture_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [{"__key__": "a", "png": b"P", "jpg": b"J", "json": b"{}", "seg.png": b"mask"}])
    assert read_all(shard_of(path, 1)) in ([("a", b"J", "jpg", b"{}", ())], [("a", b"P", "png", b"{}", ())])
    with tarfile.open(path, "w") as tar:
        for name in ("a.seg.png", "a.webp", "a.png", "a.json"):
            add(tar, name, name.encode())
    assert read_all(shard_of(path, 1)) == [("a", b"a.webp", "webp", b"a.json", ())]


def test_missing_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [sample(0, jpg=None), sample(1, json=None), sample(2)])
    shard, reader = shard_of(path, 3), ShardReader(1)
    for index, cause in ((0, "image"), (1, "record")):
        with pytest.raises(DamagedSample) as caught:
            reader.read(shard, index)
        assert (caught.value.cause, caught.value.key, caught.value.shard) == (cause, f"{index:06d}", "a.tar")
    assert reader.read(shard, 2).key == "000002"


def cut_at(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def causes(shard: Shard) -> list[str]:
    reader, found = ShardReader(1), []
    for index in range(shard.samples):
        try:
            found.append(reader.read(shard, index).key)
        except DamagedSample as damage:
            found.append(damage.cause)
    return found


def test_cut_anywhere_loses_only_what_is_cut(tmp_path: Path) -> None:
    """Cut at every half block: a sample is whole if and only if all its bytes are there."""
    path, n = tmp_path / "a.tar", 3
    write_shard(path, [sample(i) for i in range(n)])
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        ends = [member.offset_data + member.size for member in tar.getmembers()]
    for size in range(0, len(whole), 256):
        cut_at(path, size)
        complete = sum(end <= size for end in ends) // 2
        expected = [f"{i:06d}" for i in range(complete)] + ["truncated"] * (n - complete)
        assert causes(shard_of(path, n)) == expected, size
        path.write_bytes(whole)


def test_filled_with_zeros_from_some_byte_on(tmp_path: Path) -> None:
    """As a broken download leaves it: the size is right, the rest is not there."""
    path = tmp_path / "a.tar"
    write_shard(path, [sample(i) for i in range(4)])
    whole = path.read_bytes()
    third = read_tar_index(path).offsets[2][0] - 512  # its header
    path.write_bytes(whole[:third] + bytes(len(whole) - third))
    found = causes(shard_of(path, 4))
    assert found[:2] == ["000000", "000001"]
    assert set(found[2:]) <= {"truncated", "image"}


def test_damaged_header_loses_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [sample(i) for i in range(3)])
    content = bytearray(path.read_bytes())
    content[read_tar_index(path).offsets[1][0] - 500] ^= 0xFF  # in the name of the second picture
    path.write_bytes(content)
    assert causes(shard_of(path, 3)) == ["000000", "truncated", "truncated"]


def test_more_samples_than_the_manifest_says(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [sample(i) for i in range(3)])
    with pytest.raises(UserError, match=r"holds 3 samples, its manifest says 2.*--write-manifest"):
        ShardReader(1).read(shard_of(path, 2), 0)


def test_shard_gone_during_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, [sample(0)])
    shard = shard_of(path, 1)
    path.unlink()
    with pytest.raises(UserError, match="cannot be opened any more"):
        ShardReader(1).read(shard, 0)


def test_tables_and_open_files_are_bounded(tmp_path: Path) -> None:
    for number in range(6):
        write_shard(tmp_path / f"{number}.tar", [sample(number)])
    shards = write_manifest(tmp_path, {f"{number}.tar": 1 for number in range(6)}).shards
    reader = ShardReader(2)
    files = Path("/proc/self/fd")
    before = len(list(files.iterdir()))
    for _ in range(3):
        assert [reader.read(shard, 0).key for shard in shards] == [f"{number:06d}" for number in range(6)]
        assert len(list(files.iterdir())) <= before + 2
