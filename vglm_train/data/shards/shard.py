"""One shard, as its manifest describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vglm_train.data.shards.address import redacted


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file."""

    name: str  # relative to the manifest's folder
    path: Path
    samples: int
    bytes: int
    sha256: str
    languages: Mapping[str, int] | None = field(default=None, hash=False)  # samples that have captions, by language
    url: str | None = None  # where it is fetched from; `path` is that of its copy. None: `path` is the shard

    @property
    def where(self) -> str:
        """For messages."""
        return str(self.path) if self.url is None else redacted(self.url)

    def identity(self) -> str:
        """What is equal where the samples are."""
        counts = sorted((self.languages or {}).items())
        return f"{self.name} {self.samples} {self.bytes} {self.sha256} {counts}"
