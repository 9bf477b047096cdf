"""Opening a bundle, of any stage: the portable result of a run, enough to evaluate, continue or chat elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vglm_train.checkpoint.bundle.adapter import add_adapters
from vglm_train.checkpoint.bundle.format import (
    CONFIG,
    QUESTIONS,
    TOKENIZER,
    TOWERS,
    TRAINED,
    ScaledAdapter,
    read_trained,
    resolve,
)
from vglm_train.checkpoint.bundle.towers import find
from vglm_train.checkpoint.load.language import load_language
from vglm_train.checkpoint.load.pretrained import load_vision
from vglm_train.config.load import load
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.model.alignment import Alignment, build_alignment
from vglm_train.model.language import Quantize
from vglm_train.model.visual import VisualModel
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language
from vglm_train.prompt.build import build_template
from vglm_train.prompt.qformer_text import QFormerTokenizer, build_text
from vglm_train.prompt.template import Template
from vglm_train.prompt.tokenizers import build_tokenizer

Choose = Callable[[VisualLanguageModel], Quantize | None]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle: model in eval mode, configuration, bundle.json, and what turns text to ids in its stage."""

    model: Any  # Alignment or VisualLanguageModel
    config: Config
    document: Mapping[str, Any]
    prompt: QFormerTokenizer | Template

    @property
    def text(self) -> QFormerTokenizer:
        """Of stage align."""
        assert isinstance(self.prompt, QFormerTokenizer)
        return self.prompt

    @property
    def template(self) -> Template:
        """Of stage generate."""
        assert isinstance(self.prompt, Template)
        return self.prompt


def open_bundle(
    folder: Path,
    device: torch.device,
    *,
    vision_weights: str | None = None,
    language_weights: str | None = None,
    base: Path | None = None,
    adapters: Sequence[ScaledAdapter] = (),
    dtype: Literal["bf16", "fp16", "fp32"] | None = None,
    quantize: Quantize | Choose | None = None,
) -> Bundle:
    """A bundle of any stage onto `device`, with what adapters add, each times its weight.

    vision_weights, language_weights: where a frozen tower is now, if the bundle only names it and it has moved.
    base: where the bundle that a fine-tuning began with is now.
    dtype: of the language model, if not the bundle's.
    quantize: the language model's blocks in few bits, each weight as soon as it is read; or what chooses it for a
    model without memory. What was fine-tuned on quantised blocks gets the same ones.
    Raises UserError for a folder that is no bundle, an unreadable file, weights that do not fit, and adapters of
    another model.
    """
    parts = resolve(folder, base, adapters)
    trained_on = None if parts.whole == folder else load(folder / CONFIG).tuning.quantize
    if trained_on and isinstance(quantize, str) and quantize != trained_on:
        raise UserError(
            f"{folder} was fine-tuned on a language model in {trained_on}, which its adapter makes up for: open it "
            f"without quantize={quantize}; it is in {trained_on} by itself."
        )
    moved = {"vision": vision_weights, "language": language_weights}
    bundle = _open_whole(parts.whole, parts.whole_document, device, moved, dtype, trained_on or quantize)
    if parts.whole != folder:
        bundle = _as_finetuned(bundle, folder, parts.document)
    add_adapters(bundle.model, parts.whole, parts.whole_document, parts.adapters)
    bundle.model.eval()
    return bundle


def _as_finetuned(bundle: Bundle, folder: Path, document: Mapping[str, Any]) -> Bundle:
    """The bundle that the fine-tuning of `folder` began with, as that run prompted it."""
    config = replace(load(folder / CONFIG), model=bundle.config.model)
    assert config.model.language is not None
    old_template = bundle.template
    queries = config.model.qformer.queries
    template = build_template(config.prompt, config.model.language, old_template.tokenizer, queries, old_template.text)
    return Bundle(bundle.model, config, document, template)


def _open_whole(
    folder: Path,
    document: Mapping[str, Any],
    device: torch.device,
    moved: Mapping[str, str | None],
    dtype: Literal["bf16", "fp16", "fp32"] | None,
    quantize: Quantize | Choose | None,
) -> Bundle:
    """A bundle that holds the whole model. moved: where frozen towers are now."""
    config = load(folder / CONFIG)
    if dtype is not None and config.model.language is not None:
        language = replace(config.model.language, dtype=dtype)
        config = replace(config, model=replace(config.model, language=language))
    files = {name: find(folder, name, reference, moved[name]) for name, reference in document["towers"].items()}
    vision = replace(config.model.vision, weights=str(files["vision"]))
    shape = replace(vision, weights=vision.weights if files["vision"].is_dir() else None)
    config = replace(config, model=replace(config.model, vision=shape))
    if callable(quantize):
        with torch.device("meta"):
            quantize = quantize(_build_language(folder, config, document, None).model)
    with device:
        if document["stage"] == "align":
            bundle = _build_alignment(folder, config, document)
        else:
            bundle = _build_language(folder, config, document, quantize)
    load_vision(bundle.model.vision.encoder, vision)
    if "language" in files:
        assert config.model.language is not None
        load_language(bundle.model.language, replace(config.model.language, weights=str(files["language"])))
    _load_trained(bundle.model, folder)
    bundle.model.to(device).eval()
    return bundle


def _build_alignment(folder: Path, config: Config, document: Mapping[str, Any]) -> Bundle:
    section = replace(config.model.text, tokenizer=str(folder / TOKENIZER))
    text = build_text(section, config.data.languages)
    image = config.data.image
    model: Alignment = build_alignment(config.model, text.vocabulary, image.mean, image.std)
    return Bundle(model, config, document, text)


def _build_language(folder: Path, config: Config, document: Mapping[str, Any], quantize: Quantize | None) -> Bundle:
    assert config.model.language is not None
    language = replace(config.model.language, tokenizer=str(folder / TOKENIZER))
    if language.family != "chatglm":
        language = replace(language, config=str(folder / TOKENIZER))
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
        section, image.mean, image.std, sop_id, None if text is None else text.vocabulary, quantize
    )
    return Bundle(model, config, document, template)


def _load_trained(model: VisualModel, folder: Path) -> None:
    report = model.load_state_dict(read_trained(folder), strict=False)
    missing = sorted(name for name in report.missing_keys if not name.startswith(tuple(TOWERS.values())))
    if missing or report.unexpected_keys:
        raise UserError(
            f"{folder / TRAINED} does not fit bundle.json: missing {missing[:3]}, unknown {report.unexpected_keys[:3]}."
        )
