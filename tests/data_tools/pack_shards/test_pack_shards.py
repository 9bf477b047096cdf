"""Packing is a pure function of records and options: any worker count, and any kill, gives the same bytes."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from data_tools.pack_shards.__main__ import pack
from data_tools.pack_shards.write import PackOptions
from vglm_train.data.shards.manifest import Manifest
from vglm_train.errors import UserError
from vglm_train.image import open_image

ROOT = Path(__file__).resolve().parents[3]


def write_records(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def records(photos: Path) -> Path:
    """22 records of split train and 2 of split test, over 6 pictures."""
    rows = [
        {"id": f"r{index}", "image": f"{index % 6}.png", "image_id": index % 6, "source": "s",
         "captions": {"en": ["a"], "zh": ["一", "二"]}, "group": f"g{index}",
         "split": "test" if index in (3, 9) else "train"}
        for index in range(24)
    ]  # fmt: skip
    return write_records(photos / "records.jsonl", rows)


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_members_manifest_and_counts(records: Path, tmp_path: Path) -> None:
    manifest = pack(records, tmp_path / "out", PackOptions("train", 8, None))
    assert [shard.samples for shard in manifest.shards] == [8, 8, 6]
    assert manifest.extra["captions"] == {"en": 22, "zh": 44}
    assert Manifest.read(tmp_path / "out") == manifest
    for shard in manifest.shards:
        assert hashlib.sha256(shard.path.read_bytes()).hexdigest() == shard.sha256
    with tarfile.open(manifest.shards[0].path) as tar:
        assert tar.getnames()[6:10] == ["000000005.json", "000000005.png", "000000006.json", "000000006.png"]
        assert tar.extractfile("000000005.png").read() == (records.parent / "4.png").read_bytes()
        record = json.load(tar.extractfile("000000005.json"))
    line = json.loads(records.read_text("utf-8").splitlines()[4])
    assert record == {**line, "image": "000000005.png"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json", "shard-000000.idx", "shard-000000.tar", "shard-000001.idx", "shard-000001.tar",
        "shard-000002.idx", "shard-000002.tar"]  # fmt: skip


def test_bytes_do_not_depend_on_workers(records: Path, tmp_path: Path) -> None:
    pack(records, tmp_path / "one", PackOptions(None, 5, None), workers=1)
    pack(records, tmp_path / "two", PackOptions(None, 5, None), workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_any_webdataset_reader_can_read_the_shards(records: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    manifest = pack(records, tmp_path / "out", PackOptions(None, 10, None))
    names = [str(shard.path) for shard in manifest.shards]
    samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("pilrgb"))
    assert len(samples) == 24
    assert samples[7]["json"]["id"] == "r7"
    assert samples[7]["png"].getpixel((0, 0)) == (40, 200, 9)


def test_what_cannot_be_packed_is_counted_and_named(photos: Path, tmp_path: Path) -> None:
    good = {"id": "good", "image": "0.png", "captions": {"en": ["a"]}}
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:60])
    (photos / "text.jpg").write_text("not a picture")
    rows = [good, {**good, "image": "none.png"}, {**good, "image": "cut.png"}, {**good, "image": "text.jpg"},
            {**good, "captions": {"en": [" "]}}, {**good, "image": ""}]  # fmt: skip
    records = write_records(photos / "r.jsonl", rows)
    with open(records, "a") as file:
        file.write("{broken\n")
    manifest = pack(records, tmp_path / "out", PackOptions(None, 100, None))
    assert manifest.samples == 1
    assert manifest.extra["skipped"] == {"caption": 1, "missing image": 2, "record": 1, "undecodable": 2}
    skipped = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert [entry["line"] for entry in skipped] == [2, 3, 4, 5, 6, 7]
    assert "none.png" in skipped[0]["message"]
    assert f"{records}: line 2" in skipped[0]["message"]


def test_a_shard_without_samples_is_dropped(photos: Path, tmp_path: Path) -> None:
    rows = [{"id": "r", "image": name, "captions": {"en": ["a"]}} for name in ("0.png", "no.png", "1.png")]
    manifest = pack(write_records(photos / "r.jsonl", rows), tmp_path / "out", PackOptions(None, 1, None))
    assert [shard.name for shard in manifest.shards] == ["shard-000000.tar", "shard-000002.tar"]
    assert not (tmp_path / "out" / "shard-000001.tar").exists()


def test_formats_pass_through_or_become_png(tmp_path: Path) -> None:
    levels = (np.arange(64 * 32, dtype=np.uint16) * 31).reshape(32, 64)
    colour = Image.fromarray((np.arange(32 * 64 * 3) % 251).astype(np.uint8).reshape(32, 64, 3))
    kept = {"a.jpg": "jpg", "b.png": "png", "c.webp": "webp", "d.avif": "avif", "wrong-name.png": "jpg"}
    rewritten = ["e.bmp", "f.tiff", "g.gif", "g16.tiff", "h.ppm"]
    for name in [*kept, *rewritten]:
        picture = Image.fromarray(levels) if name == "g16.tiff" else colour
        picture.save(tmp_path / name, "JPEG" if name == "wrong-name.png" else None)
    rows = [{"id": name, "image": name, "captions": {"en": ["a"]}} for name in [*kept, *rewritten]]
    manifest = pack(write_records(tmp_path / "r.jsonl", rows), tmp_path / "out", PackOptions(None, 100, None))
    with tarfile.open(manifest.shards[0].path) as tar:
        members = {name: tar.extractfile(name).read() for name in tar.getnames() if not name.endswith(".json")}
    assert manifest.samples == 10
    assert manifest.extra["inferred"] == {"16-bit values, range found 16 bits": 1}
    for (name, kind), (member, data) in zip(kept.items(), members.items()):
        assert Path(member).suffix == f".{kind}"
        assert data == (tmp_path / name).read_bytes()
    lossless = list(members.values())[5:]
    assert all(data.startswith(b"\x89PNG") for data in lossless)
    for index in (0, 1, 4):
        assert open_image(lossless[index]).tobytes() == colour.tobytes()
    for name, data in zip(rewritten, lossless):
        assert open_image(data).tobytes() == open_image((tmp_path / name).read_bytes()).tobytes()
    assert Image.open(io.BytesIO(lossless[3])).mode == "L"


def test_resize_keeps_small_pictures_and_shrinks_large_ones(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (300, 100), "red").save(tmp_path / "large.jpg", exif=turned)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "small.jpg")
    rows = [{"id": name, "image": name, "captions": {"en": ["a"]}} for name in ("large.jpg", "small.jpg")]
    manifest = pack(write_records(tmp_path / "r.jsonl", rows), tmp_path / "out", PackOptions(None, 100, 50))
    with tarfile.open(manifest.shards[0].path) as tar:
        large, small = (tar.extractfile(f"00000000{line}.jpg").read() for line in (1, 2))
    assert open_image(large).size == (50, 150)
    assert small == (tmp_path / "small.jpg").read_bytes()


def test_a_finished_pack_is_left_alone_and_another_refused(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(records, out, PackOptions("train", 8, None))
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    pack(records, out, PackOptions("train", 8, None))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UserError, match=r"another pack: samples_per_shard is 8 there and 9 now; give another --out"):
        pack(records, out, PackOptions("train", 9, None))
    with open(records, "a") as file:
        file.write(json.dumps({"id": "x", "image": "0.png", "captions": {"en": ["a"]}, "split": "test"}) + "\n")
    with pytest.raises(UserError, match="records_sha256"):
        pack(records, out, PackOptions("train", 8, None))
    (out / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"holds shard-000000.tar, which no unfinished pack wrote"):
        pack(records, out, PackOptions("train", 8, None))
    assert not (out / ".parts").exists()


def test_what_is_missing_is_named(records: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no record of split 'val'; it has {'test': 2, 'train': 22}\. Give"):
        pack(records, tmp_path / "out", PackOptions("val", 8, None))
    with pytest.raises(UserError, match=r"none.jsonl: no such file"):
        pack(tmp_path / "none.jsonl", tmp_path / "out", PackOptions("val", 8, None))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match=r"empty.jsonl: is empty"):
        pack(tmp_path / "empty.jsonl", tmp_path / "out", PackOptions("val", 8, None))
    bad = write_records(tmp_path / "bad.jsonl", [{"id": "x", "image": "no.png", "captions": {"en": ["a"]}}])
    with pytest.raises(UserError, match=r"no record could be packed(.|\n)*no.png"):
        pack(bad, tmp_path / "out", PackOptions(None, 8, None))
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 noisy pictures that take long enough to pack for a kill to hit in between."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("heavy")
    rows = []
    for index in range(60):
        pixels = random.integers(0, 255, (512, 640, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png", compress_level=1)
        rows.append({"id": f"{index}", "image": f"{index}.png", "captions": {"en": ["a"]}})
    return write_records(folder / "heavy.jsonl", rows)


def start(records: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "data_tools.pack_shards", records, "--out", out, "--samples-per-shard", "6",
             "--workers", str(workers)]  # fmt: skip
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_again_and_again_the_bytes_are_the_same(workers: int, heavy: Path, tmp_path: Path) -> None:
    options, out = PackOptions(None, 6, None), tmp_path / "killed"
    pack(heavy, tmp_path / "whole", options)
    kept: list[int] = []
    for target in (0, 3, 7):  # shards finished before the kill
        process = start(heavy, out, workers)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(out.glob("*.tar"))) >= target and list(out.glob("*.tmp-*")):
                break
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "manifest.json").exists()
        kept.append(len(list(out.glob("*.tar"))))
    assert kept == sorted(kept)
    assert kept[-1] >= 5
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar") if parts_of(out, path)}
    assert start(heavy, out, workers).wait() == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished, "a finished shard was made again"


def parts_of(out: Path, shard: Path) -> bool:
    return (out / ".parts" / f"{shard.stem}.json").is_file()


def test_no_worker_outlives_a_killed_pack(heavy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(heavy, out, workers=2)
    while not list(out.glob("*.tmp-*")):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1.0)
    before = contents(out)
    time.sleep(1.0)
    assert contents(out) == before


def test_two_packs_do_not_write_one_folder(heavy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(heavy, out, workers=1)
    while not list(out.glob("*.tmp-*")):
        time.sleep(0.002)
    with pytest.raises(UserError, match="another pack_shards is writing there"):
        pack(heavy, out, PackOptions(None, 6, None))
    assert process.wait() == 0


def test_the_command(records: Path, tmp_path: Path, tool: Callable[..., CompletedProcess[str]]) -> None:
    done = tool("pack_shards", records, "--out", tmp_path / "out", "--split", "test")
    assert done.returncode == 0, done.stderr
    assert "2 samples in 1 shards, captions and answers: 2 en, 4 zh" in done.stdout
    assert done.stderr == ""  # nobody looks on, so there is no bar
    done = tool("pack_shards", records, "--out", tmp_path / "out", "--split", "train")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
