"""manifest.json: which shards a source has, how many samples each holds, and what their bytes should be."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from vglm_train.data.shards.address import is_remote
from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.shard_list import ShardList
from vglm_train.errors import MissingData, UserError
from vglm_train.files import file_states, write_text

NAME = "manifest.json"
VERSION = 1
TABLES = (".jsonl", ".csv", ".tsv", ".parquet")  # what people give in place of a folder of shards


@dataclass(frozen=True, slots=True)
class Manifest:
    """The shards of one source, in order. Reading it opens no shard."""

    path: Path  # of manifest.json itself; of a remote one, the name alone
    shards: Sequence[Shard]
    extra: Mapping[str, Any] = field(default_factory=dict)  # further keys: "captions" (language -> count) and the like
    origin: str | None = None  # the address of one that is not local

    @property
    def where(self) -> str:
        """For messages."""
        return str(self.path) if self.origin is None else self.origin

    @property
    def samples(self) -> int:
        return sum(self.counts)

    @property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        shards = self.shards
        return shards.samples if isinstance(shards, ShardList) else [shard.samples for shard in shards]

    @property
    def captions(self) -> dict[str, int] | None:
        """Captions by language, where the tool that wrote the manifest counted them."""
        counts = self.extra.get("captions")
        return dict(counts) if isinstance(counts, Mapping) else None

    @classmethod
    def read(cls, path: Path) -> Self:
        """`path`: the folder that holds manifest.json, or the file itself. UserError says what to run."""
        file = path / NAME if path.is_dir() else path
        if file.suffix.lower() in TABLES:
            raise UserError(
                f"{file}: a table, not shards. Give it as table, not as shards (data.train.0.table={file}), or make "
                "shards of it: vglm data convert, then vglm data pack_shards."
            )
        return cls.parse(_bytes(file), file)

    @classmethod
    def parse(cls, data: bytes, path: Path, origin: str | None = None) -> Self:
        """The content of a manifest that lies at `path`, or was read from `origin`. UserError as `read`."""
        file = str(path) if origin is None else origin
        content = _content(file, data)
        entries = content.get("shards")
        if content.get("version") != VERSION or not isinstance(entries, list):
            raise _wrong(file, f'it must be {{"version": {VERSION}, "shards": [...]}}')
        made = (_shard(file, path.parent, number, entry) for number, entry in enumerate(entries))
        shards = ShardList(_once(file, made), path.parent)
        extra = {key: value for key, value in content.items() if key not in ("version", "shards")}
        return cls(path, shards, extra, origin)

    def check_files(self) -> None:
        """Every local shard is there with the size the manifest gives; UserError names the first that is not."""
        # asking a server for each would take longer than the first batch may
        local = ((shard.path, shard) for shard in self.shards if shard.url is None)
        for shard, state in file_states(local):
            if isinstance(state, OSError):
                reason = f"{state.strerror}" if not isinstance(state, FileNotFoundError) else "the file is missing"
                raise UserError(
                    f"{shard.path}: {reason}, but {self.path} lists it. Bring it back, or "
                    f"{remake(str(self.path))} to leave it out."
                )
            if state.st_size != shard.bytes:
                raise UserError(
                    f"{shard.path}: the file has {state.st_size} bytes, {self.path} says {shard.bytes}. "
                    f"Copy the shard again, or {remake(str(self.path))} to accept it as it is."
                )

    def write(self) -> None:
        """Write to `path`, whole or not at all."""
        entries = [_entry(shard) for shard in self.shards]
        head = json.dumps({"version": VERSION, **self.extra}, ensure_ascii=False, indent=2)[:-2]
        lines = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in entries)
        write_text(self.path, f'{head},\n  "shards": [\n{lines}\n  ]\n}}\n')


def read_source(name: str, folder: str, languages: Sequence[str], manifest: Manifest | None = None) -> Manifest:
    """The manifest of a configured source: its files are there, it has samples and captions in a configured language.

    `manifest`: as it was read, where `folder` is not simply the folder that holds it.
    """
    manifest = manifest or Manifest.read(Path(folder))
    manifest.check_files()
    if manifest.samples == 0:
        raise UserError(f"{manifest.where}: source {name!r} is an empty split: its shards hold no sample at all.")
    check_language_counts(manifest, name, languages)
    return manifest


def check_language_counts(manifest: Manifest, name: str, languages: Sequence[str]) -> None:
    """Source `name` has captions in one of `languages`, if its manifest counts them. UserError else."""
    counts = manifest.captions
    if counts and not any(counts.get(language) for language in languages):
        raise UserError(
            f"{manifest.where}: source {name!r} has captions in {', '.join(counts)} only, but data.languages is "
            f"[{', '.join(languages)}]. Set data.languages to what the source has (evaluate: --languages)."
        )


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        if file.suffix != ".json" or not file.parent.is_dir():
            missing = file if file.suffix != ".json" else file.parent
            raise MissingData(f"{missing}: no such folder of shards. vglm data pack_shards makes one.") from None
        raise UserError(f"{file}: no manifest. If the folder holds shards, {remake(str(file))}.") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def _content(file: str, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise _wrong(file, f"it is not JSON ({error})") from None
    return content if isinstance(content, dict) else {}


def _shard(file: str, folder: Path, number: int, entry: Any) -> Shard:
    fields = entry if isinstance(entry, dict) else {}
    for key, kind in (("name", str), ("samples", int), ("bytes", int), ("sha256", str)):
        value = fields.get(key)
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise _wrong(file, f"shards.{number}.{key} must be {'text' if kind is str else 'a count'}, found {value!r}")
    languages = fields.get("languages")
    if languages is not None and not _are_counts(languages):
        raise _wrong(file, f"shards.{number}.languages must be counts by language, found {languages!r}")
    name = fields["name"]
    return Shard(name, folder / name, fields["samples"], fields["bytes"], fields["sha256"], languages)


def _once(file: str, shards: Iterable[Shard]) -> Iterator[Shard]:
    """The same shards. UserError where a name comes again."""
    names: set[str] = set()
    for shard in shards:
        if shard.name in names:
            raise _wrong(file, f"shard {shard.name} is listed twice")
        names.add(shard.name)
        yield shard


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(type(count) is int and count >= 0 for count in value.values())


def _entry(shard: Shard) -> dict[str, Any]:
    entry = {"name": shard.name, "samples": shard.samples, "bytes": shard.bytes, "sha256": shard.sha256}
    return entry if shard.languages is None else {**entry, "languages": dict(shard.languages)}


def _wrong(file: str, reason: str) -> UserError:
    return UserError(f"{file}: not a manifest that can be used: {reason}. To make a new one, {remake(file)}.")


def remake(file: str) -> str:
    """What to do about a manifest that says too little, for messages."""
    folder = file.rpartition("/")[0] or "."
    where = " where the shards lie" if is_remote(file) else ""
    return f"run vglm data check_shards {folder} --write-manifest{where}"
