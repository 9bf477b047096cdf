"""Captions from a stage-two bundle beside or instead of the original ones: CapFilt's generator.

    vglm data caption records.jsonl --out more.jsonl --bundle runs/photos_glm/bundle --language en
        --rank-bundle runs/photos/bundle --samples 10 --keep 2

Each picture is described `--samples` times by nucleus sampling. With a stage-one bundle, new and original captions of
the language are ranked by their ITC similarity to the picture, and the best `--keep` stay, as BLIP-2 did it with 10 and
2 (arXiv:2301.12597). A record's `provenance` says of each caption where it comes from and its similarity. Original
captions that lose are in the manifest. Captions in other languages are left alone. The same command after a kill
continues, and says what a run that was never killed says.
"""

import shutil
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.caption.generate import CaptionSettings, caption_block
from data_tools.common import cli
from data_tools.common.cli import at_least_one
from data_tools.common.jobs import JobStage, owned
from data_tools.common.models import ModelSpec, check_stage, find_devices, fingerprint
from data_tools.common.records import Inputs, open_inputs
from data_tools.common.results import Outcome, write_parts
from data_tools.common.text import LANGUAGES
from vglm_train.checkpoint.bundle.adapter import parse_adapters, read_adapter
from vglm_train.checkpoint.bundle.format import resolve
from vglm_train.config.language import Decoding
from vglm_train.config.load import load
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError

BLOCK = 64  # records: what a kill may cost a process


@dataclass(frozen=True, slots=True)
class CaptionJob:
    """What to caption. `settings.devices` is found when it starts."""

    inputs: Inputs
    settings: CaptionSettings
    dropped: Path

    @property
    def parts(self) -> Path:
        return self.settings.out.with_name(f"{self.settings.out.name}.parts")

    def identity(self) -> dict[str, Any]:
        ranker = None if self.settings.ranker is None else fingerprint(self.settings.ranker)
        bundles = {"bundle": fingerprint(self.settings.generator), "rank_bundle": ranker}
        return {"inputs": list(self.inputs.identity), **bundles, **self.settings.identity()}


def caption(task: CaptionJob, workers: int) -> Outcome:
    """Write the records with their captions; continues a killed run of the same task."""
    with owned(task.parts, task.identity(), "run of caption", "caption"):
        devices = find_devices(workers, task.parts)
        settings = replace(task.settings, devices=devices)
        stage = JobStage(task.parts, "caption")
        stage.run(partial(caption_block, settings), task.inputs.blocks, devices.processes, "record", "caption")
        outcome = write_parts(stage, task.inputs.blocks, settings.out, task.dropped)
    shutil.rmtree(task.parts)
    return outcome


def _check_language(option: str, bundle: Path, language: str) -> None:
    languages = load(bundle / "config.yaml").data.languages
    if language not in languages:
        known = ", ".join(languages)
        raise UserError(f"{option} {bundle}: was trained on {known}, not on --language {language}")


def plan(args: Namespace) -> CaptionJob:
    """The task of a command line. UserError for what cannot be."""
    if args.rank_bundle is None and args.keep is not None:
        raise UserError("--keep needs an order: give --rank-bundle, a stage-one bundle")
    check_stage("--bundle", args.bundle, "generate", "finetune")
    _check_language("--bundle", args.bundle, args.language)
    if args.rank_bundle is not None:
        check_stage("--rank-bundle", args.rank_bundle, "align")
        _check_language("--rank-bundle", args.rank_bundle, args.language)
    adapters = tuple((path.resolve(), weight) for path, weight in parse_adapters(args.adapter))
    for path, _ in resolve(args.bundle, args.base, adapters).adapters:
        read_adapter(path)  # before the work begins
    try:
        sampling = {"temperature": args.temperature, "top_p": args.top_p, "seed": args.seed}
        decoding = Decoding(max_new=args.max_new, sample=True, **sampling)
    except FieldError as error:
        raise UserError(f"--{error.fields[0].replace('_', '-')} {error.reason}") from None
    out = cli.output(args.out, [args.records])
    base = None if args.base is None else args.base.resolve()
    generator = ModelSpec(args.bundle.resolve(), args.vision_weights, args.language_weights, base, adapters)
    ranker = None if args.rank_bundle is None else ModelSpec(args.rank_bundle.resolve(), args.vision_weights)
    keep = args.keep if args.keep or ranker is None else 2
    devices = find_devices(1, out.parent)
    settings = CaptionSettings(generator, ranker, args.language, args.samples, keep, decoding, out, devices)
    inputs = open_inputs([args.records], BLOCK, shards=False)
    return CaptionJob(inputs, settings, cli.dropped_path(args.dropped, out))


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.caption", __doc__)
    add = parser.add_argument
    add("records", type=Path, help="records file of vglm data convert")
    add("--out", required=True, type=Path, help="records file to write")
    add("--dropped", type=Path, help="manifest of what was dropped (default: OUT with .dropped.jsonl)")
    add("--bundle", required=True, type=Path, help="bundle of stage two or a fine-tuning that writes the captions")
    add("--adapter", action="append", default=[], metavar="FOLDER[:WEIGHT]", help="add what a fine-tuning trained")
    add("--base", type=Path, help="the bundle that a fine-tuning began with, where it has moved")
    add("--language", required=True, choices=LANGUAGES, help="language of the new captions")
    add("--rank-bundle", type=Path, help="stage-one bundle that ranks them (default: all stay)")
    add("--samples", type=at_least_one, default=10, help="new captions of a picture (default: 10)")
    add("--keep", type=at_least_one, help="captions of the language that stay (2)")
    add("--max-new", type=at_least_one, default=32, help="ids of a caption at most (default: 32)")
    add("--top-p", type=float, default=0.9, help="nucleus (default: 0.9, as CapFilt)")
    add("--temperature", type=float, default=1.0, help="of the draws (default: 1)")
    add("--seed", type=int, default=0, help="of the draws (default: 0)")
    add("--vision-weights", help="the frozen encoder, where it has moved")
    add("--language-weights", help="the frozen language model, where it has moved")
    add("--workers", type=at_least_one, default=1, help="processes on the CPU (1); with GPUs at most one each")
    args = parser.parse_args(argv)
    task = plan(args)
    outcome = caption(task, args.workers)
    print("\n".join(outcome.lines(args.out, task.dropped, task.inputs.records)))
    return 0


if __name__ == "__main__":
    cli.command(main)
