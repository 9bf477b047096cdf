"""What a run asks of a table: its configuration's sources, processor and held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from vglm_train import stages
from vglm_train.config.check import check
from vglm_train.config.data import Holdout, Source
from vglm_train.config.load import errors_with_location, load
from vglm_train.config.presets import find_config
from vglm_train.data.processors import RecordCheck
from vglm_train.data.rules import LanguageCheck
from vglm_train.data.shards.index import LANGUAGES


@dataclass(frozen=True, slots=True)
class RunRules:
    """`languages`: those that a record may be in. `train`, `validation`: the sources of the run."""

    check: RecordCheck
    languages: tuple[str, ...]
    train: tuple[Source, ...] = ()
    validation: tuple[Source, ...] = ()
    holdout: Holdout | None = None

    def source(self, given: Source) -> tuple[Source, Holdout | None]:
        """The table as the run reads it, and what it holds out of it; what is given on the command line comes first."""
        path = Path(str(given.table)).resolve()
        for sources, holdout in ((self.train, self.holdout), (self.validation, None)):
            for own in sources:
                if own.table is not None and Path(own.table).resolve() == path:
                    return replace(own, name=given.name, **_given(given)), holdout
        return given, None


def _given(source: Source) -> dict[str, Any]:
    """What of a table's source is not as it is by default."""
    default = Source(name=source.name, table=source.table)
    values = ((part.name, getattr(source, part.name)) for part in fields(Source))
    return {name: value for name, value in values if value != getattr(default, name)}


def without_run() -> RunRules:
    """Whatever some run can use."""
    return RunRules(LanguageCheck(LANGUAGES), LANGUAGES)


def of_run(config_or_preset: str, overrides: Sequence[str]) -> RunRules:
    """UserError as training would raise it."""
    path = find_config(config_or_preset).path
    with errors_with_location(path, overrides):
        config = load(path, overrides)
        check(config, 1)
        processor = stages.build(config).processor
    data = config.data
    return RunRules(processor, data.languages, data.train, data.validation, data.holdout)
