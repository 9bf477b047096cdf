"""A small ChatGLM of one's own, trained on sentences alone: no picture is ever shown to it.

    vglm data small_language records.jsonl --out language

For stage two where no published model fits: demonstrations, laptops, tests. It learns to answer from hints: some words
of another caption of the same record stand, in order, where the image's tokens will be, and the caption is the answer.
One record in ten comes without hints, so that it also learns how captions sound. The folder is laid out as ChatGLM-6B's
on Hugging Face (config.json, model.safetensors, ice_text.model) and goes into `model.language.weights`; the numbers
that `model.language` needs beside it are printed.
"""

import argparse
import json
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from data_tools.chatglm_tokenizer.train import train_ice_text
from data_tools.common import cli
from data_tools.common.text import captions
from data_tools.small_language.train import caption_texts, may_replace, read_records, save_language, train_language
from vglm_train.config.language import Language, Prompt
from vglm_train.prompt.build import build_template
from vglm_train.prompt.chatglm import build_chatglm


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser("data_tools.small_language", __doc__)
    parser.add_argument("records", type=Path, help="records file of vglm data convert")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--split", default="train", help="learn from records of this split (default: train)")
    parser.add_argument(
        "--languages", nargs="+", choices=["en", "zh"], default=["en", "zh"], help="captions used (default: en zh)"
    )
    parser.add_argument(
        "--places", type=int, default=32, help="the image's tokens: model.qformer.queries (default: 32)"
    )
    parser.add_argument("--pieces", type=int, default=4000, help="size of the tokenizer at most (default: 4000)")
    parser.add_argument("--layers", type=int, default=4, help="blocks (default: 4)")
    parser.add_argument("--width", type=int, default=256, help="channels (default: 256)")
    parser.add_argument("--heads", type=int, default=4, help="attention heads (default: 4)")
    parser.add_argument("--steps", type=cli.at_least_one, default=2000, help="of training (default: 2000)")
    parser.add_argument("--batch", type=cli.at_least_one, default=64, help="texts of a step (default: 64)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate (default: 0.001)")
    parser.add_argument("--max-prompt", type=int, default=64, help="tokens of a prompt (default: 64)")
    parser.add_argument("--max-answer", type=int, default=64, help="tokens of an answer (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default: 0)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parsed(argv)
    args.out = Path(os.path.abspath(args.out)) if args.out.name in ("", "..") else args.out
    may_replace(args.out)
    with TemporaryDirectory(prefix="small_language-") as folder:
        return _make(args, Path(folder) / "ice_text.model")


def _make(args: argparse.Namespace, pieces_file: Path) -> int:
    """Tokenizer (written to `pieces_file`), training, folder; prints what `model.language` needs."""
    prompt = Prompt(max_prompt=args.max_prompt, max_answer=args.max_answer)
    questions = [getattr(prompt.questions, language) for language in args.languages]
    sentences = chain((text for _, text in captions(args.records, args.split)), questions)
    records = read_records(args.records, args.languages, args.split)
    pieces = train_ice_text(sentences, pieces_file, args.pieces)
    config = Language(
        tokenizer=str(pieces_file),
        dtype="fp32",
        layers=args.layers,
        width=args.width,
        heads=args.heads,
        mlp_width=4 * args.width,
        vocabulary=pieces,
    )
    template = build_template(prompt, config, build_chatglm(pieces_file), args.places)
    draw = caption_texts(records, prompt.questions, args.languages)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, loss = train_language(
        config, template, draw, steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed, device=device
    )
    save_language(model, config, pieces_file, args.out)
    shape = {"family": "chatglm", "weights": str(args.out), "layers": args.layers, "width": args.width}
    shape |= {"heads": args.heads, "mlp_width": 4 * args.width, "vocabulary": pieces}
    print(f"loss of the last tenth {loss:.3f} nats a token\nmodel.language: {json.dumps(shape)}")
    return 0


if __name__ == "__main__":
    cli.command(main)
