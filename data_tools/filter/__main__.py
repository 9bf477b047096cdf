"""Records that keep the rules, with the captions that do.

    vglm data filter records.jsonl --out kept.jsonl --min-width 200 --max-aspect 3 --min-length en=3 zh=4
    vglm data filter records.jsonl --out kept.jsonl --bundle runs/photos/bundle --min-similarity 0.25

Rules on text drop captions, rules on pictures drop records, and a record without a caption left goes too. With a
stage-one bundle, `--min-similarity` drops captions that its ITC finds too far from the picture, and `--min-match` those
that its ITM calls no match (CapFilt of BLIP, arXiv:2201.12086); quantiles of the scores are printed. Everything dropped
is in the manifest with rule and value. The same command after a kill continues.
"""

import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.common import cli
from data_tools.common.cli import at_least_one
from data_tools.common.jobs import JobStage, owned
from data_tools.common.models import ModelSpec, check_stage, find_devices, fingerprint
from data_tools.common.records import Inputs, open_inputs
from data_tools.common.results import Outcome, write_parts
from data_tools.common.text import LANGUAGES
from data_tools.filter.rules import Filtering, Rules, filter_block
from vglm_train.errors import UserError

BLOCK = 256  # records


@dataclass(frozen=True, slots=True)
class FilterJob:
    """What to filter by which rules."""

    inputs: Inputs
    rules: Rules
    model: ModelSpec | None
    out: Path
    dropped: Path

    @property
    def parts(self) -> Path:
        return self.out.with_name(f"{self.out.name}.parts")

    def identity(self) -> dict[str, Any]:
        bundle = None if self.model is None else fingerprint(self.model)
        rules = {name: value for name, value in asdict(self.rules).items() if value not in (None, {}, (), False)}
        rules = {name: list(value) if isinstance(value, tuple) else value for name, value in rules.items()}
        return {"inputs": list(self.inputs.identity), "rules": rules, "bundle": bundle}


def filter_records(task: FilterJob, workers: int) -> Outcome:
    """Write what stays and what goes; continues a killed run of the same task."""
    with owned(task.parts, task.identity(), "run of filter", "filter"):
        devices = find_devices(1 if task.model is None else workers, task.parts)
        filtering = Filtering(task.rules, task.out, task.model, devices)
        processes = workers if task.model is None else devices.processes
        stage = JobStage(task.parts, "filter")
        stage.run(partial(filter_block, filtering), task.inputs.blocks, processes, "record", "filter")
        outcome = write_parts(stage, task.inputs.blocks, task.out, task.dropped)
    shutil.rmtree(task.parts)
    return outcome


def lengths(option: str, given: Sequence[str]) -> dict[str, int]:
    """`en=3` -> {"en": 3}. UserError for anything else."""
    found = {}
    for text in given:
        language, equals, number = text.partition("=")
        if not equals or language not in LANGUAGES or not number.isdigit():
            raise UserError(f"{option} {text}: must be LANGUAGE=NUMBER with one of {list(LANGUAGES)}, such as en=3")
        found[language] = int(number)
    return found


def plan(args: Namespace) -> FilterJob:
    """The task of a command line. UserError for rules that cannot be."""
    rules = Rules(
        args.min_width, args.max_width, args.min_height, args.max_height, args.max_aspect,
        lengths("--min-length", args.min_length), lengths("--max-length", args.max_length),
        tuple(args.languages), args.match_language, args.min_similarity, args.min_match,
    )  # fmt: skip
    judged = rules.min_similarity is not None or rules.min_match is not None
    if judged and args.bundle is None:
        raise UserError("--min-similarity and --min-match need a stage-one model: give --bundle")
    if args.bundle is not None and not judged:
        raise UserError("--bundle is for --min-similarity or --min-match: give one of them, or leave it out")
    if rules == Rules():
        raise UserError("no rule is given; --help lists them")
    if args.bundle is not None:
        check_stage("--bundle", args.bundle, "align")
    out = cli.output(args.out, [args.records])
    model = None if args.bundle is None else ModelSpec(args.bundle.resolve(), args.vision_weights)
    inputs = open_inputs([args.records], BLOCK, shards=False)
    return FilterJob(inputs, rules, model, out, cli.dropped_path(args.dropped, out))


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.filter", __doc__)
    add = parser.add_argument
    add("records", type=Path, help="records file of vglm data convert")
    add("--out", required=True, type=Path, help="records file to write")
    add("--dropped", type=Path, help="manifest of what was dropped (default: OUT with .dropped.jsonl)")
    for name in ("min-width", "max-width", "min-height", "max-height"):
        add(f"--{name}", type=at_least_one, metavar="PIXELS", help=f"of a picture, {name.replace('-', 'imum ')}")
    add("--max-aspect", type=float, metavar="RATIO", help="longer side over shorter")
    text = "of captions, in words, Chinese in characters"
    add("--min-length", nargs="+", default=[], metavar="LANG=N", help=text)
    add("--max-length", nargs="+", default=[], metavar="LANG=N", help=text)
    add("--languages", nargs="+", default=[], choices=LANGUAGES, help="drop captions in others")
    add("--match-language", action="store_true", help="drop captions whose letters are another language's")
    add("--bundle", type=Path, help="stage-one bundle that judges captions")
    add("--vision-weights", help="the bundle's frozen encoder, where it has moved")
    add("--min-similarity", type=float, metavar="X", help="ITC similarity, from -1 to 1")
    add("--min-match", type=float, metavar="P", help="ITM's probability of a match, from 0 to 1 (CapFilt: 0.5)")
    add("--workers", type=at_least_one, default=os.cpu_count() or 1, help="processes (default: one a CPU)")
    args = parser.parse_args(argv)
    task = plan(args)
    outcome = filter_records(task, args.workers)
    print("\n".join(outcome.lines(args.out, task.dropped, task.inputs.records)))
    return 0


if __name__ == "__main__":
    cli.command(main)
