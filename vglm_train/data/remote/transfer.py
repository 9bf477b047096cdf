"""One attempt to read a remote file from a given byte on: HTTP, S3, a command. Who retries is `download.py`."""

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from requests import Response

CHUNK = 2**20  # bytes
_PASSING = (408, 425, 429)  # of the answers 400 to 499, those that another try may change
_WORDS = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}


class Failed(Exception):  # noqa: N818  (an attempt, not yet a fault)
    """An attempt that brought nothing, or not all. `final`: another one would not either; `changed`: the file is not
    what it was, so what came before is of no use; `wait`: seconds the server asked for."""

    def __init__(self, reason: str, final: bool = False, changed: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.final, self.changed, self.wait = reason, final, changed, wait


@dataclass(frozen=True, slots=True)
class RemoteStream:
    """What an attempt brings. Iterating `chunks` raises Failed where it breaks off."""

    start: int  # byte that the first chunk begins at: what was asked for, or 0
    total: int | None  # bytes of the whole file, where the server says so
    tag: str | None  # of this version of the file
    chunks: Iterator[bytes]


def read_from(address: str, start: int, tag: str | None, timeout: float) -> AbstractContextManager[RemoteStream]:
    """Begin to read at byte `start`, if the file is still version `tag` and the server can; else at 0.

    `timeout`: seconds to connect, and without a byte. Raises Failed, within the block too.
    """
    if address.startswith("s3://"):
        return _s3(address, start, tag, timeout)
    if address.startswith("pipe:"):
        return _pipe(address, timeout)
    return _http(address, start, tag, timeout)


@contextmanager
def _http(url: str, start: int, tag: str | None, timeout: float) -> Iterator[RemoteStream]:
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag and not tag.startswith("W/"):
            headers["If-Range"] = tag
    try:
        import requests
        from urllib3.exceptions import HTTPError
    except ImportError:
        raise Failed('http:// needs requests: pip install "vglm_train[train]"', final=True) from None
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
            yield _part(answer, start)
    except requests.Timeout:
        raise Failed(f"no answer for {timeout:g} s") from None
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema) as error:
        raise Failed(str(error), final=True) from None
    except (requests.RequestException, HTTPError, OSError) as error:
        raise Failed(_lost(error, timeout)) from None


def _part(answer: "Response", start: int) -> RemoteStream:
    status, range_ = answer.status_code, answer.headers.get("Content-Range", "")
    whole = range_.rpartition("/")[2]
    total = int(whole) if whole.isdigit() else None
    tag, chunks = answer.headers.get("ETag"), iter(lambda: answer.raw.read1(CHUNK), b"")
    if status == 416 and total is not None and start >= total:
        return RemoteStream(total, total, None, iter(()))
    if status == 206 and range_.startswith(f"bytes {start}-"):
        return RemoteStream(start, total, tag, chunks)
    if status == 200:
        length = answer.headers.get("Content-Length")
        return RemoteStream(0, None if length is None else int(length), tag, chunks)
    retry_after = answer.headers.get("Retry-After", "")
    wait = float(retry_after) if retry_after.isdigit() else 0.0
    reason = f"the server answers {status} {answer.reason or _WORDS.get(status, '')}".rstrip()
    final = 400 <= status < 500 and status not in (*_PASSING, 412, 416)
    raise Failed(reason, final, changed=status in (206, 412, 416), wait=wait)


def _lost(error: BaseException, timeout: float) -> str:
    """One phrase for what happened to a connection; the library's texts are pages long."""
    text = f"{error!r} {error}"
    for sign, words in (
        ("timed out", f"no byte for {timeout:g} s"),
        ("Read timeout", f"no byte for {timeout:g} s"),
        ("Connect timeout", f"no answer for {timeout:g} s"),
        ("refused", "the connection was refused"),
        ("NameResolution", "the name of the host is not known"),
        ("Name or service", "the name of the host is not known"),
        ("Certificate", "the certificate was refused"),
        ("IncompleteRead", "the connection was dropped"),
        ("reset", "the connection was dropped"),
        ("RemoteDisconnected", "the connection was dropped"),
        ("Connection aborted", "the connection was dropped"),
    ):
        if sign in text:
            return words
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


@contextmanager
def _s3(address: str, start: int, tag: str | None, timeout: float) -> Iterator[RemoteStream]:
    try:
        import boto3  # a second of start-up that other sources do without
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError
    except ImportError:
        raise Failed('s3:// needs boto3: pip install "vglm_train[s3]"', final=True) from None
    bucket, _, key = address.removeprefix("s3://").partition("/")
    headers = {"Range": f"bytes={start}-", **({"IfMatch": tag} if tag else {})} if start else {}
    session = boto3.Session()
    patience = Config(
        connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1},
        response_checksum_validation="when_required",
        signature_version=None if session.get_credentials() else UNSIGNED,
    )  # fmt: skip
    try:
        answer = session.client("s3", config=patience).get_object(Bucket=bucket, Key=key, **headers)
        body, range_ = answer["Body"], answer.get("ContentRange", "")
        total = int(range_.rpartition("/")[2]) if range_ else answer["ContentLength"]
        # small reads: each waits for all its bytes, so a slow server is noticed between them
        yield RemoteStream(start if range_ else 0, total, answer.get("ETag"), iter(lambda: body.read(2**14), b""))
    except ClientError as error:
        status, what = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]
        if status == 416 and str(what.get("ActualObjectSize", "")).isdigit():
            yield RemoteStream(int(what["ActualObjectSize"]), int(what["ActualObjectSize"]), None, iter(()))
            return
        final = 400 <= status < 500 and status not in (*_PASSING, 412, 416)
        raise Failed(f"S3 answers {status} {what.get('Code', '')}".rstrip(), final, status in (412, 416)) from None
    except (BotoCoreError, HTTPError, OSError) as error:
        final = type(error).__name__ in ("NoCredentialsError", "ParamValidationError", "ProfileNotFound")
        raise Failed(_lost(error, timeout), final) from None


@contextmanager
def _pipe(address: str, timeout: float) -> Iterator[RemoteStream]:
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            address.removeprefix("pipe:"),
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            yield RemoteStream(0, None, None, _output(process, timeout))
            status = process.wait(timeout)
            if status:
                stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 300))
                last = (stderr.read().decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
                raise Failed(f"the command ended with status {status}: {last}")
        except subprocess.TimeoutExpired:
            raise Failed(f"the command closed its output, but did not end for {timeout:g} s") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _output(process: subprocess.Popen[bytes], timeout: float) -> Iterator[bytes]:
    assert process.stdout is not None
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not ready.select(timeout):
                raise Failed(f"the command wrote no byte for {timeout:g} s")
            chunk = os.read(process.stdout.fileno(), CHUNK)
            if not chunk:
                return
            yield chunk


def watched(chunks: Iterator[bytes], seconds: float) -> Iterator[bytes]:
    """The same chunks; Failed if fewer than 1 KiB a second came for so many seconds."""
    since, came = time.monotonic(), 0
    for chunk in chunks:
        yield chunk
        came += len(chunk)
        now = time.monotonic()
        if now - since >= seconds:
            if came < 1024 * (now - since):
                raise Failed(f"only {came} bytes in {now - since:.0f} s")
            since, came = now, 0
