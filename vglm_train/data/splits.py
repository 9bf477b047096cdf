"""What training and validation read: each source as a manifest, held-out rows on their side alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vglm_train.config.data import Cache, Data, Holdout, Source
from vglm_train.data.remote.manifest import manifest_of
from vglm_train.data.shards.manifest import Manifest, check_language_counts, read_source
from vglm_train.data.tables.holdout import held
from vglm_train.data.tables.table import Table


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
    rows = table.usable(source.split)
    if part.holdout is not None:
        rows = rows[held(table, rows, part.holdout) == part.validation]
    manifest = table.manifest(np.ascontiguousarray(rows))
    check_language_counts(manifest, source.name, languages)
    return manifest
