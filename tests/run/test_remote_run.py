"""Whole runs from servers: one that misbehaves in every way, an S3, and one that is gone."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from bad_server import BadServer, serve
from made_shards import write_source
from moto.server import ThreadedMotoServer

from run import runs
from vglm_train.data.shards.tar import read_tar_index

SHARDS, EACH, BATCH = 6, 20, 8
NAMES = [f"shard-{number:06d}.tar" for number in range(SHARDS)]
WHOLE = 7  # samples that the cut shard still has


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_source(tmp_path / "served", [EACH] * SHARDS)


@pytest.fixture
def server(folder: Path) -> Iterator[BadServer]:
    with serve(folder) as server:
        yield server


def words(tmp_path: Path, shards: str, epochs: int = 1, **cache: float) -> list[str]:
    """Overrides of a run of whole epochs that notes its samples."""
    patience = {"retries": 3, "timeout_s": 2, "backoff_s": 0.05} | cache
    return [
        f"data.train.0.shards={shards}", f"run.length={{steps: {epochs * EACH * SHARDS // BATCH}}}",
        "data.validation=[]", "evaluate.every=null", "log.samples=true", f"data.cache.folder={tmp_path / 'cache'}",
        *(f"data.cache.{name}={value}" for name, value in patience.items()),
    ]  # fmt: skip


def consumed(folder: Path) -> Counter[str]:
    lines = [line for path in folder.glob("samples-*.jsonl") for line in path.read_text().splitlines()]
    return Counter(key for line in lines for key in json.loads(line)["keys"])


def last_row(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_server_that_misbehaves(
    config: Path, tmp_path: Path, folder: Path, server: BadServer, processes: int
) -> None:
    """One shard each: dropped twice, errors, a stall, cut on the server, not there, and a good one."""
    places = read_tar_index(folder / NAMES[3]).offsets
    server.cut[NAMES[3]] = int(places[WHOLE][0]) + 50
    server.plans |= {NAMES[0]: ["drop", "drop"], NAMES[1]: [500, 503], NAMES[2]: ["stall"]}
    (folder / NAMES[4]).unlink()
    server.plans["manifest.json"] = [502]
    run = tmp_path / "run"
    runs.finish(runs.start(runs.command(config, run, processes, *words(tmp_path, server.url))))
    row = last_row(run)
    assert row["data/damaged_unreachable"] == EACH
    assert row["data/damaged_truncated"] == EACH - WHOLE
    assert row["data/damaged"] == 2 * EACH - WHOLE
    assert row["data/samples"] == EACH * SHARDS
    keys = consumed(run)
    good = [n for number in (0, 1, 2, 5) for n in range(number * EACH, (number + 1) * EACH)]
    good += range(3 * EACH, 3 * EACH + WHOLE)
    assert {f"made/{NAMES[n // EACH]}/{n:06d}" for n in good} <= set(keys)
    assert set(keys.values()) == {1}
    assert len(keys) == EACH * SHARDS
    text = (run / "log.txt").read_text()
    for name, said in (
        (NAMES[0], "WARNING: {}: try 1 of 4: the connection was dropped"),
        (NAMES[0], "WARNING: {}: try 2 of 4: the connection was dropped"),
        (NAMES[1], "WARNING: {}: try 1 of 4: the server answers 500 Internal Server Error; 0 of "),
        (NAMES[2], "WARNING: {}: try 1 of 4: no byte for 2 s"),
        (NAMES[3], f"WARNING: {{}}: has {server.cut[NAMES[3]]} bytes on its server, the manifest says "),
        (NAMES[4], "ERROR: {}: the server answers 404 Not Found: given up for 10 minutes; its 20 samples count as"),
    ):
        assert text.count(said.format(server.url + name)) == 1, (said, text)
    assert "Traceback" not in text
    assert len(server.requests[NAMES[4]]) == 1
    assert all(len(server.requests[name]) == tries for name, tries in zip(NAMES, (3, 3, 2), strict=False))


def test_a_server_that_is_gone_ends_the_run(config: Path, tmp_path: Path, server: BadServer) -> None:
    server.plans |= {name: [503] * 10_000 for name in NAMES}
    run = tmp_path / "run"
    patience = words(tmp_path, server.url, epochs=10, retries=1)
    process = runs.start(runs.command(config, run, 1, *patience, "data.global_batch=40"))
    output, _ = process.communicate(timeout=120)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2
    assert errors == [
        "error: step 25: 1000 of 1000 samples are damaged (unreachable 1000), more than data.max_damaged 0.01. "
        "log.txt names shards and keys; vglm data check_shards FOLDER lists them all. Mend the data or "
        "raise the limit."
    ]
    assert "Traceback" not in output


def test_from_s3(config: Path, tmp_path: Path, folder: Path) -> None:
    """Bucket to bundle; the shards are those of a local run, and so is every logged number."""
    environment = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
        client = boto3.client(
            "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id="me", aws_secret_access_key="secret",
        )  # fmt: skip
        client.create_bucket(Bucket="bucket")
        for path in folder.iterdir():
            client.upload_file(str(path), "bucket", f"train/{path.name}")
        arguments = runs.command(config, tmp_path / "run", 1, *words(tmp_path, "s3://bucket/train", timeout_s=20))
        runs.finish(runs.start(arguments, **environment))
    finally:
        server.stop()
    runs.finish(runs.start(runs.command(config, tmp_path / "local", 1, *words(tmp_path, str(folder)))))
    assert runs.losses(tmp_path / "run") == runs.losses(tmp_path / "local")
    assert consumed(tmp_path / "run") == consumed(tmp_path / "local")
    assert set(consumed(tmp_path / "run").values()) == {1}
