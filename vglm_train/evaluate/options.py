"""Command-line options of every task that generates text: parts of the model, prompt length and languages."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.data import Language
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.evaluate.generator import Generator


class Refused(argparse.Action):
    """An option that another task has; `const` says why it is refused here and what to do."""

    def __call__(
        self, parser: argparse.ArgumentParser, space: object, values: object, option: str | None = None
    ) -> None:
        parser.error(f"{option}: {self.const}")


def refuse(parser: argparse.ArgumentParser, options: Sequence[str], why: str) -> None:
    """Refuse options that are not shown in the help."""
    for option in options:
        parser.add_argument(option, nargs="*", action=Refused, const=why, help=argparse.SUPPRESS)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --language-weights, --base and --adapter: where parts of the model are."""
    parser.add_argument("--language-weights", help="the frozen language model's folder, where it has moved")
    parser.add_argument("--base", type=Path, help="the bundle that a fine-tuning began with, where it has moved")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="FOLDER[:WEIGHT]", help="add what a fine-tuning trained"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --max-prompt and --languages."""
    parser.add_argument(
        "--max-prompt", type=int, help="ids of a question with its history at most (default: the bundle's prompt)"
    )
    parser.add_argument("--languages", help="ask in these: en, zh or en,zh (default: those of the bundle's training)")


def languages(config: Config, args: argparse.Namespace) -> tuple[Language, ...]:
    """The languages of the evaluation. UserError for an unknown one."""
    if args.languages is None:
        return config.data.languages
    known = get_args(Language)
    names = [name.strip() for name in args.languages.split(",")]
    wrong = next((name for name in names if name not in known), None)
    if wrong is not None:
        raise UserError(
            f"--languages {args.languages}: {wrong!r} is none of {', '.join(known)}; give {','.join(known)}."
        )
    return tuple(name for name in known if name in names)


def build_generator(bundle: Bundle, args: argparse.Namespace, device: torch.device) -> Generator:
    """The bundle's model with its template. UserError if --max-prompt is too short for any question."""
    config, template = bundle.config, bundle.template
    if args.max_prompt is not None:
        try:
            template = template.with_max_prompt(args.max_prompt)
        except UserError as error:
            reason = "must be above 0" if args.max_prompt < 1 else "is too short for any question; raise it"
            raise UserError(f"--max-prompt {args.max_prompt}: {reason}.") from error
    autocast = device.type == "cuda" and config.engine.precision == "bf16"
    return Generator(bundle.model, template, config.prompt.questions, device, autocast)
