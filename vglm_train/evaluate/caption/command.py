"""What `--task caption` asks for, measures and prints."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.data import Source
from vglm_train.config.language import Decoding
from vglm_train.config.validation import FieldError
from vglm_train.data.eval_captions import EvalItem, EvalSet
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate import options
from vglm_train.evaluate.caption.evaluator import Caption, Captioner, Captions
from vglm_train.evaluate.metrics import missing
from vglm_train.evaluate.metrics.bootstrap import RESAMPLES
from vglm_train.evaluate.result import Result

STAGES = ("generate", "finetune")
LOSSES = ("loss", "shuffled_loss", "loss_gap", "loss_gap_low", "loss_gap_high")  # the others are per cent
SEGMENTERS = ("tokenizer", "segmenter")  # what scores depend on most
EXAMPLES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of this task alone."""
    parser.add_argument("--language-weights", help="the frozen language model's folder, where it has moved")
    parser.add_argument("--base", type=Path, help="the bundle that a fine-tuning began with, where it has moved")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="FOLDER[:WEIGHT]", help="add what a fine-tuning trained"
    )
    parser.add_argument("--beams", type=int, help="beam search of this width (default: the bundle's configuration)")
    parser.add_argument("--max-new", type=int, help="ids of a caption at most (default: the bundle's configuration)")
    options.add_arguments(parser)
    parser.add_argument("--batch", type=int, default=32, help="images at once, shared by the beams (default 32)")


def run(bundle: Bundle, given: argparse.Namespace, device: torch.device) -> Result:
    """Everything with what it was measured on and each caption, and a table for each language."""
    error = missing()
    if error is not None:
        raise error
    config = bundle.config
    chosen, languages = decoding(config.evaluate.decoding, given), options.languages(config, given)
    source = Source(name="evaluation", shards=given.data)
    data = EvalSet([source], config.model.vision.image_size, languages, given.images)
    items = list(data.items(given.workers))
    if not items:
        raise UserError(f"{given.data}: no usable picture with a caption in {', '.join(languages)}.")
    speaker = options.build_generator(bundle, given, device)
    captioner = Captioner(speaker, items, languages, chosen, 0, Ranks(device=device), given.batch, progress=True)
    result = captioner.measure()
    report = {
        "bundle": str(given.bundle),
        "data": str(given.data),
        "images": len(items),
        "damaged": dict(data.damaged),
        "decoding": dataclasses.asdict(chosen),
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


def decoding(configured: Decoding, given: argparse.Namespace) -> Decoding:
    """The bundle's settings with what `add_arguments` changes. UserError where that cannot be."""
    changes = {"beams": given.beams, "max_new": given.max_new}
    changes = {name: value for name, value in changes.items() if value is not None}
    if changes.get("beams", 1) > 1:
        changes["sample"] = False
    if given.batch < 1:
        raise UserError(f"--batch must be above 0, found {given.batch}.")
    try:
        return dataclasses.replace(configured, **changes)
    except FieldError as error:
        raise UserError(f"--{error.fields[0].replace('_', '-')} {error.reason}.") from error


def _row(language: str, items: Sequence[EvalItem], caption: Caption) -> dict:
    item = items[caption.item]
    return {
        "key": item.key,
        "language": language,
        "references": list(item.captions[language]),
        "output": caption.output,
        "loss": caption.loss,
        "shuffled_loss": caption.shuffled_loss,
    }


def _lines(language: str, items: Sequence[EvalItem], result: Captions) -> Iterator[str]:
    captions = result.captions.get(language)
    if not captions:
        yield f"{language}: no captions"
        return
    start = f"eval/{language}_"
    scores = {name.removeprefix(start): value for name, value in result.scores.items() if name.startswith(start)}
    references = sum(len(items[caption.item].captions[language]) for caption in captions)
    yield f"{language}: {len(captions)} images, {references} references, per cent"
    names = [name for name in scores if name not in LOSSES]
    width = max(map(len, names)) + 2
    yield "".join(f"{name:>{width}}" for name in names)
    yield "".join(f"{scores[name]:{width}.1f}" for name in names)
    yield from (
        f"  {kind}: {tool}" for kind, tool in result.made_by[language].items() if kind in ("tokenizer", "segmenter")
    )
    yield from (f"  {note}" for note in result.notes[language])
    line = f"  loss of the first reference {scores['loss']:.3f}"
    if "loss_gap" in scores:
        gap, low, high = (scores[name] for name in LOSSES[2:])
        line += f", another image shown {scores['shuffled_loss']:.3f}: gap {gap:+.3f}, 95 % [{low:+.3f}, {high:+.3f}]"
    yield line
    for caption in captions[:EXAMPLES]:
        item = items[caption.item]
        yield f"  {item.key}  {caption.output!r}  (reference: {item.captions[language][0]!r})"
