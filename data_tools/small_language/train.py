"""Training a small ChatGLM on sentences alone: what `small_language` runs."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from torch.nn import functional

from vglm_train.checkpoint.load.chatglm import hub_chatglm
from vglm_train.config.language import Language, Questions
from vglm_train.data.record import Record, parse
from vglm_train.errors import UserError
from vglm_train.files import write_json
from vglm_train.folders import make_folder, replace_folder
from vglm_train.model.language import LanguageModel, build_language
from vglm_train.progress import Progress
from vglm_train.prompt.dialogue import Dialogue
from vglm_train.prompt.template import Encoded, Template

WITHOUT_HINT = 0.1  # share of the texts
SPREAD = 0.68  # standard deviation of a fresh weight, times the square root of the width
WARMUP = 0.05  # share of the steps
FILES = {"config.json", "ice_text.model", "model.safetensors"}


@dataclass(frozen=True, slots=True)
class TrainingText:
    """A dialogue, and the hint that takes the place of the image's tokens (empty: none)."""

    dialogue: Dialogue
    hint: str


DrawText = Callable[[Random], TrainingText]


def train_language(
    config: Language,
    template: Template,
    draw: DrawText,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    device: str = "cpu",
) -> tuple[LanguageModel, float]:
    """Train a ChatGLM of this shape on `steps` batches of texts. Returns it and the mean loss of the last tenth.

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
    for step in Progress(steps, "step", "language model").over(range(steps)):
        rows = [_encoded(draw(rng), template, rng) for _ in range(batch)]
        batched = template.batch(rows, None).to(torch.device(device))
        logits, targets = model.score(model.embed(batched.input_ids), batched)
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
    weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
    shape = {
        "model_type": "chatglm",
        "num_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "inner_hidden_size": config.mlp_width,
        "vocab_size": config.vocabulary,
        "max_sequence_length": config.positions,
    }
    with replace_folder(folder) as new:
        save_file(hub_chatglm(config.heads).inverse().apply(weights), new / "model.safetensors")
        write_json(new / "config.json", shape)
        shutil.copyfile(tokenizer, new / "ice_text.model")


def _encoded(text: TrainingText, template: Template, rng: Random) -> Encoded:
    """The hint's ids in place of the image's tokens, as many as fit, spread over them in order."""
    row = template.encode(text.dialogue)
    (start,), length = row.image_starts, template.image_length
    hint = template.tokenizer.encode(text.hint) if text.hint else []
    kept = [hint[i] for i in sorted(rng.sample(range(len(hint)), min(len(hint), length)))]
    for offset, token in zip(sorted(rng.sample(range(length), len(kept))), kept):
        row.input_ids[start + offset] = token
    return row


def caption_texts(records: Sequence[Record], questions: Questions, languages: Sequence[str]) -> DrawText:
    """Texts from captions: one is the answer, words of another of the same record, in any language, are the hint."""

    def draw(rng: Random) -> TrainingText:
        record = rng.choice(records)
        language = rng.choice([name for name in languages if name in record.captions])
        answer = rng.choice(record.captions[language])
        others = [text for name in languages for text in record.captions.get(name, ()) if text != answer]
        hint = "" if rng.random() < WITHOUT_HINT or not others else rng.choice(others)
        return TrainingText(Dialogue(getattr(questions, language), answer.strip(), language=language), hint)

    return draw


def read_records(path: Path, languages: Sequence[str], split: str) -> list[Record]:
    """Records of a split that have a caption in any of the languages. UserError where there is none."""
    with open(path, "rb") as file:
        found = [record for line in file if (record := parse(line)).split == split]
    found = [record for record in found if any(name in record.captions for name in languages)]
    if not found:
        raise UserError(f"{path}: no record of split {split!r} with captions in {', '.join(languages)}")
    return found
