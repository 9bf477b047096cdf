"""Sources on servers that do as the test says."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from bad_server import BadServer, serve
from made_shards import write_source
from moto.server import ThreadedMotoServer

from vglm_train.config.data import Cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_source(tmp_path / "served", [5, 3])


@pytest.fixture
def server(folder: Path) -> Iterator[BadServer]:
    with serve(folder) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(folder=str(tmp_path / "cache"), retries=3, timeout_s=1, backoff_s=0.02)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Somebody's credentials for S3."""
    for name, value in (("ACCESS_KEY_ID", "me"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    return monkeypatch


@pytest.fixture
def s3(keys: pytest.MonkeyPatch) -> Iterator["boto3.client"]:
    """A client of an S3 of our own, which `AWS_ENDPOINT_URL` names; it has one bucket, `bucket`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    server.stop()
