"""What training and validation read: each source as a manifest, held-out rows on their side alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vglm_train.config.data import Cache, Data, Holdout, Source
from vglm_train.config.run import Config
from vglm_train.data.remote.manifest import manifest_of
from vglm_train.data.shards.manifest import Manifest, check_language_counts, read_source
from vglm_train.data.tables.holdout import held
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError


@dataclass(frozen=True, slots=True)
class SplitSource:
    """A source, or of a table what `holdout` leaves to training or, if `validation`, keeps from it."""

    source: Source
    holdout: Holdout | None = None
    validation: bool = False


def training(data: Data) -> list[SplitSource]:
    """data.train, less what is held out."""
    return [SplitSource(source, data.holdout if source.table else None) for source in data.train]


def validating(data: Data) -> list[SplitSource]:
    """data.validation, and what is held out of data.train's tables."""
    kept = [SplitSource(source, data.holdout, True) for source in data.train if source.table and data.holdout]
    return [*map(SplitSource, data.validation), *kept]


def name_of(part: SplitSource | Source) -> str:
    """The name of a source or of a part of it."""
    return part.name if isinstance(part, Source) else part.source.name


def open_part(
    part: SplitSource | Source, languages: Sequence[str], cache: Cache | None = None, count: bool = True
) -> Manifest:
    """The manifest of a source or a part of it. UserError where it cannot be read or has nothing in `languages`.

    `cache`: where remote shards go; `count`: shards that no manifest lists are fetched and counted, once.
    """
    part = SplitSource(part) if isinstance(part, Source) else part
    source = part.source
    if source.table is None:
        elsewhere = manifest_of(source, cache or Cache(), count)
        return read_source(source.name, str(source.shards), languages, elsewhere)
    table = Table(source)
    if not part.validation:
        table.log_doubts()
    rows = table.usable(source.split)
    if part.holdout is not None:
        rows = rows[held(table, rows, part.holdout) == part.validation]
    manifest = table.manifest(np.ascontiguousarray(rows))
    check_language_counts(manifest, source.name, languages)
    return manifest


def read_manifests(config: Config, count: bool = True) -> tuple[Manifest, ...]:
    """Of each source of data.train, in its order. UserError where one cannot be read, or a language is in none.

    `count`: shards that no manifest lists are fetched and counted, once.
    """
    data = config.data
    manifests = tuple(open_part(part, data.languages, data.cache, count) for part in training(data))
    _check_languages(data.languages, manifests)
    return manifests


def _check_languages(languages: Sequence[str], sources: Sequence[Manifest]) -> None:
    """Every configured language has captions somewhere, if all manifests count them."""
    counts = [manifest.captions for manifest in sources]
    if any(count is None for count in counts):
        return
    missing = [language for language in languages if not any(count and count.get(language) for count in counts)]
    if missing:
        counted = ", ".join(manifest.where for manifest in sources)
        raise UserError(
            f"data.languages asks for {missing[0]}, but no source has captions in it (counted in {counted}). "
            "Leave it out, or add a source that has it."
        )
