"""A small ChatGLM of one's own, trained on sentences alone: no picture is ever shown to it.

    python -m data_tools.small_language records.jsonl --out language

For stage two where no published model fits: demonstrations, laptops, tests. It learns to answer from hints: some words
of another caption of the same record stand, in order, where the image's places will be, and the caption is the answer.
One record in ten comes without hints, so that it also learns how captions sound. The folder is laid out as ChatGLM-6B's
on Hugging Face (config.json, model.safetensors, ice_text.model) and goes into `model.language.weights`; the numbers
that `model.language` needs beside it are printed.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch.nn import functional
from tqdm import tqdm

from data_tools import _files
from data_tools.ice_text import train_ice_text
from data_tools.vocabulary import captions
from vglm_train.checkpoint.language import hub_chatglm
from vglm_train.config.language import Language, Prompt, Questions
from vglm_train.data.record import Record, parse
from vglm_train.errors import UserError
from vglm_train.model.language import LanguageModel, build_language
from vglm_train.places import make_folder
from vglm_train.prompt.chatglm import build_chatglm
from vglm_train.prompt.dialogue import Dialogue
from vglm_train.prompt.template import Encoded, Template, build_template

WITHOUT_HINT = 0.1  # share of the lessons
SPREAD = 0.68  # standard deviation of a fresh weight, times the square root of the width
WARMUP = 0.05  # share of the steps
FILES = {"config.json", "ice_text.model", "model.safetensors"}


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is asked and answered, and the hint that stands in the image's places (empty: none)."""

    dialogue: Dialogue
    hint: str


Draw = Callable[[Random], Lesson]


def train_language(
    config: Language,
    template: Template,
    draw: Draw,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    device: str = "cpu",
) -> tuple[LanguageModel, float]:
    """Train a ChatGLM of this shape on `steps` batches of lessons. Returns it and the mean loss of the last tenth.

    AdamW with a linear warm-up and a cosine; the same seed on the same machine gives the same model.
    """
    torch.manual_seed(seed)
    with torch.device(device):
        model = build_language(replace(config, weights=None), sop_id=template.tokenizer.find("<sop>"))
    model.requires_grad_(True)
    _spread(model, config.width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    warm = max(1, round(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warm), eta_min=0.02 * lr),
        ],
        [warm],
    )
    rng, losses = Random(f"lessons {seed}"), []
    for step in tqdm(range(steps), desc="language model", unit="step", mininterval=10, disable=None):
        rows = [_encoded(draw(rng), template, rng) for _ in range(batch)]
        lessons = template.batch(rows, None).to(torch.device(device))
        logits, targets = model.score(model.embed(lessons.input_ids), lessons)
        loss = functional.cross_entropy(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step + 1 > 0.9 * steps:
            losses.append(loss.detach())
    return model.requires_grad_(False), torch.stack(losses).mean().item()


@torch.no_grad()
def _spread(model: LanguageModel, width: int) -> None:
    """As large as the width asks for: 0.02 suits a thousand channels; at a hundred it makes attention all but even."""
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.mul_(SPREAD / width**0.5 / 0.02)


def may_replace(folder: Path) -> None:
    """UserError where `folder` is a file, or holds anything but an earlier small language model."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: a file; give a folder")
    if folder.exists() and (others := {path.name for path in folder.iterdir()} - FILES):
        raise UserError(f"--out {folder}: the folder holds {min(others)!r} and would be replaced; give a new one")
    make_folder(f"--out {folder}", folder.parent)


def save_language(model: LanguageModel, config: Language, tokenizer: Path, folder: Path) -> None:
    """Write the folder as ChatGLM-6B's is on Hugging Face; whole or absent."""
    may_replace(folder)
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(hub_chatglm(config.heads).inverse().apply(weights), aside / "model.safetensors")
    shape = {
        "model_type": "chatglm",
        "num_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "inner_hidden_size": config.mlp_width,
        "vocab_size": config.vocabulary,
        "max_sequence_length": config.positions,
    }
    _files.write_json(aside / "config.json", shape)
    shutil.copyfile(tokenizer, aside / "ice_text.model")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _encoded(lesson: Lesson, template: Template, rng: Random) -> Encoded:
    """The hint's ids in the image's places, as many as fit, spread over them in order."""
    row = template.encode(lesson.dialogue)
    (start,), places = row.visual, template.image_length
    hint = template.tokenizer.encode(lesson.hint) if lesson.hint else []
    kept = [hint[i] for i in sorted(rng.sample(range(len(hint)), min(len(hint), places)))]
    for place, token in zip(sorted(rng.sample(range(places), len(kept))), kept):
        row.input_ids[start + place] = token
    return row


def lessons(records: Sequence[Record], questions: Questions, languages: Sequence[str]) -> Draw:
    """Lessons from captions: one is the answer, words of another of the same record, in any language, are the hint."""

    def draw(rng: Random) -> Lesson:
        record = rng.choice(records)
        language = rng.choice([name for name in languages if name in record.captions])
        answer = rng.choice(record.captions[language])
        others = [text for name in languages for text in record.captions.get(name, ()) if text != answer]
        hint = "" if rng.random() < WITHOUT_HINT or not others else rng.choice(others)
        return Lesson(Dialogue(getattr(questions, language), answer.strip(), language=language), hint)

    return draw


def read_records(path: Path, languages: Sequence[str], split: str) -> list[Record]:
    """Records of a split that have a caption in any of the languages. UserError where there is none."""
    with open(path, "rb") as file:
        found = [record for line in file if (record := parse(line)).split == split]
    found = [record for record in found if any(name in record.captions for name in languages)]
    if not found:
        raise UserError(f"{path}: no record of split {split!r} with captions in {', '.join(languages)}")
    return found


def _parsed() -> argparse.Namespace:
    parser = _files.parser("data_tools.small_language", __doc__)
    parser.add_argument("records", type=Path, help="records file of data_tools.convert")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--split", default="train", help="learn from records of this split (default: train)")
    parser.add_argument(
        "--languages", nargs="+", choices=["en", "zh"], default=["en", "zh"], help="captions used (default: en zh)"
    )
    parser.add_argument(
        "--places", type=int, default=32, help="the image's places: model.qformer.queries (default: 32)"
    )
    parser.add_argument("--pieces", type=int, default=4000, help="size of the tokenizer at most (default: 4000)")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--steps", type=_files.at_least_one, default=2000)
    parser.add_argument("--batch", type=_files.at_least_one, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--max-prompt", type=int, default=64)
    parser.add_argument("--max-answer", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    args = _parsed()
    args.out = Path(os.path.abspath(args.out)) if args.out.name in ("", "..") else args.out
    may_replace(args.out)
    with TemporaryDirectory(prefix="small_language-") as aside:
        return _make(args, Path(aside) / "ice_text.model")


def _make(args: argparse.Namespace, pieces_file: Path) -> int:
    """Tokenizer (written to `pieces_file`), lessons, training, folder; prints what `model.language` needs."""
    prompt = Prompt(max_prompt=args.max_prompt, max_answer=args.max_answer)
    asked = [getattr(prompt.questions, language) for language in args.languages]
    sentences = chain((text for _, text in captions(args.records, args.split)), asked)
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
    draw = lessons(records, prompt.questions, args.languages)
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
    _files.command(main)
