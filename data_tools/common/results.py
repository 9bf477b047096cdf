"""Parts of blocks -> the records that stay and the manifest of what was dropped, both whole or absent.

A part's lines are JSON: ["kept", record], ["dropped", entry], or ["score", [name, value]]. An entry has `id`, `place`,
`what` ("record" or "caption"), `rule` and `value`.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.common.cli import json_line
from data_tools.common.jobs import JobStage, Numbered
from vglm_train.errors import UserError
from vglm_train.files import replace_file


@dataclass(slots=True)
class Outcome:
    """What became of the records. `scores`: by name, how many have each value, rounded to two places."""

    kept: int = 0
    captions: Counter[str] = field(default_factory=Counter)  # kept, by language
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)  # by what and rule
    scores: dict[str, Counter[float]] = field(default_factory=dict)

    def lines(self, out: Path, dropped: Path, records: int) -> list[str]:
        """In words."""
        captions = ", ".join(f"{count} {language}" for language, count in sorted(self.captions.items()))
        found = [f"{out}: {self.kept} of {records} records kept, captions: {captions}"]
        found += [f"dropped {what}s, {rule}: {count}" for (what, rule), count in self.dropped.most_common()]
        found += [f"scores, {name}: {_quantiles(counter)}" for name, counter in self.scores.items()]
        return [*found, f"everything dropped is in {dropped}"] if self.dropped else found


def _quantiles(counter: Counter[float]) -> str:
    values = sorted(counter)
    total, passed, texts = counter.total(), 0, []
    shares = [0.05, 0.25, 0.5, 0.75, 0.95]
    for value in values:
        passed += counter[value]
        while shares and passed >= shares[0] * total:
            texts.append(f"{100 * shares.pop(0):.0f} % up to {value:.2f}")
    return ", ".join(texts)


def write_parts(stage: JobStage, blocks: Sequence[Numbered], out: Path, dropped: Path) -> Outcome:
    """Join the parts in the order of the blocks. UserError where no record is left: then nothing is written."""
    outcome = Outcome()
    with replace_file(out) as records, replace_file(dropped) as manifest:
        for part in stage.read(blocks):
            for line in part.splitlines():
                kind, value = json.loads(line)
                if kind == "kept":
                    records.write(json_line(value))
                    outcome.kept += 1
                    outcome.captions.update({name: len(texts) for name, texts in value["captions"].items()})
                elif kind == "dropped":
                    manifest.write(json_line(value))
                    outcome.dropped[value["what"], value["rule"]] += 1
                else:
                    name, number = value
                    outcome.scores.setdefault(name, Counter())[round(number, 2)] += 1
        if not outcome.kept:
            rules = ", ".join(f"{what} {rule}: {count}" for (what, rule), count in outcome.dropped.most_common())
            raise UserError(f"no record is left, nothing is written; dropped: {rules}")
    return outcome
