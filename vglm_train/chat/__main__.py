"""`python -m vglm_train.chat BUNDLE`: talk about pictures in a terminal, or answer about many with --batch."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vglm_train.command import program, run_command
from vglm_train.config.language import CHAT
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
    from vglm_train.chat.batch import Batch  # slow to import: after the arguments are read
    from vglm_train.chat.inputs import open_inputs
    from vglm_train.chat.model import load
    from vglm_train.chat.sampling import read_sampling
    from vglm_train.chat.terminal import Terminal
    from vglm_train.chat.words import words
    from vglm_train.config.validation import FieldError

    sampling = _sampling(args)
    try:
        read_sampling(sampling)
    except FieldError as error:
        raise UserError(f"an option is wrong: {error}") from error
    inputs = open_inputs(Path(args.batch), args.pictures, args.fields) if args.batch else None
    if not args.batch:
        print(f"opening {args.bundle} ...", file=sys.stderr, flush=True)
    with load(
        args.bundle,
        args.adapter,
        args.device,
        args.dtype,
        base=args.base,
        vision_weights=args.vision_weights,
        language_weights=args.language_weights,
    ) as model:
        if inputs is None:
            return Terminal(model, words(args.language), sampling).run(args.image)
        about = {"bundle": str(args.bundle), "adapters": args.adapter, "prompt": args.prompt, "sampling": sampling}
        return Batch(model, inputs, Path(args.out), args.prompt, sampling, about).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.chat"), description="Talk to a trained model about pictures.", allow_abbrev=False
    )
    add = parser.add_argument
    add("bundle", help="a bundle folder, such as RUN/bundle")
    add("--image", action="append", default=[], metavar="PATH", help="the first picture; may be given several times")
    add("--language", choices=("zh", "en"), help="of the terminal's own words (default: as the computer is set up)")
    add("--adapter", action="append", default=[], metavar="FOLDER[:WEIGHT]", help="a further adapter")
    add("--base", metavar="FOLDER", help="the bundle that a fine-tuning began with, where it has moved")
    add("--vision-weights", metavar="PATH", help="the frozen encoder's weights, where they have moved")
    add("--language-weights", metavar="PATH", help="the frozen language model's weights, where they have moved")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    add("--dtype", choices=("bf16", "fp16", "fp32"), help="of the language model (default: the bundle's)")
    add("--max-new", type=int, metavar="N", help=f"tokens of an answer at most (default {CHAT.max_new})")
    add("--temperature", type=float, metavar="T", help=f"0: always the likeliest token (default {CHAT.temperature})")
    add("--top-p", type=float, metavar="P", help=f"default {CHAT.top_p}")
    add("--top-k", type=int, metavar="K", help=f"default {CHAT.top_k}")
    add("--repetition-penalty", type=float, metavar="X", help=f"default {CHAT.repetition_penalty}")
    add("--seed", type=int, metavar="N", help=f"the same seed gives the same answer (default {CHAT.seed})")
    add("--stop", action="append", metavar="TEXT", help="a text that ends an answer; may be given several times")
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


def _sampling(args: argparse.Namespace) -> Any:  # Sampling, which is not imported before the arguments are read
    names = ("max_new", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


if __name__ == "__main__":
    sys.exit(main())
