"""Every way a shard set can be wrong is found and named, with status 1; a good one gives 0 and true numbers."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from PIL import Image

from data_tools.check_shards.__main__ import run
from data_tools.pack_shards.__main__ import pack
from data_tools.pack_shards.write import PackOptions
from vglm_train.data.shards.manifest import Manifest
from vglm_train.errors import UserError


def png(colour: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def record(*captions: str, language: str = "en") -> bytes:
    return json.dumps({"id": "x", "captions": {language: captions}}).encode()


@pytest.fixture
def packed(photos: Path, tmp_path: Path) -> Path:
    """9 samples in three shards; pictures 0 to 3 occur twice."""
    captions = {"en": ["a b"] * 2, "zh": ["一二三"]}
    pictures = [0, 1, 2, 3, 0, 1, 2, 3, 4]
    rows = [{"id": str(row), "image": f"{picture}.png", "captions": captions} for row, picture in enumerate(pictures)]
    records = photos / "r.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(records, tmp_path / "shards", PackOptions(None, 3, None))
    return tmp_path / "shards"


def test_a_good_set(packed: Path) -> None:
    summary = run(packed, workers=2)
    assert summary["ok"]
    assert summary["samples"] == 9
    assert summary["captions"]["en"] == {"captions": 18, "shortest": 2, "median": 2, "p95": 2, "longest": 2}
    assert summary["captions"]["zh"] == {"captions": 9, "shortest": 3, "median": 3, "p95": 3, "longest": 3}
    again = summary["duplicates"]
    assert (again["pictures"], again["samples"]) == (4, 8)
    assert ["shard-000000.tar 000000001", "shard-000001.tar 000000005"] in again["examples"]


def test_files_that_differ_from_the_manifest(packed: Path) -> None:
    first, second, third = (packed / f"shard-00000{i}.tar" for i in range(3))
    data = bytearray(first.read_bytes())
    data[-1] = 1  # in the padding: nothing but the hash can tell
    first.write_bytes(data)
    second.unlink()
    write_tar(third, {"a.png": png(1), "a.json": record("a")})
    write_tar(packed / "other.tar", {"a.png": png(1), "a.json": record("a")})
    summary = run(packed, workers=1)
    problems = "\n".join(summary["problems"])
    assert "shard-000000.tar: sha256" in problems
    assert "shard-000001.tar: missing" in problems
    assert "shard-000002.tar: size" in problems
    assert "shard-000002.tar: 1 samples, the manifest says 3" in problems
    assert "other.tar: extra" in problems
    assert not summary["ok"]


def test_every_damage_is_counted_by_cause_with_shard_and_key(tmp_path: Path) -> None:
    good = png(9)
    members = {
        "good.png": good, "good.json": record("a dog"),
        "picture.png": good[:40], "picture.json": record("a"),
        "nopicture.json": record("a"),
        "bomb.png": png(1, (10000, 9000), "1"), "bomb.json": record("a"),
        "caption.png": good, "caption.json": record(" "),
        "record.png": good, "record.json": b"{",
        "norecord.png": good,
        "last.png": good, "last.json": record("b" * 2000),
    }  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: data.index(b"last.json") + 1000])
    summary = run(tmp_path, workers=1, new_manifest=True)
    assert summary["damage"] == {"image": 2, "bomb": 1, "caption": 1, "record": 2, "truncated": 1}
    named = {(entry["cause"], entry["shard"], entry["key"]) for entry in summary["damaged"]}
    assert ("bomb", "a.tar", "bomb") in named
    assert ("truncated", "a.tar", "last") in named
    assert ("image", "a.tar", "nopicture") in named
    assert not summary["ok"]
    assert Manifest.read(tmp_path).samples == 8


def test_a_manifest_for_foreign_shards(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    write_tar(tmp_path / "part" / "b.tar", {"x/1.png": png(1), "x/1.json": record("a"), "x/1.txt": b"a"})
    write_tar(tmp_path / "a.tar", {"2.jpeg": png(2), "2.json": record("二", language="zh")})
    write_tar(tmp_path / "empty.tar", {})
    summary = run(tmp_path, workers=1, new_manifest=True)
    assert summary["problems"] == ["empty.tar: holds no sample, left out"]
    manifest = Manifest.read(tmp_path)
    manifest.check_files()
    assert [shard.name for shard in manifest.shards] == ["a.tar", "part/b.tar"]
    assert manifest.captions == {"en": 1, "zh": 1}
    (tmp_path / "empty.tar").unlink()
    assert run(tmp_path / "manifest.json", workers=1)["ok"]


def test_nothing_to_check_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder"):
        run(tmp_path / "none", workers=1)
    with pytest.raises(UserError, match=r"no \*\.tar in it"):
        run(tmp_path, workers=1, new_manifest=True)
    with pytest.raises(UserError, match="--write-manifest"):
        run(tmp_path, workers=1)


def test_the_command(packed: Path, tool: Callable[..., CompletedProcess[str]]) -> None:
    done = tool("check_shards", packed, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]
    (packed / "shard-000001.tar").unlink()
    done = tool("check_shards", packed)
    assert done.returncode == 1
    assert "wrong: shard-000001.tar: missing" in done.stdout
