"""S3: a stand-in that knows its rules, and one that behaves badly."""

from pathlib import Path

import pytest
from bad_server import serve
from made_shards import write_source

from vglm_train.config.data import Cache, Source
from vglm_train.data.remote.cache import ShardCache
from vglm_train.data.remote.download import Unreachable
from vglm_train.data.remote.manifest import manifest_of
from vglm_train.data.shards.shard import Shard
from vglm_train.errors import UserError

FIRST = "shard-000000.tar"


def shards_of(address: str, cache: Cache) -> tuple[Shard, ...]:
    manifest = manifest_of(Source(name="a", shards=address), cache)
    assert manifest is not None
    ShardCache(cache).begin()
    return manifest.shards


@pytest.fixture
def uploaded(s3, folder: Path) -> str:
    for path in folder.iterdir():
        s3.upload_file(str(path), "bucket", f"some/where/{path.name}")
    return "s3://bucket/some/where"


@pytest.mark.parametrize("ending", ["", "/", "/manifest.json"])
def test_from_a_bucket(uploaded: str, folder: Path, cache: Cache, ending: str) -> None:
    for shard in shards_of(uploaded + ending, cache):
        ShardCache(cache).fetch(shard)
        assert shard.path.read_bytes() == (folder / shard.name).read_bytes()


def test_a_brace_list_in_a_bucket(uploaded: str, cache: Cache) -> None:
    assert [shard.samples for shard in shards_of(uploaded + "/shard-{000000..000001}.tar", cache)] == [5, 3]


def test_going_on_within_an_object(uploaded: str, folder: Path, cache: Cache) -> None:
    shard = shards_of(uploaded, cache)[0]
    content = (folder / FIRST).read_bytes()
    shard.path.with_suffix(".part").write_bytes(content[:-10])
    ShardCache(cache).fetch(shard)
    assert shard.path.read_bytes() == content


def test_an_object_that_was_cut(s3, uploaded: str, folder: Path, cache: Cache, caplog) -> None:
    shard = shards_of(uploaded, cache)[0]
    s3.put_object(Bucket="bucket", Key=f"some/where/{FIRST}", Body=(folder / FIRST).read_bytes()[:3000])
    shard.path.with_suffix(".part").write_bytes((folder / FIRST).read_bytes()[:4000])  # more than there is now
    ShardCache(cache).fetch(shard)
    assert shard.path.stat().st_size == 3000
    assert f"has 3000 bytes on its server, the manifest says {shard.bytes}" in caplog.text


def test_what_is_not_there(s3, uploaded: str, cache: Cache) -> None:
    shard = shards_of(uploaded, cache)[0]
    s3.delete_object(Bucket="bucket", Key=f"some/where/{FIRST}")
    with pytest.raises(Unreachable, match="S3 answers 404 NoSuchKey"):
        ShardCache(cache).fetch(shard)
    with pytest.raises(UserError, match=r"^s3://nowhere/train/manifest\.json: S3 answers 404 NoSuchBucket\. A source"):
        shards_of("s3://nowhere/train", cache)


@pytest.mark.parametrize(("fate", "said"), [("drop", "dropped"), ("stall", "no byte for 1 s"), (503, "503")])
def test_bad_moments(keys, tmp_path: Path, cache: Cache, caplog, fate: str | int, said: str) -> None:
    folder = write_source(tmp_path / "served" / "bucket", [40])
    with serve(folder.parent) as server:
        keys.setenv("AWS_ENDPOINT_URL", server.url.rstrip("/"))
        shard = shards_of("s3://bucket", cache)[0]
        name = f"bucket/{FIRST}"
        server.plans[name] = [fate, fate]
        ShardCache(cache).fetch(shard)
        assert shard.path.read_bytes() == (folder / FIRST).read_bytes()
        assert len(server.requests[name]) == 3
        if isinstance(fate, str):
            assert all(value.startswith("bytes=") for value in server.requests[name][1:])
    lines = [line for line in caplog.messages if line.startswith(f"s3://bucket/{FIRST}: try ")]
    assert len(lines) == 2
    assert all(said in line for line in lines)


def test_public_buckets_need_no_credentials(monkeypatch, tmp_path: Path, cache: Cache) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    folder = write_source(tmp_path / "served" / "bucket", [4])
    with serve(folder.parent) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.rstrip("/"))
        ShardCache(cache).fetch(shards_of("s3://bucket", cache)[0])
