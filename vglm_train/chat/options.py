"""The arguments that `chat`, `serve` and `web` share: which model is opened, and how it answers."""

import argparse
import sys
from typing import TYPE_CHECKING

from vglm_train.config.language import CHAT
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError

if TYPE_CHECKING:  # both import torch, which takes seconds: after the arguments are read
    from vglm_train.chat.model import ChatModel
    from vglm_train.chat.request import Limits
    from vglm_train.chat.sampling import Sampling

SAMPLING = ("max_new", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model is opened."""
    add = parser.add_argument
    add("bundle", help="a bundle, such as RUN/bundle, or a folder of VisualGLM-6B or BLIP-2 as it was released")
    add("--adapter", action="append", default=[], metavar="FOLDER[:WEIGHT]", help="a further adapter")
    add("--base", metavar="FOLDER", help="the bundle that a fine-tuning began with, where it has moved")
    add("--vision-weights", metavar="PATH", help="the frozen encoder's weights, where they have moved")
    add("--language-weights", metavar="PATH", help="the frozen language model's weights, where they have moved")
    add("--tokenizer", metavar="PATH", help="of a released model that has none beside it, such as ice_text.model")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    add("--dtype", choices=("bf16", "fp16", "fp32"), help="of the language model (default: the bundle's)")
    add(
        "--quantize",
        choices=("int8", "int4", "auto"),
        help="the language model in eight or four bits; auto: the most precise that fits the memory that is free",
    )


def open_model(args: argparse.Namespace, limits: "Limits | None" = None) -> "ChatModel":
    """The model that the arguments name, and lines on its memory. UserError as `chat.model.load`."""
    from vglm_train.chat.model import load

    model = load(
        args.bundle,
        args.adapter,
        args.device,
        args.dtype,
        base=args.base,
        vision_weights=args.vision_weights,
        language_weights=args.language_weights,
        tokenizer=args.tokenizer,
        limits=limits,
        quantize=args.quantize,
    )
    print(model.memory(), file=sys.stderr, flush=True)
    return model


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How it answers."""
    add = parser.add_argument
    add("--max-new", type=int, metavar="N", help=f"tokens of an answer at most (default {CHAT.max_new})")
    add("--temperature", type=float, metavar="T", help=f"0: always the likeliest token (default {CHAT.temperature})")
    add("--top-p", type=float, metavar="P", help=f"fewest tokens of this probability (default {CHAT.top_p})")
    add("--top-k", type=int, metavar="K", help=f"likeliest tokens; 0: all (default {CHAT.top_k})")
    add(
        "--repetition-penalty",
        type=float,
        metavar="X",
        help=f"on what was said already (default {CHAT.repetition_penalty})",
    )
    add("--seed", type=int, metavar="N", help=f"the same seed gives the same answer (default {CHAT.seed})")
    add("--stop", action="append", metavar="TEXT", help="a text that ends an answer; may be given several times")


def sampling_of(args: argparse.Namespace) -> "Sampling":
    """The options of `add_sampling_options` that were given. UserError for a value out of its range."""
    from vglm_train.chat.sampling import read_sampling

    sampling: Sampling = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}  # type: ignore[assignment]
    try:
        read_sampling(sampling)
    except FieldError as error:
        raise UserError(f"an option is wrong: {error}") from error
    return sampling
