"""Writing a bundle, of any stage."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from torch import Tensor

from vglm_train.checkpoint.bundle.adapter import TENSORS, base_of, write_adapter
from vglm_train.checkpoint.bundle.format import QUESTIONS, TOKENIZER, TOWERS, TRAINED, read_document, write_document
from vglm_train.checkpoint.bundle.towers import save_encoder, save_or_reference
from vglm_train.checkpoint.load.finite import is_finite
from vglm_train.checkpoint.resume import save_tensors
from vglm_train.config.model import Model
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.folders import replace_folder
from vglm_train.model.vision import source_of
from vglm_train.model.visual import VisualModel
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.prompt.qformer_text import QFormerTokenizer


class Tokenizer(Protocol):
    def save(self, folder: Path) -> None: ...


def save_bundle(
    folder: Path,
    config: Config,
    model: VisualModel,
    tokenizer: Tokenizer,
    origin: Mapping[str, Any],
    questions: QFormerTokenizer | None = None,
    read: Mapping[str, str] | None = None,
) -> None:
    """Write the bundle of a whole model. `origin` says what made it (run name, step, samples, scores).

    `questions`: of a Q-Former that reads them before a language model; `read`: configuration key -> fingerprint of
    the file that was read, such as model.vision.weights. UserError where the disk is full, or weights are not finite.
    """
    with _new_bundle(folder) as new:
        trained, towers = _save_towers(new, config.model, model, read or {})
        _refuse_broken(folder, trained)
        save_tensors(trained, new / TRAINED)
        document = {"stage": config.run.stage, "towers": towers, "origin": dict(origin)}
        _save_tokenizers(new, config.model, tokenizer, questions)
        write_document(new, _alone(config), document)


def save_finetuned(
    folder: Path,
    config: Config,
    base: Path,
    model: VisualLanguageModel,
    tokenizer: Tokenizer,
    origin: Mapping[str, Any],
    questions: QFormerTokenizer | None = None,
    parts: Mapping[str, str] | None = None,
) -> int:
    """Write the bundle of a run that began with the bundle `base`; returns bytes of what trained.

    `parts`: `base_of` the bundle when it was read; None: as it is now. UserError as `save_bundle`.
    """
    with _new_bundle(folder) as new:
        parts = base_of(base, read_document(base)) if parts is None else parts
        trained = dict(model.trained_parameters())
        _refuse_broken(folder, trained)
        write_adapter(new, trained.items(), config.tuning, parts, origin)
        document = {"stage": "finetune", "towers": {}, "base": str(base.resolve()), "origin": dict(origin)}
        _save_tokenizers(new, config.model, tokenizer, questions)
        write_document(new, _alone(config), document)
    return (folder / TENSORS).stat().st_size


@contextmanager
def _new_bundle(folder: Path) -> Iterator[Path]:
    try:
        with replace_folder(folder) as new:
            yield new
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder}: the bundle could not be written ({error}). Make room and start the same command again."
        ) from error


def _refuse_broken(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """UserError where a bundle would hold weights that are not finite: nothing could be done with it."""
    if broken := [name for name, tensor in tensors.items() if not is_finite(tensor)]:
        raise UserError(
            f"{folder}: the bundle was not written, since {len(broken)} of {len(tensors)} trained tensors are not "
            f"finite ({', '.join(broken[:3])}). Continue from an earlier checkpoint with a lower optim.lr."
        )


def _save_towers(
    folder: Path, config: Model, model: VisualModel, read: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Write the frozen towers that travel along. Returns the other weights, and where each tower is."""
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    sources = {"vision": config.vision.weights, "language": getattr(config.language, "weights", None)}
    towers = {}
    for tower, prefix in TOWERS.items():
        frozen = {name.removeprefix(prefix): weights.pop(name) for name in list(weights) if name.startswith(prefix)}
        if frozen:
            file, fingerprint = folder / f"{tower}.safetensors", read.get(f"model.{tower}.weights")
            if tower == "vision" and config.vision.family == "auto":
                shape = source_of(config.vision)
                towers[tower] = save_encoder(folder, frozen, sources[tower], shape, fingerprint)
            else:
                towers[tower] = save_or_reference(file, frozen, sources[tower], fingerprint)
    return weights, towers


def _alone(config: Config) -> Config:
    """The folder that an encoder of family auto came from may become another; bundle.json says where it is."""
    if config.model.vision.family != "auto":
        return config
    return replace(config, model=replace(config.model, vision=replace(config.model.vision, weights=None, config=None)))


def _save_tokenizers(folder: Path, config: Model, tokenizer: Tokenizer, questions: QFormerTokenizer | None) -> None:
    """The tokenizers, and config.json of a Hugging Face language model: the shape of what the bundle holds or names."""
    tokenizer.save(folder / TOKENIZER)
    if questions is not None:
        questions.save(folder / QUESTIONS)
    language = config.language
    if language is None or language.family == "chatglm":
        return
    source = Path(str(language.config or language.weights))
    file = source / "config.json" if source.is_dir() else source
    shutil.copyfile(file, folder / TOKENIZER / "config.json")
