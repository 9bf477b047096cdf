"""manifest.json: which shards a source has, how many samples each holds, and what their bytes should be."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from vglm_train.errors import UserError

NAME = "manifest.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file."""

    name: str  # relative to the manifest's folder
    path: Path
    samples: int
    bytes: int
    sha256: str
    languages: Mapping[str, int] | None = field(default=None, hash=False)  # samples that have captions, by language


@dataclass(frozen=True, slots=True)
class Manifest:
    """The shards of one source, in order. Reading it opens no shard."""

    path: Path  # of manifest.json itself
    shards: tuple[Shard, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)  # further keys: "captions" (language -> count) and the like

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def captions(self) -> dict[str, int] | None:
        """Captions by language, where the tool that wrote the manifest counted them."""
        counts = self.extra.get("captions")
        return dict(counts) if isinstance(counts, Mapping) else None

    @classmethod
    def read(cls, path: Path) -> Self:
        """`path`: the folder that holds manifest.json, or the file itself. UserError says what to run."""
        file = path / NAME if path.is_dir() else path
        content = _content(file)
        entries = content.get("shards")
        if content.get("version") != VERSION or not isinstance(entries, list):
            raise _wrong(file, f'it must be {{"version": {VERSION}, "shards": [...]}}')
        shards = tuple(_shard(file, number, entry) for number, entry in enumerate(entries))
        seen: set[str] = set()
        for shard in shards:
            if shard.name in seen:
                raise _wrong(file, f"shard {shard.name} is listed twice")
            seen.add(shard.name)
        extra = {key: value for key, value in content.items() if key not in ("version", "shards")}
        return cls(file, shards, extra)

    def check_files(self) -> None:
        """Every shard is there with the size the manifest gives; UserError names the first that is not."""
        for shard in self.shards:
            try:
                size = shard.path.stat().st_size
            except OSError as error:
                reason = f"{error.strerror}" if not isinstance(error, FileNotFoundError) else "the file is missing"
                raise UserError(
                    f"{shard.path}: {reason}, but {self.path} lists it. Bring it back, or "
                    f"{_remake(self.path)} to leave it out."
                ) from None
            if size != shard.bytes:
                raise UserError(
                    f"{shard.path}: the file has {size} bytes, {self.path} says {shard.bytes}. "
                    f"Copy the shard again, or {_remake(self.path)} to accept it as it is."
                )

    def write(self) -> None:
        """Write to `path`, whole or not at all."""
        entries = [_entry(shard) for shard in self.shards]
        head = json.dumps({"version": VERSION, **self.extra}, ensure_ascii=False, indent=2)[:-2]
        lines = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in entries)
        aside = self.path.with_name(f"{self.path.name}.tmp-{os.getpid()}")
        with open(aside, "w", encoding="utf-8") as out:
            out.write(f'{head},\n  "shards": [\n{lines}\n  ]\n}}\n')
            out.flush()
            os.fsync(out.fileno())
        os.replace(aside, self.path)


def read_source(name: str, folder: str, languages: Sequence[str]) -> Manifest:
    """The manifest of a configured source: its files are there, it has samples and captions in a language asked for."""
    manifest = Manifest.read(Path(folder))
    manifest.check_files()
    if manifest.samples == 0:
        raise UserError(f"{manifest.path}: source {name!r} is an empty split: its shards hold no sample at all.")
    check_spoken(manifest, name, languages)
    return manifest


def check_spoken(manifest: Manifest, name: str, languages: Sequence[str]) -> None:
    """Source `name` speaks one of `languages`, if anybody has counted. UserError else."""
    counts = manifest.captions
    if counts and not any(counts.get(language) for language in languages):
        raise UserError(
            f"{manifest.path}: source {name!r} has captions in {', '.join(counts)} only, but data.languages is "
            f"[{', '.join(languages)}]. Set data.languages to what the source has."
        )


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        if file.suffix != ".json" or not file.parent.is_dir():
            missing = file if file.suffix != ".json" else file.parent
            raise UserError(f"{missing}: no such folder of shards.") from None
        raise UserError(f"{file}: no manifest. If the folder holds shards, {_remake(file)}.") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _wrong(file, f"it is not JSON ({error})") from None
    return content if isinstance(content, dict) else {}


def _shard(file: Path, number: int, entry: Any) -> Shard:
    fields = entry if isinstance(entry, dict) else {}
    for key, kind in (("name", str), ("samples", int), ("bytes", int), ("sha256", str)):
        value = fields.get(key)
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise _wrong(file, f"shards.{number}.{key} must be {'text' if kind is str else 'a count'}, found {value!r}")
    languages = fields.get("languages")
    if languages is not None and not _are_counts(languages):
        raise _wrong(file, f"shards.{number}.languages must be counts by language, found {languages!r}")
    name = fields["name"]
    return Shard(name, file.parent / name, fields["samples"], fields["bytes"], fields["sha256"], languages)


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(type(count) is int and count >= 0 for count in value.values())


def _entry(shard: Shard) -> dict[str, Any]:
    entry = {"name": shard.name, "samples": shard.samples, "bytes": shard.bytes, "sha256": shard.sha256}
    return entry if shard.languages is None else {**entry, "languages": dict(shard.languages)}


def _wrong(file: Path, reason: str) -> UserError:
    return UserError(f"{file}: not a manifest that can be used: {reason}. To make a new one, {_remake(file)}.")


def _remake(file: Path) -> str:
    return f"run python -m data_tools.check_shards {file.parent} --write-manifest"
