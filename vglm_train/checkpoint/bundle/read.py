"""The portable result of a run: safetensors and JSON, enough to evaluate, continue or chat elsewhere.

bundle.json            version, stage, vocabulary size, where the frozen towers are, what made the bundle
config.yaml            the resolved configuration it was trained with
trained.safetensors    what was trained, by name
vision.safetensors     the frozen image encoder, language.safetensors the frozen language model: if they are small
                       or were never files; else bundle.json names where they are
tokenizer/             the Q-Former's tokenizer (stage align), or the language model's (stage generate)
question_tokenizer/    the Q-Former's, where it reads questions before a language model
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vglm_train.checkpoint.bundle.adapter import AdapterFile, base_of, check_base, read_adapter
from vglm_train.checkpoint.bundle.format import QUESTIONS, TOWERS, read_document, read_trained, read_whole
from vglm_train.checkpoint.bundle.towers import find
from vglm_train.checkpoint.load.language import load_language
from vglm_train.checkpoint.load.pretrained import load_vision
from vglm_train.config.load import load
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.model.alignment import Alignment, build_alignment
from vglm_train.model.language.linears import quantize_blocks
from vglm_train.model.tuning.adapters import Adapters
from vglm_train.model.visual import VisualModel
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language
from vglm_train.prompt.build import build_template
from vglm_train.prompt.qformer_text import TextEncoder, build_text
from vglm_train.prompt.template import Template
from vglm_train.prompt.tokenizers import build_tokenizer


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


def _load_trained(model: VisualModel, file: Path) -> None:
    tensors = read_trained(file.parent)
    report = model.load_state_dict(tensors, strict=False)
    missing = sorted(name for name in report.missing_keys if not name.startswith(tuple(TOWERS.values())))
    if missing or report.unexpected_keys:
        raise UserError(
            f"{file} does not fit bundle.json: missing {missing[:3]}, unknown {report.unexpected_keys[:3]}."
        )


Weighted = tuple[Path, float]


def open_bundle(
    folder: Path,
    device: torch.device,
    vision_weights: str | None = None,
    language_weights: str | None = None,
    base: str | None = None,
    adapters: Sequence[Weighted] = (),
) -> Bundle:
    """A bundle of any stage onto `device`, with what adapters add, each times its weight.

    `base`: where the bundle that a fine-tuning began with is now. Raises UserError as `load_bundle` does, and for
    adapters of another model.
    """
    document = read_document(folder)
    if document["stage"] != "finetune":
        bundle = load_bundle(folder, device, vision_weights, language_weights)
        return _add(bundle, folder, [(read_adapter(path), weight) for path, weight in adapters])
    place = Path(base or document["base"])
    if not (place / "bundle.json").exists():
        raise UserError(
            f"{folder}/bundle.json: what was trained belongs to the bundle {place}, which is not there. Give its place "
            "with --base."
        )
    bundle = load_bundle(place, device, vision_weights, language_weights)
    config = load(folder / "config.yaml")
    if config.tuning.quantize:  # the model that its adapter learned to mend
        quantize_blocks(bundle.model.language)
    weighted = [(folder, 1.0), *adapters]
    bundle = _add(bundle, place, [(read_adapter(path), weight) for path, weight in weighted])
    config = replace(config, model=bundle.config.model)
    assert config.model.language is not None
    old = bundle.template
    queries = config.model.qformer.queries
    template = build_template(config.prompt, config.model.language, old.tokenizer, queries, old.text)
    return Bundle(bundle.model, config, document, template)


def _add(bundle: Bundle, folder: Path, loaded: Sequence[tuple[AdapterFile, float]]) -> Bundle:
    """Put adapters on the model of the bundle at `folder`."""
    if not loaded:
        return bundle
    if bundle.document["stage"] == "align":
        raise UserError(f"{folder} is of stage align and has no language model that adapters belong to.")
    several, base = Adapters(bundle.model), base_of(folder)
    for adapter, _ in loaded:
        check_base(adapter, base, folder)
        several.add(str(adapter.folder), adapter.tensors, adapter.scale)
    several.use({str(adapter.folder): weight for adapter, weight in loaded})
    bundle.model.eval()
    return bundle
