"""`python -m vglm_train.checkpoint import | export | merge | inspect | card | diff`: weights in and out."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vglm_train.checkpoint.bundle.adapter import parse_adapters
from vglm_train.checkpoint.card.text import write_card
from vglm_train.checkpoint.convert.commands import export_weights, import_weights, inspect
from vglm_train.checkpoint.convert.diff import diff
from vglm_train.checkpoint.convert.merge import merge_bundle
from vglm_train.checkpoint.convert.registry import FORMATS, WRITTEN
from vglm_train.checkpoint.convert.source import Options
from vglm_train.command import program, run_command
from vglm_train.config.load import load


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 where `diff` finds a difference; 2 for a mistake to mend; 130 if stopped."""
    args = _parse(argv)
    return run_command(partial(_do, args))


def _do(args: argparse.Namespace) -> int:
    options = _options(args)
    same, lines = True, []
    if args.command == "import":
        lines = import_weights(args.source, args.out, args.format, options, args.force)
    elif args.command == "export":
        shard = int(args.shard_gb * 10**9)
        lines = export_weights(args.bundle, args.format, args.out, options, args.force, shard, args.qkv)
    elif args.command == "merge":
        vision, language = (str(path) if path else None for path in (args.vision, args.language))
        adapters = parse_adapters(args.adapter)
        lines = merge_bundle(args.bundle, adapters, args.out, args.force, language, vision)
    elif args.command == "inspect":
        lines = inspect(args.path, args.format)
    elif args.command == "card":
        lines = [f"wrote {write_card(args.bundle, args.out or args.bundle)}"]
    else:
        same, lines = diff(args.first, args.second, options)
    print("\n".join(lines), flush=True)
    return 0 if same else 1


def _options(args: argparse.Namespace) -> Options:
    config = getattr(args, "config", None)
    return Options(
        config=load(config) if config else None,
        fused=getattr(args, "qkv", None),
        image_size=getattr(args, "image_size", None),
        vision=getattr(args, "vision", None),
        language=getattr(args, "language", None),
        tokenizer=getattr(args, "tokenizer", None),
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program("vglm_train.checkpoint"), description="Weights in and out.")
    commands = parser.add_subparsers(dest="command", required=True)
    importer = commands.add_parser("import", help="any known format into a bundle")
    importer.add_argument("source", type=Path, help="file or folder of a known format")
    importer.add_argument("--out", type=Path, required=True, help="the bundle to write")
    importer.add_argument("--format", choices=["auto", *FORMATS], default="auto", help="what the source is")
    importer.add_argument("--image-size", type=int, help="pixels a side: position embeddings are interpolated, bicubic")
    importer.add_argument("--tokenizer", type=Path, help="tokenizer folder or file, where the source has none")
    _about_source(importer)
    exporter = commands.add_parser("export", help="a bundle into another format")
    exporter.add_argument("bundle", type=Path, help="the bundle to export")
    exporter.add_argument("--format", choices=WRITTEN, required=True, help="what to write")
    exporter.add_argument("--out", type=Path, required=True, help="the file or folder to write")
    exporter.add_argument("--qkv", choices=["thirds", "heads"], help="visualglm-sat: heads for SAT before 0.4.4")
    exporter.add_argument("--shard-gb", type=float, default=5.0, help="hf: largest file of weights, GB (default 5)")
    _about_towers(exporter)
    exporter.add_argument("--tokenizer", type=Path, help="tokenizer folder or file, where the bundle has none")
    merger = commands.add_parser("merge", help="adapters into the weights of a bundle")
    merger.add_argument("bundle", type=Path, help="the bundle that the adapters belong to")
    merger.add_argument(
        "--adapter", action="append", default=[], metavar="FOLDER[:WEIGHT]", help="repeat it for a weighted sum"
    )
    merger.add_argument("--out", type=Path, required=True, help="the bundle to write")
    _about_towers(merger)
    for command in (importer, exporter, merger):
        command.add_argument("--force", action="store_true", help="replace what --out names")
    inspector = commands.add_parser("inspect", help="what a file or folder is")
    inspector.add_argument("path", type=Path, help="file or folder")
    inspector.add_argument("--format", choices=["auto", *FORMATS], default="auto", help="what it is")
    card = commands.add_parser("card", help="a model card of what is known, in English and Chinese")
    card.add_argument("bundle", type=Path, help="the bundle; data.train.N.licence of its run names the data's licences")
    card.add_argument("--out", type=Path, metavar="FOLDER", help="where README.md goes (default: into the bundle)")
    differ = commands.add_parser("diff", help="compare two by value; exit status 1 if they differ")
    differ.add_argument("first", type=Path, help="file or folder of a known format")
    differ.add_argument("second", type=Path, help="what it is compared with")
    _about_source(differ)
    return parser.parse_args(argv)


def _about_source(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, help="run configuration for what the source does not say")
    command.add_argument("--qkv", choices=["thirds", "heads"], help="order of fused products (SAT, hub)")
    _add_tower(command, "vision", "LAVIS: the frozen image encoder, where it stands apart")
    _add_tower(command, "language", "LAVIS stage two: folder of the frozen language model")


def _about_towers(command: argparse.ArgumentParser) -> None:
    _add_tower(command, "vision", "the frozen encoder's weights, where they have moved")
    _add_tower(command, "language", "the frozen language model's folder, where it has moved")


def _add_tower(command: argparse.ArgumentParser, tower: str, text: str) -> None:
    """Under the name that the other commands of `vglm` have for it too, which messages give."""
    command.add_argument(f"--{tower}-weights", f"--{tower}", dest=tower, metavar="PATH", type=Path, help=text)


if __name__ == "__main__":
    sys.exit(main())
