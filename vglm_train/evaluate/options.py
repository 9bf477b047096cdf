"""What a bundle is asked with, and what the command line changes of it."""

import argparse
from typing import get_args

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.data import Language
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.evaluate.generator import Generator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of every task that asks."""
    parser.add_argument(
        "--max-prompt", type=int, help="ids of a question with its history at most (default: the bundle's prompt)"
    )
    parser.add_argument("--languages", help="ask in these: en, zh or en,zh (default: those of the bundle's training)")


def languages(config: Config, given: argparse.Namespace) -> tuple[Language, ...]:
    """Those to ask in. UserError for one that is not known."""
    if given.languages is None:
        return config.data.languages
    known = get_args(Language)
    named = [name.strip() for name in given.languages.split(",")]
    wrong = next((name for name in named if name not in known), None)
    if wrong is not None:
        raise UserError(
            f"--languages {given.languages}: {wrong!r} is none of {', '.join(known)}; give {','.join(known)}."
        )
    return tuple(name for name in known if name in named)


def build_generator(bundle: Bundle, given: argparse.Namespace, device: torch.device) -> Generator:
    """The bundle's model with its prompt. UserError where --max-prompt has no room for any question."""
    config, template = bundle.config, bundle.template
    if given.max_prompt is not None:
        try:
            template = template.with_room(given.max_prompt)
        except UserError as error:
            reason = "must be above 0" if given.max_prompt < 1 else "has no room for any question; raise it"
            raise UserError(f"--max-prompt {given.max_prompt}: {reason}.") from error
    autocast = device.type == "cuda" and config.engine.precision == "bf16"
    return Generator(bundle.model, template, config.prompt.questions, device, autocast)
