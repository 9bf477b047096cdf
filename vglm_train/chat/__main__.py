"""`python -m vglm_train.chat BUNDLE`: talk about pictures in a terminal, or answer about many with --batch."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vglm_train.chat.options import add_model_options, add_sampling_options, open_model, sampling_of
from vglm_train.command import program, run_command
from vglm_train.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if inputs of a batch have no answer, 2 for a mistake to mend, 130 if stopped."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console that lacks a character
    args = _parser().parse_args(argv)
    return run_command(partial(_talk, args))


def _talk(args: argparse.Namespace) -> int:
    _check(args)
    from vglm_train.chat.batch import Batch, check_out  # slow to import: after the arguments are read
    from vglm_train.chat.images import find_file
    from vglm_train.chat.inputs import open_inputs
    from vglm_train.chat.terminal import Terminal, clean_path
    from vglm_train.chat.words import words

    sampling = sampling_of(args)
    images = [str(find_file(clean_path(path))) for path in args.image]  # before the model, which may take minutes
    inputs = open_inputs(Path(args.batch), args.pictures, args.fields) if args.batch else None
    if args.batch:
        check_out(Path(args.out))
    else:
        print(f"opening {args.bundle} ...", file=sys.stderr, flush=True)
    with open_model(args) as model:
        if inputs is None:
            return Terminal(model, words(args.language), sampling).run(images)
        about = {"bundle": str(args.bundle), "adapters": args.adapter, "prompt": args.prompt, "sampling": sampling,
                 "quantize": model.quantize, "dtype": args.dtype, "weights": _weights(args)}  # fmt: skip
        return Batch(model, inputs, Path(args.out), args.prompt, sampling, about).run()


def _weights(args: argparse.Namespace) -> list[str]:
    """Names the content of bundle and adapters: a run that is trained on writes another bundle to the same folder."""
    from vglm_train.checkpoint.bundle.adapter import parse_scaled
    from vglm_train.fingerprint import bundle_fingerprint, fingerprint

    paths = [Path(args.bundle), *(parse_scaled(each)[0] for each in args.adapter)]
    names = [bundle_fingerprint(path) if path.is_dir() else fingerprint(path) for path in paths]
    return [name.removeprefix("folder:")[:12] for name in names]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.chat"), description="Talk to a trained model about pictures.", allow_abbrev=False
    )
    add_model_options(parser)
    parser.add_argument(
        "--image", action="append", default=[], metavar="PATH", help="the first picture; may be given several times"
    )
    parser.add_argument(
        "--language", choices=("zh", "en"), help="of the terminal's own words (default: as the computer is set up)"
    )
    add_sampling_options(parser)
    batch = parser.add_argument_group("many pictures")
    add = batch.add_argument
    add(
        "--batch",
        metavar="INPUT",
        help="a table (.json, .jsonl, .csv, .tsv) or a folder of pictures, instead of talking",
    )
    add("--out", metavar="FILE.jsonl", help="where the answers go; what is there already is not asked again")
    add("--prompt", metavar="TEXT", help="what is asked where a row asks nothing (default: as in training)")
    add("--pictures", metavar="FOLDER", help="that a table's paths begin from (default: the table's own)")
    add("--fields", metavar="image=COLUMN,question=COLUMN", help="a table's columns with unusual names")
    return parser


def _check(args: argparse.Namespace) -> None:
    """UserError for options that do not belong together."""
    if args.batch and not args.out:
        raise UserError("--batch needs --out FILE.jsonl, where the answers go.")
    if args.batch and args.image:
        raise UserError("--image is for talking; --batch names its pictures itself.")
    for name in ("out", "prompt", "pictures", "fields"):
        if getattr(args, name) is not None and not args.batch:
            raise UserError(f"--{name} belongs to --batch.")


if __name__ == "__main__":
    sys.exit(main())
