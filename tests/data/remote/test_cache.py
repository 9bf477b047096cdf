"""A shard arrives whole, once, in spite of its server; what cannot be had is named, counted, and waits for nobody."""

import logging
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bad_server import BadServer, serve
from made_shards import write_source

from vglm_train.config.data import Cache, Source
from vglm_train.data.remote.cache import ShardCache
from vglm_train.data.remote.download import Unreachable
from vglm_train.data.remote.manifest import manifest_of
from vglm_train.data.shards.reader import DamagedSample, ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.tar import read_tar_index
from vglm_train.errors import UserError

FIRST, SECOND = "shard-000000.tar", "shard-000001.tar"


def shards_of(server: BadServer, cache: Cache) -> list[Shard]:
    manifest = manifest_of(Source(name="a", shards=server.url), cache)
    assert manifest is not None
    ShardCache(cache).begin()
    return list(manifest.shards)


def arrived(shard: Shard, folder: Path) -> bool:
    return shard.path.read_bytes() == (folder / shard.name).read_bytes()


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        ("drop", "the connection was dropped"),
        (500, "the server answers 500 Internal Server Error"),
        (429, "the server answers 429 Too Many Requests"),
        ("stall", "no byte for 1 s"),
        ("drip", "bytes in 1 s"),
    ],
)
def test_bad_moments_are_named_and_overcome(
    server: BadServer, folder: Path, cache: Cache, caplog: pytest.LogCaptureFixture, fate: str | int, said: str
) -> None:
    shard = shards_of(server, cache)[0]
    server.plans[FIRST] = [fate, fate]
    with caplog.at_level(logging.INFO, logger="vglm_train"):
        ShardCache(cache).fetch(shard)
    assert arrived(shard, folder)
    lines = [line for line in caplog.messages if f"{server.url}{FIRST}" in line]
    assert [f"try {n} of 4: " in line and said in line and "again in " in line for n, line in enumerate(lines, 1)] == [
        True, True, False,
    ]  # fmt: skip
    assert "complete after" in lines[2]
    asked = server.requests[FIRST]
    assert len(asked) == 3
    if isinstance(fate, str):  # went on from where it broke off, further each time
        starts = [int(value.removeprefix("bytes=").rstrip("-") or 0) for value in asked]
        assert 0 == starts[0] < starts[1] < starts[2] < shard.bytes


def test_a_server_without_ranges_starts_again(server: BadServer, folder: Path, cache: Cache) -> None:
    shard = shards_of(server, cache)[0]
    server.plans[FIRST], server.ranges = ["drop", "drop"], False
    ShardCache(cache).fetch(shard)
    assert arrived(shard, folder)


def test_given_up_once_for_all(server: BadServer, cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    shard = shards_of(server, cache)[0]
    server.plans[FIRST] = [503] * 99
    for _ in range(2):
        with pytest.raises(DamagedSample) as caught:
            ShardReader(2, cache).read(shard, 3)
        assert caught.value.cause == "unreachable"
        assert "503 Service Unavailable (4 tries in " in str(caught.value)
    assert len(server.requests[FIRST]) == 4
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].startswith(f"{server.url}{FIRST}: the server answers 503")
    assert "given up for 10 minutes; its 5 samples count as unreachable" in errors[0]
    server.plans.clear()
    ShardCache(cache).begin()  # the next start asks again
    assert ShardReader(2, cache).read(shard, 3).key == "000003"


def test_what_is_not_there_is_asked_for_once(server: BadServer, folder: Path, cache: Cache) -> None:
    shard = shards_of(server, cache)[1]
    (folder / SECOND).unlink()
    with pytest.raises(Unreachable, match=r"the server answers 404 Not Found$"):
        ShardCache(cache).fetch(shard)
    assert len(server.requests[SECOND]) == 1


def test_a_server_that_is_gone(folder: Path, cache: Cache) -> None:
    with serve(folder) as server:
        shard = shards_of(server, cache)[0]
        url = server.url
    began = time.monotonic()
    with pytest.raises(Unreachable, match="the connection was refused"):
        ShardCache(cache).fetch(shard)
    with pytest.raises(UserError, match=r"manifest\.json: the connection was refused .* A source is a folder"):
        manifest_of(Source(name="a", shards=url), cache)
    assert time.monotonic() - began < 5


def test_a_server_that_is_down_is_not_waited_for_with_every_shard(tmp_path: Path, cache: Cache) -> None:
    folder = write_source(tmp_path / "many", [2] * 4)
    names = [f"shard-00000{number}.tar" for number in range(4)]
    with serve(folder) as server:
        shards, store = shards_of(server, cache), ShardCache(cache)
        server.plans |= {name: [503] * 99 for name in names[:2]}
        server.plans[names[2]] = [500]
        for shard in shards[:2]:
            with pytest.raises(Unreachable):
                store.fetch(shard)
        for shard in shards[2:]:
            store.fetch(shard)
        assert [len(server.requests[name]) for name in names] == [4, 2, 2, 1]
        server.plans[names[3]] = [503] * 3
        shards[3].path.unlink()
        store.fetch(shards[3])  # since it answered again, with all patience
        assert len(server.requests[names[3]]) == 5


def test_a_shard_cut_on_its_server_is_read_as_far_as_it_goes(server: BadServer, cache: Cache, caplog) -> None:
    shard = shards_of(server, cache)[0]
    image = int(read_tar_index(Path(shard.path.parent.parent / "served" / FIRST)).offsets[3][0])
    server.cut[FIRST] = image + 100
    server.plans[FIRST] = ["drop"]
    reader, found = ShardReader(2, cache), []
    for index in range(5):
        try:
            found.append(reader.read(shard, index).key)
        except DamagedSample as damage:
            found.append(damage.cause)
    assert found == ["000000", "000001", "000002", "truncated", "truncated"]
    assert f"has {image + 100} bytes on its server, the manifest says {shard.bytes}" in caplog.text
    server.cut.clear()
    ShardCache(cache).begin()
    assert ShardReader(2, cache).read(shard, 4).key == "000004"


def test_other_bytes_than_the_manifests(server: BadServer, folder: Path, cache: Cache, caplog) -> None:
    shard = shards_of(server, cache)[0]
    content = bytearray((folder / FIRST).read_bytes())
    content[700] ^= 1
    (folder / FIRST).write_bytes(content)
    with pytest.raises(Unreachable, match="are not those that the manifest counts and hashes"):
        ShardCache(cache).fetch(shard)
    assert len(server.requests[FIRST]) == 2
    assert "fetched once more" in caplog.text


def test_going_on_after_a_kill(server: BadServer, folder: Path, cache: Cache) -> None:
    shard = shards_of(server, cache)[0]
    shard.path.with_suffix(".part").write_bytes((folder / FIRST).read_bytes()[:1000])
    ShardCache(cache).fetch(shard)
    assert arrived(shard, folder)
    assert server.requests[FIRST] == ["bytes=1000-"]


def test_one_download_for_all_processes(server: BadServer, folder: Path, cache: Cache) -> None:
    shards = shards_of(server, cache)
    server.plans[FIRST] = ["drop"]
    processes = [multiprocessing.Process(target=_fetch_all, args=(cache, shards)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(server.requests[FIRST]) == 2
    assert len(server.requests[SECOND]) == 1
    left = sorted(path.name for path in Path(cache.folder or "").iterdir())
    assert left == sorted(name for s in shards for name in (s.path.name, s.path.with_suffix(".idx").name))


def _fetch_all(cache: Cache, shards: list[Shard]) -> None:
    reader = ShardReader(4, cache)
    assert [reader.read(shard, 0).key for shard in shards] == ["000000", "000005"]


def test_the_limit_is_kept_and_the_oldest_goes(tmp_path: Path, cache: Cache) -> None:
    folder = write_source(tmp_path / "many", [4] * 6)
    with serve(folder) as server:
        size = (folder / FIRST).stat().st_size
        shards = shards_of(server, replace(cache, limit_gib=3.5 * size / 2**30))
        store = ShardCache(replace(cache, limit_gib=3.5 * size / 2**30))
        handles = []
        for number, shard in enumerate(shards[:3]):
            handles.append(store.open(shard))
            os.utime(shard.path, (number, number))
        os.close(store.open(shards[0]))  # used again: the second is the oldest now
        store.fetch(shards[3])
        assert [shard.path.exists() for shard in shards[:4]] == [True, False, True, True]
        assert not shards[1].path.with_suffix(".idx").exists()
        assert len(os.pread(handles[1], size, 0)) == size  # who has it open reads on
        os.close(store.open(shards[1]))
        assert len(server.requests[SECOND]) == 2
        kept = sum(path.stat().st_size for path in store.folder.glob("*.tar"))
        assert kept <= store.limit
        for handle in handles:
            os.close(handle)


def test_passwords_and_signatures_are_not_logged(server: BadServer, folder: Path, cache: Cache, caplog) -> None:
    shard = shards_of(server, cache)[0]
    secret = replace(shard, url=f"http://me:secret@{server.url.removeprefix('http://')}{FIRST}?signature=hidden")
    server.plans[FIRST] = [500]
    ShardCache(cache).fetch(secret)
    assert arrived(shard, folder)
    assert "try 1 of 4" in caplog.text
    assert "secret" not in caplog.text
    assert "hidden" not in caplog.text


def test_a_disk_that_is_full(server: BadServer, cache: Cache) -> None:
    """A limit on the size of files stands for it: writing beyond it is an OSError as well."""
    code = (
        "import resource, signal, sys\n"
        "from vglm_train.config.data import Cache, Source\n"
        "from vglm_train.data.remote.manifest import manifest_of\n"
        "from vglm_train.data.remote.cache import ShardCache\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "cache = Cache(folder=sys.argv[2])\n"
        "manifest = manifest_of(Source(name='a', shards=sys.argv[1]), cache)\n"
        "ShardCache(cache).begin()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "ShardCache(cache).fetch(manifest.shards[0])\n"
    )
    words = [sys.executable, "-c", code, server.url, str(cache.folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "UserError: data.cache.folder" in done.stderr
    assert "File too large while " in done.stderr
