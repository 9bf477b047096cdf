"""Every way to say where shards are gives the same stream; what cannot be is one message."""

import re
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from bad_server import BadServer, serve
from made_shards import write_source

from vglm_train.config.data import Cache, Source
from vglm_train.data.remote.cache import ShardCache
from vglm_train.data.remote.download import Unreachable
from vglm_train.data.remote.manifest import manifest_of
from vglm_train.data.shards.address import redacted
from vglm_train.data.shards.manifest import Manifest
from vglm_train.errors import UserError

Forms = dict[str, Callable[[Path, str], dict[str, str]]]
LIST = "shard-{000000..000006}.tar"
FORMS: Forms = {
    "http folder": lambda folder, url: {"shards": url.rstrip("/")},
    "http manifest": lambda folder, url: {"shards": f"{url}manifest.json"},
    "http list": lambda folder, url: {"shards": url + LIST},
    "local list": lambda folder, url: {"shards": f"{folder}/{LIST}"},
    "manifest apart": lambda folder, url: {"shards": url, "manifest": f"{folder}/manifest.json"},
    "local shards, manifest apart": lambda folder, url: {"shards": str(folder), "manifest": f"{url}manifest.json"},
    "command": lambda folder, url: {"shards": f"pipe:cat {folder}/{{}}"},
    "command, manifest apart": lambda folder, url: {
        "shards": f"pipe:cat {folder}/{{}}", "manifest": f"{url}manifest.json",
    },
    "commands": lambda folder, url: {"shards": f"pipe:cat {folder}/{LIST}"},
}  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_stream(loader_of, uneven: Path, cache: Cache, form: str, workers: int) -> None:
    """31 samples in seven shards, one of them empty; two epochs and a half."""
    options = {"micro": 4, "workers": workers, "cache": cache}
    with serve(uneven) as server:
        source = Source(name="source0", **FORMS[form](uneven, server.url))
        found = list(islice(loader_of(uneven, train=(source,), **options).batches(0), 20))
        expected = list(islice(loader_of(uneven, micro=4).batches(0), 20))
        for batch, same in zip(found, expected, strict=True):
            assert batch.valid.all()
            assert torch.equal(batch.image_ids, same.image_ids)
            assert torch.equal(batch.pixels, same.pixels)
        assert all(len(asked) == 1 for name, asked in server.requests.items() if name.endswith(".tar"))


def test_balanced_languages_from_a_list(loader_of, uneven: Path, cache: Cache) -> None:
    """Counts by language come from the counting, the samples that have one from the index that it leaves."""
    with serve(uneven) as server:
        source = Source(name="source0", shards=server.url + LIST)
        options = {"balance": {"en": 1, "zh": 1}, "cache": cache}
        batches = islice(loader_of(uneven, train=(source,), **options).batches(0), 3)
        assert [(batch.sample_counts["en"], batch.sample_counts["zh"]) for batch in batches] == [(6, 6)] * 3


def test_a_list_is_counted_once(server: BadServer, folder: Path, cache: Cache) -> None:
    source = Source(name="mine", shards=f"{server.url}shard-{{000000..000001}}.tar")
    with pytest.raises(UserError, match="source 'mine': its 2 shards are counted when it is first read"):
        manifest_of(source, cache, count=False)
    first, again = manifest_of(source, cache), manifest_of(source, cache, count=False)
    assert first == again
    assert first is not None
    whole = Manifest.read(folder)
    assert [(s.samples, s.bytes, s.sha256) for s in first.shards] == [
        (s.samples, s.bytes, s.sha256) for s in whole.shards
    ]
    assert first.captions == {"en": 8, "zh": 8}
    assert "counted in" in first.where
    assert sum(map(len, server.requests.values())) == 2
    assert all(shard.path.exists() for shard in first.shards)  # read without another request


def test_a_local_list_is_counted_again_when_it_changes(folder: Path, cache: Cache) -> None:
    source = Source(name="mine", shards=f"{folder}/shard-{{000000,000001}}.tar")
    assert manifest_of(source, cache).samples == 8  # type: ignore[union-attr]
    write_source(folder, [5, 4])
    assert manifest_of(source, cache).samples == 9  # type: ignore[union-attr]
    (folder / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match=r"source 'mine': .*shard-000001\.tar: No such file"):
        manifest_of(source, cache)


@pytest.mark.parametrize(
    ("shards", "parts"),
    [
        ("{url}nowhere", ["{url}nowhere/manifest.json: the server answers 404 Not Found. A source is a folder"]),
        ("{url}nothing-{{0..3}}.tar", ["source 'mine' has no manifest, and cannot be counted: ", "404 Not Found"]),
        ("{url}odd/manifest.json", ["{url}odd/manifest.json: not a manifest that can be used", "where the shards lie"]),
        ("pipe:cat nowhere/{{}}", ["pipe:cat nowhere/manifest.json: the command ended with status 1: cat: "]),
        ("{url}a-{{0..3.tar", ["a-{{0..3.tar: not a brace list such as", "Unbalanced"]),
    ],
)
def test_what_cannot_be_read_is_one_message(server: BadServer, folder: Path, cache: Cache, shards, parts) -> None:
    (folder / "odd").mkdir()
    (folder / "odd" / "manifest.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        manifest_of(Source(name="mine", shards=shards.format(url=server.url)), replace(cache, retries=1))
    for part in parts:
        assert part.format(url=server.url) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_with_a_manifest_is_a_contradiction(cache: Cache) -> None:
    with pytest.raises(UserError, match="shards is a list and manifest is given"):
        manifest_of(Source(name="a", shards="http://h/{0..3}.tar", manifest="m.json"), cache)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("head -c 700 {path}; echo gone >&2; exit 3", "the command ended with status 3: gone"),
        ("head -c 700 {path}; sleep 30", "the command wrote no byte for 1 s"),
    ],
)
def test_commands_that_fail_begin_again(tmp_path: Path, folder: Path, cache: Cache, caplog, command, said) -> None:
    """The first time it fails, the second time it does not."""
    path = shlex.quote(f"{folder}/shard-000000.tar")
    mark = tmp_path / "mark"
    whole = f"pipe:if test -e {mark}; then cat {path}; else touch {mark}; {command.format(path=path)}; fi"
    manifest = manifest_of(Source(name="a", shards=f"{folder}", manifest=f"{folder}/manifest.json"), cache)
    assert manifest is not None
    shard = replace(manifest.shards[0], url=whole, path=ShardCache(cache).path(whole, manifest.shards[0].sha256))
    ShardCache(cache).begin()
    began = time.monotonic()
    ShardCache(cache).fetch(shard)
    assert time.monotonic() - began < 5
    assert shard.path.read_bytes() == (folder / "shard-000000.tar").read_bytes()
    assert f"try 1 of 4: {said}" in caplog.text


def test_a_name_cannot_add_to_a_command(folder: Path, cache: Cache) -> None:
    manifest = (folder / "manifest.json").read_text().replace("shard-000000.tar", "x; touch pwned")
    (folder / "manifest.json").write_text(manifest)
    found = manifest_of(Source(name="a", shards=f"pipe:cd {folder} && cat {{}}"), replace(cache, retries=0))
    assert found is not None
    ShardCache(cache).begin()
    with pytest.raises(Unreachable, match="No such file"):
        ShardCache(cache).fetch(found.shards[0])
    assert not (folder / "pwned").exists()


def test_a_cache_too_small_for_a_window(loader_of, uneven: Path, cache: Cache) -> None:
    with serve(uneven) as server:
        source = Source(name="source0", shards=server.url)
        with pytest.raises(UserError, match=r"limit_gib 1e-05 cannot hold .* data\.shuffle_shards") as caught:
            loader_of(uneven, train=(source,), cache=replace(cache, limit_gib=1e-5))
        assert re.search(r"at once, \d\S* GiB\. Raise it", str(caught.value))


def test_the_next_window_is_fetched_ahead(loader_of, tmp_path: Path, cache: Cache) -> None:
    folder = write_source(tmp_path / "many", [12] * 8)
    with serve(folder) as server:
        loader = loader_of(folder, train=(Source(name="source0", shards=server.url),), cache=cache)
        batches = loader.batches(0)
        next(batches)
        end = time.monotonic() + 10
        while len(server.requests) < 1 + 4 and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.2)
        shards = {name for name in server.requests if name.endswith(".tar")}
        assert len(shards) == 4  # two windows of two shards, and no more
        for _ in range(2):
            next(batches)  # 36 samples: the second window
        assert len(ShardCache(cache).cache.folder or "") > 0
        assert all(len(asked) == 1 for asked in server.requests.values())


@pytest.mark.parametrize("world", [1, 2])
def test_ordered_by_length_without_a_shard(loader_of, tmp_path: Path, cache: Cache, world: int) -> None:
    """What cannot be had has no length; all else is read once."""
    folder = write_source(tmp_path / "many", [12] * 4)
    with serve(folder) as server:
        (folder / "shard-000002.tar").unlink()
        options = {"train": (Source(name="source0", shards=server.url),), "cache": cache, "length_window": 2}
        loaders = [loader_of(folder, rank=rank, world=world, **options) for rank in range(world)]
        batches = [batch for loader in loaders for batch in islice(loader.batches(0), 4)]
        found = [int(n) for batch in batches for n in batch.image_ids[batch.valid]]
        assert sorted(found) == [*range(24), *range(36, 48)]
        assert sum(batch.damaged.get("unreachable", 0) for batch in batches) == 12


def test_a_limit_of_one_window_still_reads_everything(loader_of, tmp_path: Path, cache: Cache) -> None:
    folder = write_source(tmp_path / "many", [12] * 8)
    size = sum((folder / f"shard-00000{n}.tar").stat().st_size for n in range(2))
    with serve(folder) as server:
        small = replace(cache, limit_gib=1.1 * size / 2**30)
        loader = loader_of(folder, train=(Source(name="source0", shards=server.url),), cache=small, workers=2)
        found = [int(n) for batch in islice(loader.batches(0), 8) for n in batch.image_ids]
        assert sorted(found) == list(range(96))
        assert sum(path.stat().st_size for path in ShardCache(small).folder.glob("*.tar")) <= ShardCache(small).limit


def test_shown() -> None:
    assert redacted("https://me:secret@host:1/a/b.tar?X-Signature=1") == "https://host:1/a/b.tar?..."
    assert redacted("s3://bucket/a") == "s3://bucket/a"
