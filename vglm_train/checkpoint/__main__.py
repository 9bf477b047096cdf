"""`python -m vglm_train.checkpoint import | export | merge | inspect | diff`: weights in and out."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vglm_train.checkpoint.bundle.adapter import parse_adapters
from vglm_train.checkpoint.convert.commands import export_weights, import_weights, inspect
from vglm_train.checkpoint.convert.diff import diff
from vglm_train.checkpoint.convert.merge import merge_bundle
from vglm_train.checkpoint.convert.registry import FORMATS, WRITTEN
from vglm_train.checkpoint.convert.source import Options
from vglm_train.command import run_command
from vglm_train.config.load import load


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 where `diff` finds a difference; 2 for a mistake to mend; 130 if stopped."""
    given = _parse(argv)
    return run_command(partial(_do, given))


def _do(given: argparse.Namespace) -> int:
    options = _options(given)
    same, lines = True, []
    if given.command == "import":
        lines = import_weights(given.source, given.out, given.format, options, given.force)
    elif given.command == "export":
        shard = int(given.shard_gb * 10**9)
        lines = export_weights(given.bundle, given.format, given.out, options, given.force, shard, given.qkv)
    elif given.command == "merge":
        language = str(given.language) if given.language else None
        adapters = parse_adapters(given.adapter)
        lines = merge_bundle(given.bundle, adapters, given.out, given.force, language)
    elif given.command == "inspect":
        lines = inspect(given.path, given.format)
    else:
        same, lines = diff(given.first, given.second, options)
    print("\n".join(lines), flush=True)
    return 0 if same else 1


def _options(given: argparse.Namespace) -> Options:
    config = getattr(given, "config", None)
    return Options(
        config=load(config) if config else None,
        fused=getattr(given, "qkv", None),
        image_size=getattr(given, "image_size", None),
        vision=getattr(given, "vision", None),
        language=getattr(given, "language", None),
        tokenizer=getattr(given, "tokenizer", None),
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vglm_train.checkpoint", description="Weights in and out.")
    commands = parser.add_subparsers(dest="command", required=True)
    coming = commands.add_parser("import", help="any known format into a bundle")
    coming.add_argument("source", type=Path)
    coming.add_argument("--out", type=Path, required=True, help="the bundle to write")
    coming.add_argument("--format", choices=["auto", *FORMATS], default="auto", help="what the source is")
    coming.add_argument("--image-size", type=int, help="pixels a side: position embeddings are interpolated, bicubic")
    coming.add_argument("--tokenizer", type=Path, help="tokenizer folder or file, where the source has none")
    _about_source(coming)
    going = commands.add_parser("export", help="a bundle into another format")
    going.add_argument("bundle", type=Path)
    going.add_argument("--format", choices=WRITTEN, required=True)
    going.add_argument("--out", type=Path, required=True, help="the file or folder to write")
    going.add_argument("--qkv", choices=["thirds", "heads"], help="visualglm-sat: heads for SAT before 0.4.4")
    going.add_argument("--shard-gb", type=float, default=5.0, help="hf: largest file of weights, GB (default 5)")
    going.add_argument("--vision", type=Path, help="the frozen encoder's weights, where they have moved")
    going.add_argument("--language", type=Path, help="the frozen language model's folder, where it has moved")
    merging = commands.add_parser("merge", help="adapters into the weights of a bundle")
    merging.add_argument("bundle", type=Path)
    merging.add_argument(
        "--adapter", action="append", default=[], metavar="FOLDER[:WEIGHT]", help="repeat it for a weighted sum"
    )
    merging.add_argument("--out", type=Path, required=True, help="the bundle to write")
    merging.add_argument("--language", type=Path, help="the frozen language model's folder, where it has moved")
    for command in (coming, going, merging):
        command.add_argument("--force", action="store_true", help="replace what is at --out")
    looking = commands.add_parser("inspect", help="what a file or folder is")
    looking.add_argument("path", type=Path)
    looking.add_argument("--format", choices=["auto", *FORMATS], default="auto", help="what it is")
    comparing = commands.add_parser("diff", help="compare two by value; exit status 1 if they differ")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    _about_source(comparing)
    return parser.parse_args(argv)


def _about_source(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, help="run configuration for what the source does not tell")
    command.add_argument("--qkv", choices=["thirds", "heads"], help="order of fused products (SAT, hub)")
    command.add_argument("--vision", type=Path, help="LAVIS: the frozen image encoder, where it stands apart")
    command.add_argument("--language", type=Path, help="LAVIS stage two: folder of the frozen language model")


if __name__ == "__main__":
    sys.exit(main())
