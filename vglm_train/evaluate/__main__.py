"""`python -m vglm_train.evaluate BUNDLE --task TASK --data DATA`: prints scores and writes a JSON file.

With `--protocol NAME` in place of `--task`: as a published protocol has it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from vglm_train.checkpoint.bundle.adapter import parse_adapters
from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.checkpoint.bundle.read import Bundle, open_bundle
from vglm_train.command import program, run_command
from vglm_train.distributed import use_gpu
from vglm_train.errors import UserError, explain_dead_processes
from vglm_train.evaluate.caption import command as caption
from vglm_train.evaluate.protocols.command import ProtocolCommand
from vglm_train.evaluate.protocols.schema import names
from vglm_train.evaluate.result import BLIND, Result, choose, write
from vglm_train.evaluate.retrieval import command as retrieval
from vglm_train.evaluate.to_wandb import log_evaluation
from vglm_train.evaluate.vqa.command import VqaCommand


class EvalTask(Protocol):
    """A task's command: a module or an object."""

    @property
    def STAGES(self) -> tuple[str, ...]: ...  # noqa: N802  (a module's constant) stages whose bundles it evaluates
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, bundle: Bundle, args: argparse.Namespace, device: torch.device) -> Result: ...


TASKS: dict[str, EvalTask] = {
    "retrieval": retrieval,
    "caption": caption,
    "vqa": VqaCommand("vqa"),
    "report": VqaCommand("report"),
}
SHARDS_ONLY = ("retrieval", "caption")  # tasks that cannot read tables


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 2 for a mistake to mend, 130 if stopped."""
    args = _parse(argv)
    return run_command(partial(_score, args))


def _score(args: argparse.Namespace) -> int:
    with explain_dead_processes():
        _check_numbers(args)
        _check_stage(args)
        _check_data(args)
        out = choose(
            args.out, args.bundle, args.protocol or args.task, args.data
        )  # before the scoring, which takes long
        device = torch.device("cuda" if use_gpu() else "cpu")
        bundle = open_bundle(
            Path(args.bundle),
            device,
            vision_weights=args.vision_weights,
            language_weights=getattr(args, "language_weights", None),
            base=getattr(args, "base", None),
            adapters=parse_adapters(getattr(args, "adapter", [])),
        )
        result = _command(args).run(bundle, args, device)
    written = _write(result, out)
    print("\n".join([*result.lines, *map(str, written)]))
    if args.wandb is not None:
        logged = [path for path in written if not path.name.endswith(BLIND)]  # that page is for one reader's machine
        about = (args.protocol or args.task, result.report, logged)
        log_evaluation(bundle.config.log.wandb, args.wandb, Path(args.bundle), *about)
    return 0


def _command(args: argparse.Namespace) -> EvalTask:
    """What --protocol or else --task names."""
    return TASKS[args.task] if args.protocol is None else ProtocolCommand(args.protocol)


def _write(result: Result, out: Path) -> list[Path]:
    """Write the files. If that fails, the scores are printed, because they took long to compute."""
    try:
        return write(result, out)
    except UserError:
        print("\n".join(result.lines))
        raise


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; --task or --protocol decides which there are."""
    prog = program("vglm_train.evaluate")
    task = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    group = task.add_mutually_exclusive_group()
    group.add_argument("--task", choices=list(TASKS), default="retrieval", help="what to measure (default retrieval)")
    group.add_argument("--protocol", choices=names(), help="measure as a published protocol has it, in place of --task")
    given = task.parse_known_args(argv)[0]
    chosen = f"--task {given.task}" if given.protocol is None else f"--protocol {given.protocol}"
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"Score a bundle on held-out data. Arguments are those of {chosen}.",
        parents=[task],
        allow_abbrev=False,
    )
    parser.add_argument("bundle", help="a bundle folder, such as RUN/bundle")
    parser.add_argument(
        "--data", required=True,
        help="folder of shards with manifest.json; vqa, report: or a table; with --protocol: the benchmark's own files",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=int, help="only so many rows, spread over sources and languages (default: all)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that decode pictures (default 2)")
    parser.add_argument("--vision-weights", help="the frozen encoder's weights, where they have moved")
    parser.add_argument(
        "--out",
        help="JSON file to write, not there yet, or a folder (default: TASK-DATA.json beside the bundle)",
    )
    parser.add_argument(
        "--wandb", choices=("online", "offline"), help="log it to W&B, in the project of log.wandb of the bundle's run"
    )
    _command(given).add_arguments(parser)
    return parser.parse_args(argv)


def _check_numbers(args: argparse.Namespace) -> None:
    """UserError for a wrong number in the arguments of every task."""
    numbers = (("images", args.images, 1), ("workers", args.workers, 0), ("rerank", getattr(args, "rerank", None), 0))
    for name, value, least in numbers:
        if value is not None and value < least:
            raise UserError(f"--{name} must be {least} or more, found {value}.")


def _check_stage(args: argparse.Namespace) -> None:
    """UserError if the task is for models of another stage. Runs before weights are loaded."""
    stage = read_document(Path(args.bundle))["stage"]
    if args.protocol is not None and stage not in (stages := _command(args).STAGES):
        raise UserError(
            f"{args.bundle} is of stage {stage!r}: --protocol {args.protocol} is for {' or '.join(stages)}."
        )
    if args.protocol is None and stage not in TASKS[args.task].STAGES:
        fitting = [task for task, command in TASKS.items() if stage in command.STAGES]
        raise UserError(
            f"{args.bundle} is of stage {stage!r}: give --task {' or '.join(fitting)}, not --task {args.task}."
        )


def _check_data(args: argparse.Namespace) -> None:
    """UserError for a table if the task reads shards only."""
    if args.protocol is None and args.task in SHARDS_ONLY and _is_table(Path(args.data)):
        raise UserError(
            f"{args.data}: a table needs --task vqa or --task report; --task {args.task} is for a folder of shards "
            "(vglm data convert and pack_shards make one)."
        )


def _is_table(path: Path) -> bool:
    if not path.is_file() or path.name == "manifest.json":
        return False
    if path.suffix.lower() != ".json":
        return path.suffix.lower() in (".jsonl", ".ndjson", ".csv", ".tsv")
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return not (isinstance(content, dict) and "shards" in content)  # a manifest by another name


if __name__ == "__main__":
    sys.exit(main())
