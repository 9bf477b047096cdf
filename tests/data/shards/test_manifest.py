"""The manifest goes out and in unchanged, and every mismatch is one message with a way out."""

import json
import re
from pathlib import Path

import pytest
from made_shards import write_manifest, write_source

from vglm_train.data.shards.manifest import Manifest, read_source
from vglm_train.errors import UserError

LANGUAGES = ("en", "zh")


def test_round_trip(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "a", [3, 2], captions={"en": 10, "zh": 5}, samples=5)
    manifest = Manifest.read(folder)
    assert manifest == Manifest.read(folder / "manifest.json")
    assert [(shard.name, shard.samples) for shard in manifest.shards] == [
        ("shard-000000.tar", 3),
        ("shard-000001.tar", 2),
    ]
    assert (manifest.samples, manifest.captions) == (5, {"en": 10, "zh": 5})
    before = manifest.path.read_bytes()
    manifest.write()
    assert manifest.path.read_bytes() == before
    assert json.loads(before)["shards"][1]["samples"] == 2
    assert list(folder.glob("*.tmp-*")) == []


def test_foreign_manifest_without_counts_of_captions(tmp_path: Path) -> None:
    assert Manifest.read(write_source(tmp_path / "a", [1])).captions is None


def fails(folder: Path, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        read_source("mine", str(folder), LANGUAGES)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert "\n" not in message


def test_folder_or_manifest_missing(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere" / "shards", "nowhere", "no such folder")
    fails(tmp_path, f"{tmp_path}/manifest.json: no manifest", f"vglm data check_shards {tmp_path} --write-manifest")


def test_shard_missing(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "a", [1, 1])
    (folder / "shard-000001.tar").unlink()
    fails(folder, "shard-000001.tar: the file is missing", "--write-manifest")


def test_shard_of_another_size(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "a", [1, 1])
    with open(folder / "shard-000001.tar", "ab") as shard:
        shard.write(b"0")
    fails(folder, "shard-000001.tar", "the file has 10241 bytes", "says 10240", "--write-manifest")


@pytest.mark.parametrize("counts", [{}, {"shard-000000.tar": 0}])
def test_empty_split(tmp_path: Path, counts: dict[str, int]) -> None:
    folder = write_source(tmp_path / "a", [0])
    write_manifest(folder, counts)
    fails(folder, "source 'mine' is an empty split")


def test_no_language_in_common(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "a", [1], captions={"de": 3})
    fails(folder, "captions in de only", "data.languages is [en, zh]")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "not JSON"),
        ("[]", '"version": 1'),
        ('{"version": 2, "shards": []}', '"version": 1'),
        ('{"version": 1}', '"shards"'),
        ('{"version": 1, "shards": [{"name": "a.tar"}]}', "shards.0.samples must be a count, found None"),
        ('{"version": 1, "shards": [{"name": "a.tar", "samples": -1}]}', "shards.0.samples must be a count, found -1"),
        ('{"version": 1, "shards": [{"name": "a.tar", "samples": true}]}', "found True"),
        ('{"version": 1, "shards": ["a.tar"]}', "shards.0.name must be text"),
    ],
)
def test_not_a_manifest(tmp_path: Path, content: str, part: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    fails(tmp_path, part, "--write-manifest")


@pytest.mark.parametrize("name", ["captions.csv", "records.jsonl"])
def test_a_table_in_place_of_shards(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("image,caption\n")
    fails(tmp_path / name, "a table, not shards", f"data.train.0.table={tmp_path / name}")


def test_shard_listed_twice(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "a", [1])
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "shards": content["shards"] * 2}))
    fails(folder, "shard shard-000000.tar is listed twice")


def test_ten_thousand_shards_are_read_in_a_moment(tmp_path: Path) -> None:
    entries = [{"name": f"{n}.tar", "samples": 1000, "bytes": 1, "sha256": "0" * 64} for n in range(10_000)]
    (tmp_path / "manifest.json").write_text(json.dumps({"version": 1, "shards": entries}))
    assert Manifest.read(tmp_path).samples == 10_000_000


def test_written_as_people_can_read_it(tmp_path: Path) -> None:
    text = (write_source(tmp_path / "a", [1, 1]) / "manifest.json").read_text()
    assert len(re.findall(r'^    \{"name": ', text, flags=re.M)) == 2
