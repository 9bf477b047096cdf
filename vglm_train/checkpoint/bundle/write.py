"""Writing a bundle, of any stage."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from vglm_train.checkpoint.bundle.adapter import TENSORS, base_of, save_adapter
from vglm_train.checkpoint.bundle.format import QUESTIONS, TOWERS, VERSION
from vglm_train.checkpoint.bundle.towers import keep
from vglm_train.checkpoint.resume import save_tensors, write_text_atomic
from vglm_train.config.load import dump
from vglm_train.config.model import Model
from vglm_train.config.run import Config
from vglm_train.model.visual import VisualModel
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.prompt.qformer_text import TextEncoder


class Tokenizer(Protocol):
    def save(self, folder: Path) -> None: ...


def save_bundle(
    folder: Path,
    config: Config,
    model: VisualModel,
    tokenizer: Tokenizer,
    origin: Mapping,
    questions: TextEncoder | None = None,
) -> None:
    """Write a bundle aside and rename it. `origin` says what made it (run name, step, samples, scores).

    `questions`: of a Q-Former that reads them before a language model.
    """
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    sources = {"vision": config.model.vision.weights, "language": getattr(config.model.language, "weights", None)}
    towers = {}
    for tower, prefix in TOWERS.items():
        own = {name.removeprefix(prefix): weights.pop(name) for name in list(weights) if name.startswith(prefix)}
        if own:
            towers[tower] = keep(aside / f"{tower}.safetensors", own, sources[tower])
    save_tensors(weights, aside / "trained.safetensors")
    tokenizer.save(aside / "tokenizer")
    if questions is not None:
        questions.save(aside / QUESTIONS)
    keep_shape(config.model, aside)
    document = {"version": VERSION, "stage": config.run.stage, "towers": towers, "origin": dict(origin)}
    (aside / "config.yaml").write_text(dump(config), "utf-8")
    write_text_atomic(aside / "bundle.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def keep_shape(config: Model, aside: Path) -> None:
    """A Hugging Face model's config.json goes along: it is the shape of what the bundle holds or names."""
    language = config.language
    if language is None or language.family == "chatglm":
        return
    source = Path(str(language.config or language.weights))
    file = source / "config.json" if source.is_dir() else source
    shutil.copyfile(file, aside / "tokenizer" / "config.json")


def save_finetuned(
    folder: Path,
    config: Config,
    base: Path,
    model: VisualLanguageModel,
    tokenizer: Tokenizer,
    origin: Mapping,
    questions: TextEncoder | None = None,
) -> int:
    """Write the bundle of a run that began with the bundle `base`, aside and renamed; returns bytes of what trained."""
    aside = folder.with_name(folder.name + ".tmp")
    save_adapter(aside, model.trained_parameters(), config.tuning, base_of(base), origin)
    tokenizer.save(aside / "tokenizer")
    if questions is not None:
        questions.save(aside / QUESTIONS)
    keep_shape(config.model, aside)
    (aside / "config.yaml").write_text(dump(config), "utf-8")
    document = {
        "version": VERSION,
        "stage": "finetune",
        "towers": {},
        "base": str(base.resolve()),
        "origin": dict(origin),
    }
    write_text_atomic(aside / "bundle.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return (folder / TENSORS).stat().st_size
