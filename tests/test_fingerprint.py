"""Fingerprints see every byte, and read a file only once."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from vglm_train import fingerprint as module
from vglm_train.errors import UserError
from vglm_train.fingerprint import (
    bundle_fingerprint,
    content_hashes,
    fingerprint,
    same_content,
    tokenizer_fingerprint,
)

MIB = 2**20


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vglm_train" / "fingerprints.json"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files in the order they were read."""
    found: list[Path] = []
    real = module.sha256

    def noting(path: Path) -> str:
        found.append(path)
        return real(path)

    monkeypatch.setattr(module, "sha256", noting)
    return found


def old(path: Path, content: bytes) -> Path:
    """A file that has not been written to for a while."""
    path.write_bytes(content)
    os.utime(path, (time.time() - 100, time.time() - 100))
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time at which a file's inode changed cannot be set back: wait for none."""
    monkeypatch.setattr(module, "SETTLED", -(10**12))


def test_a_file_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    assert fingerprint(old(tmp_path / "w.safetensors", content)) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("where", [0, MIB, 2 * MIB - 1])
def test_every_byte_of_every_weight_file_counts(tmp_path: Path, where: int) -> None:
    folder = tmp_path / "model"
    (folder / "300").mkdir(parents=True)
    content = bytearray(2 * MIB)
    (folder / "300" / "a.pt").write_bytes(content)
    (folder / "config.json").write_text("{}")
    before = fingerprint(folder)
    content[where] ^= 1
    (folder / "300" / "a.pt").write_bytes(content)
    assert fingerprint(folder) != before
    content[where] ^= 1
    (folder / "300" / "a.pt").write_bytes(content)
    assert fingerprint(folder) == before
    (folder / "README.md").write_text("words")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.bin").write_text("words")
    assert fingerprint(folder) == before, "what is no part of the model"
    (folder / "300" / "a.pt").rename(folder / "a.pt")
    assert fingerprint(folder) != before, "names count"
    (folder / "config.json").write_text('{"a": 1}')
    assert fingerprint(folder) != before


def test_a_tokenizer_is_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    before = tokenizer_fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert tokenizer_fingerprint(tmp_path) == before
    (tmp_path / "merges.txt").write_text("a b")
    assert tokenizer_fingerprint(tmp_path) != before


def test_a_bundle_is_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.txt").write_text("a")
    before = bundle_fingerprint(tmp_path)
    (tmp_path / "tokenizer" / "vocab.txt").write_text("b")
    assert bundle_fingerprint(tmp_path) != before


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    file = old(tmp_path / "w.bin", os.urandom(MIB))
    first = fingerprint(file)
    assert fingerprint(file) == first
    assert reads == [file]
    old(file, os.urandom(MIB))
    assert fingerprint(file) != first
    assert reads == [file, file]


@pytest.mark.usefixtures("settled")
def test_another_file_of_the_same_size_and_time_is_read(tmp_path: Path, reads: list[Path]) -> None:
    """As after `cp -p other.bin w.bin`, or a folder that was exchanged."""
    file, other = (old(tmp_path / name, os.urandom(MIB)) for name in ("w.bin", "other.bin"))
    state = file.stat()
    first = fingerprint(file)
    os.utime(other, ns=(state.st_mtime_ns, state.st_mtime_ns))
    os.replace(other, file)
    assert file.stat().st_mtime_ns == state.st_mtime_ns
    assert fingerprint(file) != first
    assert len(reads) == 2


def test_a_file_that_was_just_written_is_not_believed(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(os.urandom(MIB))
    fingerprint(file)
    fingerprint(file)
    assert len(reads) == 2


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", ["", "{", "[]", '{"PATH": 3}', '{"PATH": ["x"]}'])
def test_a_broken_cache_only_costs_time(tmp_path: Path, cache: Path, content: str) -> None:
    file = old(tmp_path / "w.bin", os.urandom(MIB))
    cache.parent.mkdir(parents=True)
    cache.write_text(content.replace("PATH", str(file)))
    assert fingerprint(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert fingerprint(old(tmp_path / "w.bin", os.urandom(MIB)))


def test_several_files_side_by_side(tmp_path: Path) -> None:
    files = [old(tmp_path / f"{n}.bin", bytes([n]) * (n * 1000)) for n in range(20)]
    assert content_hashes(files) == {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.bin: cannot be read: No such file"):
        content_hashes([tmp_path / "gone.bin"])


def test_fingerprints_of_earlier_bundles_are_still_compared(tmp_path: Path) -> None:
    """Of a folder they covered names, sizes and the first MiB."""
    (tmp_path / "w.bin").write_bytes(b"weights")
    digest = hashlib.sha256(b"w.bin 7\nweights").hexdigest()
    assert same_content(tmp_path, digest)
    assert same_content(tmp_path, fingerprint(tmp_path))
    (tmp_path / "w.bin").write_bytes(b"height!")
    assert not same_content(tmp_path, digest)
