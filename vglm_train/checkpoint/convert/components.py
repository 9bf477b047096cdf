"""Sources that are a part of a model: an image encoder, BERT, a language model alone.

The bundle is then the model as a run with that configuration would begin: this part from the source, others from the
weights that the configuration names, what is left random from `run.seed`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vglm_train.checkpoint.bundle.stage_one import bundle_vision, init_from_bundle
from vglm_train.checkpoint.convert.source import Options, SourceModel, check, expected, resized, tokenizer_of
from vglm_train.checkpoint.convert.towers import as_loaded, chatglm_order, config_of, language_tensors, vision_tensors
from vglm_train.checkpoint.keymaps.keymap import KeyMap
from vglm_train.checkpoint.load.lazy_tensors import of_tensors, prefixed
from vglm_train.checkpoint.load.pretrained import load_bert
from vglm_train.config.language import Language
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.model.alignment import build_alignment
from vglm_train.model.qformer.qformer import QFormer
from vglm_train.model.vision import build_vision
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.prompt.qformer_text import build_text

Part = Literal["vision", "bert", "language"]
STAGES = {"vision": ("align", "generate"), "bert": ("align",), "language": ("generate",)}


def read(path: Path, kind: str, part: Part, options: Options) -> SourceModel:
    """The model of `options.config` with `path` as that part of it."""
    config = options.config
    if config is None:
        raise UserError(
            f"{path} ({kind}) is a part of a model: give the configuration of the run that it is for with --config, "
            "and the bundle holds the model as that run would begin."
        )
    if config.run.stage not in STAGES[part]:
        raise UserError(f"{path} ({kind}) has no place in a model of stage {config.run.stage} (run.stage of --config).")
    files = _configured(config) | {str(part): path}
    source, vocabulary = SourceModel(path, kind, config, {}), None
    if config.run.stage == "align":
        text = replace(config.model.text, tokenizer=str(options.tokenizer or config.model.text.tokenizer))
        vocabulary = config.model.qformer.vocabulary or build_text(text, config.data.languages).vocabulary
        source.tokenizer = Path(text.tokenizer) if Path(text.tokenizer).exists() else None
    else:
        _language(source, files, options)
    model = expected(config, source.language, vocabulary)
    _frozen(source, model, files, options)
    source.fresh = [name for name in model.state_dict() if name not in source.tensors]
    initial = _initial(source, model, files, vocabulary)
    source.tensors |= of_tensors({name: initial[name] for name in source.fresh if name in initial})
    if "bert" in files:
        source.fresh = [name for name in source.fresh if ".cross." in name or not name.startswith("qformer.")]
    check(source.tensors, model.state_dict(), KeyMap(()), [], path)
    source.tensors, vision, notes = resized(source.tensors, source.config.model.vision, options.image_size)
    source.config = replace(source.config, model=replace(source.config.model, vision=vision))
    source.notes += notes
    return source


def _configured(config: Config) -> dict[str, Path]:
    """Part -> the weights that the configuration names for it; what an earlier bundle holds is named too."""
    model = config.model
    named = {"vision": model.vision.weights, "bert": model.qformer.weights,
             "language": getattr(model.language, "weights", None)}  # fmt: skip
    if config.run.stage == "generate":
        named |= {"vision": model.vision.weights or bundle_vision(model), "earlier": named.pop("bert")}
    return {name: Path(file) for name, file in named.items() if file}


def _language(source: SourceModel, files: Mapping[str, Path], options: Options) -> None:
    """Where the language model's tokenizer and config.json are."""
    section = source.config.model.language
    if section is None or "language" not in files:
        raise UserError(f"{source.path}: --config must name the language model's folder: model.language.weights.")
    source.tokenizer = tokenizer_of(Path(section.tokenizer) if section.tokenizer else files["language"], options)
    if section.family != "chatglm":
        source.language = config_of(files["language"])
    language: Language = replace(section, weights=str(files["language"].resolve()))
    source.config = replace(source.config, model=replace(source.config.model, language=language))


def _frozen(source: SourceModel, model: Any, files: Mapping[str, Path], options: Options) -> None:
    """Frozen towers from their files. A Hugging Face encoder stays where it is, as its config.json says more."""
    section = source.config.model
    if "vision" in files:
        source.tensors |= prefixed(vision_tensors(files["vision"], section.vision), "vision.encoder.")
        if section.vision.family != "eva":
            source.towers["vision"] = files["vision"]
        weights = str(files["vision"].resolve()) if section.vision.family != "eva" else None
        source.config = replace(source.config, model=replace(section, vision=replace(section.vision, weights=weights)))
    if "language" in files and section.language is not None:
        fused = None
        if section.language.family == "chatglm":
            fused, line = chatglm_order(files["language"], section.language.heads, options.fused)
            source.notes.append(line)
        tensors = language_tensors(files["language"], section.language, fused)
        if source.language is not None:
            tensors, source.dropped = as_loaded(tensors, model.language)
        source.tensors |= prefixed(tensors, "language.")


def _initial(source: SourceModel, model: Any, files: Mapping[str, Path], vocabulary: int | None) -> dict[str, Tensor]:
    """What a run with this configuration begins with, but for frozen towers that come from a file."""
    config, image = source.config, source.config.data.image
    vision = config.model.vision
    if "vision" in files:  # not used: the smallest that has the width
        vision = replace(vision, depth=1, weights=None, config=None)
        if vision.family == "auto":
            vision = replace(vision, family="eva", image_size=vision.patch)
    torch.manual_seed(config.run.seed)
    initial: Any
    if vocabulary is not None:
        initial = build_alignment(replace(config.model, vision=vision), vocabulary, image.mean, image.std)
        if "bert" in files:
            load_bert(initial, files["bert"])
    else:
        qformer = QFormer(config.model.qformer, vision.width, None)
        initial = VisualLanguageModel(build_vision(vision), qformer, model.language, image.mean, image.std)
        if "earlier" in files:
            init_from_bundle(initial, files["earlier"])
    return {name: value for name, value in initial.state_dict().items() if not value.is_meta}
