"""The portable result of a run: safetensors and JSON, enough to evaluate, continue or chat elsewhere.

bundle.json            version, stage, vocabulary size, where the frozen towers are, what made the bundle
config.yaml            the resolved configuration it was trained with
trained.safetensors    what was trained, by name
vision.safetensors     the frozen image encoder, language.safetensors the frozen language model: if they are small
                       or were never files; else bundle.json names where they are
tokenizer/             the Q-Former's tokenizer (stage align), or the language model's (stage generate)
question_tokenizer/    the Q-Former's, where it reads questions before a language model
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vglm_train.checkpoint.bundle.towers import find, keep
from vglm_train.checkpoint.load.language import load_language
from vglm_train.checkpoint.load.pretrained import load_vision
from vglm_train.checkpoint.resume import save_tensors, write_text_atomic
from vglm_train.config.inherit import merge_first
from vglm_train.config.load import dump, load
from vglm_train.config.model import Model
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.model.alignment import Alignment, build_alignment
from vglm_train.model.visual import VisualModel
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language
from vglm_train.prompt.qformer_text import TextEncoder, build_text
from vglm_train.prompt.template import Template, build_template
from vglm_train.prompt.tokenizers import build_tokenizer

VERSION = 2
QUESTIONS = "question_tokenizer"
TOWERS = {"vision": "vision.encoder.", "language": "language."}  # what is frozen, and the prefix of its names


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


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle: model in eval mode, configuration, bundle.json, and what turns text to ids in its stage."""

    model: Any  # Alignment or VisualLanguageModel
    config: Config
    document: dict
    prompt: TextEncoder | Template

    @property
    def text(self) -> TextEncoder:
        """Of stage align."""
        assert isinstance(self.prompt, TextEncoder)
        return self.prompt

    @property
    def template(self) -> Template:
        """Of stage generate."""
        assert isinstance(self.prompt, Template)
        return self.prompt


def load_bundle(
    folder: Path, device: torch.device, vision_weights: str | None = None, language_weights: str | None = None
) -> Bundle:
    """Read a bundle onto `device`.

    vision_weights, language_weights: where a frozen tower is now, if the bundle only names it and it has moved.
    Raises UserError for a folder that is no bundle, an unreadable file, weights that do not fit, or a fine-tuning's
    bundle, which `open_bundle` reads.
    """
    document = read_whole(folder)
    config = load(folder / "config.yaml")
    towers, moved = document["towers"], {"vision": vision_weights, "language": language_weights}
    files = {name: find(folder, name, reference, moved[name]) for name, reference in towers.items()}
    vision = replace(config.model.vision, weights=str(files["vision"]))
    shape = replace(vision, weights=vision.weights if files["vision"].is_dir() else None)
    config = replace(config, model=replace(config.model, vision=shape))
    build = _build_alignment if document["stage"] == "align" else _build_language
    with device:
        bundle = build(folder, config, document)
    load_vision(bundle.model.vision.encoder, vision)
    if "language" in files:
        _load_language(bundle, files["language"])
    _load_trained(bundle.model, folder / "trained.safetensors")
    bundle.model.to(device).eval()
    return bundle


def read_document(folder: Path) -> dict:
    """bundle.json. UserError where there is none, it cannot be read, or is of another version."""
    path = folder / "bundle.json"
    if not path.exists():
        raise UserError(f"{folder} is not a bundle: there is no {path}. A run writes one to RUN/bundle when it ends.")
    try:
        document = json.loads(path.read_text("utf-8"))
        version = document.get("version")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Copy the bundle again.") from error
    if version != VERSION:
        raise UserError(
            f"{path}: version {version}, this program reads {VERSION}. Train again, or use the program's "
            "version that wrote it."
        )
    return document


def read_whole(folder: Path) -> dict:
    """bundle.json of a bundle that holds a whole model. UserError as `read_document`, and for a fine-tuning's."""
    document = read_document(folder)
    if document["stage"] == "finetune":
        raise UserError(f"{folder} {merge_first(document, folder)}.")
    return document


def read_trained(folder: Path) -> dict[str, Tensor]:
    """What a bundle's run trained, by name. UserError if it cannot be read."""
    file = folder / "trained.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read ({error}). Copy the bundle again.") from error


def _build_alignment(folder: Path, config: Config, document: dict) -> Bundle:
    section = replace(config.model.text, tokenizer=str(folder / "tokenizer"))
    text = build_text(section, config.data.languages)
    image = config.data.image
    model: Alignment = build_alignment(config.model, text.vocabulary, image.mean, image.std)
    return Bundle(model, config, document, text)


def _build_language(folder: Path, config: Config, document: dict) -> Bundle:
    assert config.model.language is not None
    language = replace(config.model.language, tokenizer=str(folder / "tokenizer"))
    if language.family != "chatglm":
        language = replace(language, config=str(folder / "tokenizer"))
    reference = document["towers"]["language"]
    if "fingerprint" not in reference:  # named all the same: what is read needs no random weights first
        language = replace(language, weights=str(folder / reference["file"]))
    section = replace(config.model, language=language)
    tokenizer = build_tokenizer(language)
    text = None
    if section.qformer.reads_question:
        text = build_text(replace(section.text, tokenizer=str(folder / QUESTIONS)), config.data.languages)
    template = build_template(config.prompt, language, tokenizer, section.qformer.queries, text)
    image, sop_id = config.data.image, getattr(tokenizer, "sop_id", None)
    model: VisualLanguageModel = build_visual_language(
        section, image.mean, image.std, sop_id, None if text is None else text.vocabulary
    )
    return Bundle(model, config, document, template)


def _load_language(bundle: Bundle, path: Path) -> None:
    """The frozen language model: from the bundle's own file, or from the folder it was published in."""
    section = bundle.config.model.language
    assert section is not None
    load_language(bundle.model.language, replace(section, weights=str(path)))


def keep_shape(config: Model, aside: Path) -> None:
    """A Hugging Face model's config.json goes along: it is the shape of what the bundle holds or names."""
    language = config.language
    if language is None or language.family == "chatglm":
        return
    source = Path(str(language.config or language.weights))
    file = source / "config.json" if source.is_dir() else source
    shutil.copyfile(file, aside / "tokenizer" / "config.json")


def _load_trained(model: VisualModel, file: Path) -> None:
    tensors = read_trained(file.parent)
    report = model.load_state_dict(tensors, strict=False)
    missing = sorted(name for name in report.missing_keys if not name.startswith(tuple(TOWERS.values())))
    if missing or report.unexpected_keys:
        raise UserError(
            f"{file} does not fit bundle.json: missing {missing[:3]}, unknown {report.unexpected_keys[:3]}."
        )
