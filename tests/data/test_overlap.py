"""Validation data that is training data, or has some of it."""

import json
import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import made_tables
import numpy as np
import pytest
from made_shards import jpeg, sample, write_manifest, write_shard, write_source

from vglm_train.config.data import Source
from vglm_train.config.validation import FieldError
from vglm_train.data import overlap
from vglm_train.data.overlap import CLOSER, START, Effort, find_overlap
from vglm_train.data.shards.index import make_index, write_index
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.splits import open_part


def saying(number: int, text: str) -> dict[str, object]:
    """Sample `number` with another caption."""
    return sample(number, json=json.dumps({"id": "x", "captions": {"en": [text]}}).encode())


def source(folder: Path, samples: Sequence[dict[str, object]]) -> Manifest:
    folder.mkdir()
    write_shard(folder / "a.tar", samples)
    return write_manifest(folder, {"a.tar": len(samples)})


def indexed(folder: Path, counts: Sequence[int]) -> Manifest:
    manifest = Manifest.read(write_source(folder, counts))
    for shard in manifest.shards:
        write_index(shard.path, make_index(shard.path), shard.sha256)
    return manifest


@pytest.fixture
def training(tmp_path: Path) -> Manifest:
    return indexed(tmp_path / "train", [20, 30])


def test_a_shard_of_training_is_a_mistake(training: Manifest, tmp_path: Path) -> None:
    """Under another name too, and beside shards that are not of training."""
    own = source(tmp_path / "own", [sample(n) for n in range(90, 95)])
    shutil.copy(training.shards[1].path, tmp_path / "own" / "b.tar")
    both = write_manifest(tmp_path / "own", {"a.tar": 5, "b.tar": 30})
    with pytest.raises(
        FieldError, match=r"data\.validation: has shards of data\.train, 1 of its 2: .*b\.tar is .*000001\.tar"
    ) as error:
        find_overlap([training], both.shards, allowed=False)
    assert "evaluate.allow_training_data=true" in str(error.value)
    assert "has shards of data.train" in find_overlap([training], both.shards, allowed=True)[0]
    assert find_overlap([training], own.shards, allowed=False) == []


def test_all_of_it_packed_anew_is_a_mistake(training: Manifest, tmp_path: Path) -> None:
    again = source(tmp_path / "val", [sample(n) for n in (3, 7, 44)])
    with pytest.raises(FieldError, match=r"all 3 samples that were compared are in data\.train, with the same texts"):
        find_overlap([training], again.shards, allowed=False)
    (line,) = find_overlap([training], again.shards, allowed=True)
    assert line.startswith("3 of 3 validation pictures are in training too, 3 of them with the same texts: ")


def test_some_pictures_are_told_with_their_number(training: Manifest, tmp_path: Path) -> None:
    """With the same texts or others; a picture of the same length alone is not the same."""
    pictures = [sample(3), saying(7, "something else"), sample(80), sample(4, jpg=bytes(len(jpeg(4))))]
    some = source(tmp_path / "val", pictures)
    (line,) = find_overlap([training], some.shards, allowed=False)
    assert line.startswith(
        "2 of 4 validation pictures are in training too, 1 of them with the same texts: sample 0 of "
    )
    assert str(training.shards[0].path) in line


def test_nothing_shared(training: Manifest, tmp_path: Path) -> None:
    other = source(tmp_path / "val", [sample(n) for n in range(80, 86)])
    assert find_overlap([training], other.shards, False, START) == []
    assert find_overlap([training], other.shards, False, CLOSER) == ["none of 6 validation pictures is in training"]


def test_a_large_source_is_looked_at_in_part(tmp_path: Path) -> None:
    """Which is said: of shards spread over it, of those without an index few."""
    training, val = indexed(tmp_path / "train", [5] * 8), source(tmp_path / "val", [sample(90)])
    part = Effort(held=10, training=20, unindexed=0, read=100)
    (line,) = find_overlap([training], val.shards, False, part)
    assert line == "none of 1 validation pictures is in training (looked for in 20 of 40 samples)"
    for shard in training.shards[:4]:
        shard.path.with_suffix(".idx").unlink()
    (line,) = find_overlap([training], val.shards, False, part)
    assert "(looked for in 10 of 40 samples)" in line


def test_samples_that_are_read_are_the_likeliest(training: Manifest, tmp_path: Path) -> None:
    """Where more are of a validation picture's length than may be read."""
    length = len(jpeg(49))
    alike = source(tmp_path / "alike", [sample(n, jpg=bytes([n]) * length, json=b"{}") for n in range(60)])
    val = source(tmp_path / "val", [sample(49), sample(90)])
    (line,) = find_overlap([alike, training], val.shards, False, Effort(10, 1000, 1000, read=3))
    assert line.startswith("1 of 2 validation pictures")


def test_what_is_not_read_is_not_kept(training: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of training are as long as a picture of validation."""
    val = source(tmp_path / "val", [sample(90)])
    lengths = np.full((20_000, 2), (len(jpeg(90)), 7), np.int64)
    monkeypatch.setattr(overlap, "_spread", lambda shards, effort: ((shards[0], lengths) for _ in range(20)))
    monkeypatch.setattr(overlap, "_compare", lambda *_: None)
    tracemalloc.start()
    try:
        find_overlap([training], val.shards, False, Effort(10, 10**6, 10**6, read=50))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10e6  # of a shard 3.5 MB; the samples of all would take 100


def test_a_table_beside_shards(training: Manifest, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in (5, 90):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(jpeg(number))
    rows = made_tables.visualglm([f"images/{number}.jpg" for number in (5, 90)])
    path = made_tables.write_json(tmp_path / "t.json", rows)
    table = open_part(Source(name="t", table=str(path)), ("en", "zh"))
    for first, second in ((training, table), (table, training)):
        (line,) = find_overlap([first], second.shards, allowed=False)
        assert line.startswith(f"1 of {second.samples} validation pictures are in training too, 0 of them with")
    with pytest.raises(FieldError, match=r"all of its 2 rows are in data\.train, word for word"):
        find_overlap([table], table.shards, allowed=False)
    assert find_overlap([table], table.shards, allowed=True)
