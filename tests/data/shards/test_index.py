"""An index says what the tar says, and is taken for no other tar."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_shards import sample, write_manifest, write_shard

from vglm_train.data.shards.index import count_languages, index_path, make_index, read_index, write_index
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.shards.reader import DamagedSample, ShardReader


def record(*languages: str) -> bytes:
    return json.dumps({"id": "x", "image_id": 1, "captions": {name: ["一 a"] for name in languages}}).encode()


CONTENT = [("en",), ("zh",), ("en", "zh"), ("de",), ("zh",), ()]


@pytest.fixture
def made(tmp_path: Path) -> Manifest:
    """Six samples, the last one's record without captions, and an index beside them."""
    path = tmp_path / "a.tar"
    write_shard(path, [sample(n, json=record(*spoken)) for n, spoken in enumerate(CONTENT)])
    manifest = write_manifest(tmp_path, {"a.tar": 6})
    write_index(path, make_index(path), manifest.shards[0].sha256)
    return manifest


def test_says_what_the_tar_says(made: Manifest) -> None:
    shard = made.shards[0]
    table, index = make_index(shard.path), read_index(index_path(shard.path), shard.sha256)
    assert index is not None
    assert index.caption_counts is not None
    for one, other in zip(table.caption_counts, index.caption_counts, strict=True):
        assert np.array_equal(one, other)
    assert index.caption_counts.lengths.tolist() == [2, 2, 2, 2, 2]
    for name in ("keys", "offsets", "extensions", "languages"):
        assert np.array_equal(getattr(table, name), getattr(index, name))
    assert index.languages.tolist() == [1, 2, 3, 0, 2, 0]
    assert count_languages(index) == {"en": 2, "zh": 3}


def test_the_reader_walks_over_no_header(made: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [tuple(ShardReader(1).read(made.shards[0], n)) for n in range(6)]
    monkeypatch.setattr("vglm_train.data.shards.reader.walk_tar", None)
    reader = ShardReader(1)
    assert [tuple(reader.read(made.shards[0], n)) for n in range(6)] == expected


@pytest.mark.parametrize("indexed", [True, False])
def test_samples_of_a_language(made: Manifest, indexed: bool) -> None:
    shard = made.shards[0]
    if not indexed:
        index_path(shard.path).unlink()
    reader = ShardReader(1)
    assert [reader.nth(shard, n, "zh") for n in range(3)] == [1, 2, 4]
    assert [reader.nth(shard, n, "en") for n in range(2)] == [0, 2]
    with pytest.raises(DamagedSample, match="the file has 2"):
        reader.nth(shard, 2, "en")


@pytest.mark.parametrize("harm", ["cut", "other", "text", "version"])
def test_a_wrong_index_is_not_taken(made: Manifest, harm: str) -> None:
    shard = made.shards[0]
    path = index_path(shard.path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-1],
            "other": content.replace(shard.sha256.encode(), b"0" * 64),
            "text": b"hello",
            "version": content.replace(b'"version": 2', b'"version": 9'),
        }[harm]
    )
    assert read_index(path, shard.sha256) is None
    assert ShardReader(1).read(shard, 2).key == "000002"


def test_none_of_a_tar_that_ends_in_the_middle_and_an_empty_one(tmp_path: Path, made: Manifest) -> None:
    path = made.shards[0].path
    path.write_bytes(path.read_bytes()[:2000])
    write_index(path, make_index(path), "x")
    assert not index_path(path).exists()
    empty = tmp_path / "b.tar"
    write_shard(empty, [])
    write_index(empty, make_index(empty), "y")
    index = read_index(index_path(empty), "y")
    assert index is not None
    assert len(index) == 0


def test_counts_by_language_go_out_and_in(tmp_path: Path, made: Manifest) -> None:
    shard = made.shards[0]
    entry = json.loads(made.path.read_text())
    assert "languages" not in entry["shards"][0]
    entry["shards"][0]["languages"] = {"en": 2, "zh": 3}
    made.path.write_text(json.dumps(entry))
    again = Manifest.read(tmp_path)
    assert again.shards[0].languages == {"en": 2, "zh": 3}
    again.write()
    assert Manifest.read(tmp_path) == again
    assert hash(again.shards[0]) == hash(shard)
