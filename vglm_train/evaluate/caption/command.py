"""`--task caption` on the command line: its options, its report and what it prints."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.data import Source
from vglm_train.config.language import Decoding
from vglm_train.config.metric_names import (
    CAPTION_LOSSES,
    IMAGES,
    LOSS,
    LOSS_GAP,
    LOSS_GAP_HIGH,
    LOSS_GAP_LOW,
    SHUFFLED_LOSS,
    language_metric,
)
from vglm_train.config.validation import FieldError
from vglm_train.data.eval_captions import EvalItem, EvalSet
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate import options
from vglm_train.evaluate.caption.evaluator import (
    CaptionEvaluator,
    CaptionResult,
    GeneratedCaption,
    choose_examples,
)
from vglm_train.evaluate.metrics import missing
from vglm_train.evaluate.metrics.bootstrap import RESAMPLES
from vglm_train.evaluate.result import Result
from vglm_train.progress import Progress

STAGES = ("generate", "finetune")
SEGMENTERS = ("tokenizer", "segmenter")  # entries of `made_by` that change scores most, and so are printed
EXAMPLES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of generating text, which the tasks vqa and report have too."""
    parser.add_argument("--language-weights", help="the frozen language model's folder, where it has moved")
    parser.add_argument("--base", type=Path, help="the bundle that a fine-tuning began with, where it has moved")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="FOLDER[:WEIGHT]", help="add what a fine-tuning trained"
    )
    parser.add_argument("--beams", type=int, help="beam search of this width (default: the bundle's configuration)")
    parser.add_argument("--max-new", type=int, help="ids of a caption at most (default: the bundle's configuration)")
    options.add_arguments(parser)
    parser.add_argument("--batch", type=int, default=32, help="images at once, shared by the beams (default 32)")


def run(bundle: Bundle, args: argparse.Namespace, device: torch.device) -> Result:
    """Evaluate `bundle` on `args.data`. UserError if a library for text scores or a usable image is missing."""
    error = missing()
    if error is not None:
        raise error
    config = bundle.config
    decoding, languages = changed_decoding(config.evaluate.decoding, args), options.languages(config, args)
    source = Source(name="evaluation", shards=args.data)
    size, decoder, most = config.model.vision.image_size, config.data.image.decoder, config.prompt.max_images
    data = EvalSet([source], size, languages, args.images, decoder=decoder, pictures=most)
    items = list(Progress(len(data), "image", "read").over(data.items(args.workers)))
    if not items:
        raise UserError(f"{args.data}: no usable picture with a caption in {', '.join(languages)}.")
    generator, ranks = options.build_generator(bundle, args, device), Ranks(device=device)
    evaluator = CaptionEvaluator(generator, items, languages, decoding, 0, ranks, args.batch, progress=True)
    result = evaluator.measure()
    report = {
        "bundle": str(args.bundle),
        "data": str(args.data),
        "images": len(items),
        "damaged": dict(data.damaged),
        "decoding": dataclasses.asdict(decoding),
        "questions": dataclasses.asdict(config.prompt.questions),
        "scores": result.scores,
        "intervals": f"95 %, percentile bootstrap over images, {RESAMPLES} resamples",
        "made_by": result.made_by,
        "notes": {language: list(notes) for language, notes in result.notes.items()},
        "captions": [
            _row(language, items, caption) for language, captions in result.captions.items() for caption in captions
        ],
    }
    return Result(report, [line for language in languages for line in _lines(language, items, result)])


def changed_decoding(configured: Decoding, args: argparse.Namespace) -> Decoding:
    """The bundle's decoding with --beams and --max-new applied. UserError for a value that is not allowed."""
    changes = {"beams": args.beams, "max_new": args.max_new}
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes.get("beams", 1) > 1:
        changes["sample"] = False
    if args.batch < 1:
        raise UserError(f"--batch must be above 0, found {args.batch}.")
    try:
        return dataclasses.replace(configured, **changes)
    except FieldError as error:
        raise UserError(f"--{error.fields[0].replace('_', '-')} {error.reason}.") from error


def _row(language: str, items: Sequence[EvalItem], caption: GeneratedCaption) -> dict[str, Any]:
    """One caption in the report."""
    item = items[caption.item]
    return {
        "key": item.key,
        "language": language,
        "references": list(item.captions[language]),
        "output": caption.output,
        "loss": caption.loss,
        "shuffled_loss": caption.shuffled_loss,
    }


def _lines(language: str, items: Sequence[EvalItem], result: CaptionResult) -> Iterator[str]:
    """What is printed for one language: its scores, what made them, its losses and a few captions."""
    captions = result.captions.get(language)
    if not captions:
        yield f"{language}: no captions"
        return
    start = language_metric(language, "")
    scores = {name.removeprefix(start): value for name, value in result.scores.items() if name.startswith(start)}
    references = sum(len(items[caption.item].captions[language]) for caption in captions)
    yield f"{language}: {len(captions)} images, {references} references, per cent"
    names = [name for name in scores if name not in (*CAPTION_LOSSES, IMAGES)]
    width = max(map(len, names)) + 2
    yield "".join(f"{name:>{width}}" for name in names)
    yield "".join(f"{scores[name]:{width}.1f}" for name in names)
    yield from (f"  {kind}: {tool}" for kind, tool in result.made_by[language].items() if kind in SEGMENTERS)
    yield from (f"  {note}" for note in result.notes[language])
    line = f"  loss of the first reference {scores[LOSS]:.3f}"
    if LOSS_GAP in scores:
        line += f", another image shown {scores[SHUFFLED_LOSS]:.3f}: gap {scores[LOSS_GAP]:+.3f}"
    if LOSS_GAP_LOW in scores:
        line += f", 95 % [{scores[LOSS_GAP_LOW]:+.3f}, {scores[LOSS_GAP_HIGH]:+.3f}]"
    yield line
    for caption in choose_examples(captions, items, EXAMPLES):
        item = items[caption.item]
        yield f"  {item.key}  {caption.output!r}  (reference: {item.captions[language][0]!r})"
