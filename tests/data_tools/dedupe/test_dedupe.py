"""Copies go, originals stay, whoever looks and whenever it is killed."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import made_records
import numpy as np
import pytest
from made_shards import jpeg, write_source
from PIL import Image, ImageOps

from data_tools.common.image_hash import agreement, image_hash
from data_tools.dedupe.__main__ import DedupeJob, DedupeResult, dedupe, plan
from data_tools.dedupe.hash_index import NearPairs, count_bands
from vglm_train.errors import UserError

Run = Callable[..., CompletedProcess[str]]


def task(*words: object, **options: object) -> DedupeJob:
    """The task of a command line, as the tool reads it."""
    given = {"against": [], "distance": 16, "agreement": 0.94, "merge_captions": False, "dropped": None, **options}
    return plan(Namespace(records=[Path(str(word)) for word in words], **given))


def plant(folder: Path, originals: Path, every: int = 1) -> Path:
    """A second source: each kind of copy of every `every`-th picture, with one caption."""
    rows = []
    for row in made_records.read(originals)[::every]:
        picture = Image.open(originals.parent / row["image"])
        for kind, (copy, quality) in made_records.changed(picture).items():
            name = folder / f"{row['id']}-{kind}.jpg"
            name.parent.mkdir(parents=True, exist_ok=True)
            copy.save(name, quality=quality)
            rows.append({"id": f"{row['id']}-{kind}", "image": name.name, "captions": {"en": [f"{kind} copy"]}})
    return made_records.write(folder / "records.jsonl", rows)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_records.records(tmp_path_factory.mktemp("originals"), 24)


@pytest.fixture(scope="module")
def copies(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("copies"), originals)


def test_every_copy_is_found_and_no_original_lost(originals: Path, copies: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean.jsonl"
    outcome = dedupe(task(copies, originals, out=out), workers=1)  # the copies first: more captions win, not place
    assert outcome == DedupeResult(24, outcome.dropped)
    assert outcome.dropped == {"near-duplicate": 96}
    kept = made_records.read(out)
    assert [row["id"] for row in kept] == [f"r{n}" for n in range(24)]
    assert all((tmp_path / row["image"]).is_file() for row in kept)
    for entry in made_records.read(tmp_path / "clean.dropped.jsonl"):
        assert entry["of"] == entry["id"].partition("-")[0]
        assert entry["what"] == "record"
        assert entry["value"]["bits"] <= 16
        assert entry["value"]["agreement"] >= 0.94
    assert not list(tmp_path.glob("*.parts"))


def test_captions_can_be_merged(originals: Path, copies: Path, tmp_path: Path) -> None:
    dedupe(task(originals, copies, out=tmp_path / "clean.jsonl", merge_captions=True), workers=1)
    first = made_records.read(tmp_path / "clean.jsonl")[0]
    assert first["captions"] == {
        "en": ["a photo number 0", "photo 0", "q60 copy", "small copy", "bright copy", "crop copy"],
        "zh": ["第0张照片"],
    }


def test_an_equal_file_is_an_exact_duplicate_and_damage_is_named(originals: Path, tmp_path: Path) -> None:
    rows = [{**row, "image": str(originals.parent / row["image"])} for row in made_records.read(originals)[:3]]
    (tmp_path / "cut.jpg").write_bytes((originals.parent / "5.jpg").read_bytes()[:900])
    rows += [{**rows[1], "id": "again"}, {**rows[0], "id": "cut", "image": "cut.jpg"},
             {**rows[0], "id": "none", "image": "none.jpg"}, {**rows[0], "id": "mute", "captions": {}}]  # fmt: skip
    outcome = dedupe(task(made_records.write(tmp_path / "r.jsonl", rows), out=tmp_path / "o.jsonl"), workers=1)
    assert (outcome.kept, sum(outcome.dropped.values())) == (3, 4)
    found = [(entry["id"], entry["rule"]) for entry in made_records.read(tmp_path / "o.dropped.jsonl")]
    assert found == [("again", "exact duplicate"), ("cut", "undecodable"), ("none", "missing image"),
                     ("mute", "caption")]  # fmt: skip


def test_what_is_in_an_evaluation_set_goes(originals: Path, copies: Path, tmp_path: Path) -> None:
    """Also where the record has more captions, and where the set is packed."""
    held = made_records.write(copies.parent / "held.jsonl", made_records.read(copies)[:8])  # of pictures 0 and 1
    outcome = dedupe(task(originals, out=tmp_path / "clean.jsonl", against=[held]), workers=1)
    assert outcome.dropped == {"in the evaluation set": 2}
    shards = write_source(tmp_path / "shards", [4])
    (tmp_path / "3.jpg").write_bytes(jpeg(3))
    one = {"id": "x", "image": "3.jpg", "captions": {"en": ["a"]}}
    rows = [one, {**one, "id": "y", "image": str(originals.parent / "0.jpg")}]
    records = made_records.write(tmp_path / "r.jsonl", rows)
    outcome = dedupe(task(records, out=tmp_path / "o.jsonl", against=[shards]), workers=1)
    assert [entry["of_place"] for entry in made_records.read(tmp_path / "o.dropped.jsonl")] == [
        "shard-000000.tar 000003"
    ]
    assert outcome.kept == 1


def test_colour_alone_tells_pictures_apart(tmp_path: Path) -> None:
    """The same drawing in another colour of the same brightness, and plain pictures."""
    grey = np.asarray(made_records.photo(0).convert("L"), dtype=np.float64)
    rows = []
    for name, tint in (("red", (60, -31, 0)), ("blue", (0, -10, 88)), ("black", None), ("white", None)):
        colours = (grey[..., None] * 0.4 + 80 + np.array(tint or 0)).clip(0, 255)
        picture = Image.new("RGB", (64, 64), name) if tint is None else Image.fromarray(colours.astype(np.uint8))
        picture.save(tmp_path / f"{name}.png")
        rows.append({"id": name, "image": f"{name}.png", "captions": {"en": ["a"]}})
    outcome = dedupe(task(made_records.write(tmp_path / "r.jsonl", rows), out=tmp_path / "o.jsonl"), workers=1)
    assert outcome.kept == 4


def test_each_dropped_one_was_compared_with_one_that_stays(tmp_path: Path) -> None:
    """A picture cropped more and more: ends of the chain differ, so that more than one must stay."""
    picture, rows = made_records.photo(7, (400, 400)), []
    for step in range(12):
        edge = 8 * step
        picture.crop((edge, edge, 400 - edge, 400 - edge)).save(tmp_path / f"{step}.png")
        rows.append({"id": str(step), "image": f"{step}.png", "captions": {"en": ["a"]}})
    dedupe(task(made_records.write(tmp_path / "r.jsonl", rows), out=tmp_path / "o.jsonl"), workers=1)
    kept = {row["id"] for row in made_records.read(tmp_path / "o.jsonl")}
    assert 1 < len(kept) < 12
    for entry in made_records.read(tmp_path / "o.dropped.jsonl"):
        assert entry["of"] in kept
        greys = [image_hash(Image.open(tmp_path / f"{each}.png")).grey[None] for each in (entry["id"], entry["of"])]
        assert max(agreement(*greys)[0], agreement(*greys[::-1])[0]) >= 0.94


def test_agreement_of_the_same_of_a_mirror_image_and_of_plain_ones() -> None:
    picture = made_records.photo(1)
    own, mirrored = image_hash(picture).grey[None], image_hash(ImageOps.mirror(picture)).grey[None]
    assert agreement(own, own)[0] == pytest.approx(1, abs=1e-5)
    assert agreement(own, mirrored)[0] < 0.5
    plain = np.full_like(own, 100)
    assert agreement(plain, plain + 3)[0] == 1
    assert agreement(plain, plain + 30)[0] == 0
    assert agreement(plain, own)[0] == 0


@pytest.mark.parametrize("distance", [0, 3, 8, 14, 20])
def test_pairs_are_those_of_comparing_all_with_all(distance: int) -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 900, dtype=np.uint64)
    for bits in range(1, 8):
        flips = random.integers(0, 64, (60, bits)).astype(np.uint64)
        hashes[60 * bits : 60 * (bits + 1)] = hashes[:60] ^ np.bitwise_xor.reduce(np.uint64(1) << flips, axis=1)
    hashes[800:820] = hashes[5]
    search, found = NearPairs(hashes, distance), []
    for start in range(0, 900, 300):
        for i, j, bits in search.of(start, 300):
            found += zip(i.tolist(), j.tolist(), bits.tolist())
    all_bits = np.bitwise_count(hashes[:, None] ^ hashes[None])
    i, j = np.nonzero(np.triu(all_bits <= distance, 1))
    assert sorted(found) == list(zip(i.tolist(), j.tolist(), all_bits[i, j].tolist()))


def test_more_hashes_get_wider_bands() -> None:
    counts = [count_bands(hashes, 14) for hashes in (10**3, 10**5, 10**7)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,600 records of 40 pictures, so that a kill can hit: seven blocks."""
    folder = tmp_path_factory.mktemp("many")
    rows = []
    for number in range(40):
        made_records.photo(number).save(folder / f"{number}.png", compress_level=1)
    for number in range(1600):
        captions = {"en": [f"caption {number}"]}
        rows.append({"id": str(number), "image": f"{number % 40}.png", "captions": captions})
    return made_records.write(folder / "records.jsonl", rows)


def test_a_killed_run_continues_to_the_same_result(many: Path, tmp_path: Path) -> None:
    dedupe(task(many, out=tmp_path / "whole.jsonl"), workers=1)
    out, parts = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.parts"
    process = made_records.start("dedupe", many, "--out", out, "--workers", 2)
    finished = made_records.kill_after(process, parts, "look-*", 2)
    assert not out.exists()
    before = {name: (parts / name).stat().st_mtime_ns for name in finished}
    with pytest.raises(UserError, match=r"another run of dedupe: distance is 16 there and 3 now"):
        dedupe(task(many, out=out, distance=3), workers=1)
    watched = task(many, out=out)
    assert {name: (parts / name).stat().st_mtime_ns for name in finished} == before
    dedupe(watched, workers=1)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    dropped = [(tmp_path / f"{name}.dropped.jsonl").read_bytes() for name in ("killed", "whole")]
    assert dropped[0] == dropped[1]
    assert len(made_records.read(out)) == 40


def test_the_command_and_its_mistakes(originals: Path, tmp_path: Path, tool: Run) -> None:
    done = tool("dedupe", originals, originals, "--out", tmp_path / "o.jsonl", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "24 of 48 records kept" in done.stdout
    assert "dropped, exact duplicate: 24" in done.stdout
    with pytest.raises(UserError, match=r"none.jsonl: no such file"):
        task(tmp_path / "none.jsonl", out=tmp_path / "o.jsonl")
    with pytest.raises(UserError, match=r"is an input itself"):
        task(originals, out=originals)
    with pytest.raises(UserError, match=r"give the records file that these shards were packed from"):
        task(write_source(tmp_path / "shards", [2]), out=tmp_path / "o.jsonl")
