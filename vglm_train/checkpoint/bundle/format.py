"""What a bundle is made of: its files, and reading and writing those that need no model.

bundle.json            version, the program that wrote it, stage, where the frozen towers are, what made the bundle
config.yaml            the resolved configuration it was trained with
trained.safetensors    what was trained, by name
vision.safetensors     the frozen image encoder, language.safetensors the frozen language model: if they are small
                       or were never files; else bundle.json names where they are. The image encoder of family auto
                       is a folder, vision/, as its publisher's
tokenizer/             the Q-Former's tokenizer (stage align), or the language model's (stage generate)
question_tokenizer/    the Q-Former's, where it reads questions before a language model

A fine-tuning's bundle (stage finetune) holds an adapter instead of weights (adapter.json, adapter.safetensors), and
bundle.json names the bundle that it belongs to.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vglm_train.checkpoint.load.finite import check_all_finite
from vglm_train.config.inherit import merge_first
from vglm_train.config.load import dump
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.folders import recover
from vglm_train.version import __version__, commit

VERSION = 2
READERS: dict[object, str] = {
    1: "the development versions before 0.1.0"
}  # earlier version of a bundle -> what reads it
DOCUMENT, CONFIG, TRAINED = "bundle.json", "config.yaml", "trained.safetensors"
TOKENIZER, QUESTIONS = "tokenizer", "question_tokenizer"
ScaledAdapter = tuple[Path, float]  # an adapter's folder, and what it is multiplied by
TOWERS = {"vision": "vision.encoder.", "language": "language."}  # what is frozen, and the prefix of its names


def read_document(folder: Path) -> dict[str, Any]:
    """bundle.json. UserError where there is none, it cannot be read, or is of another version."""
    recover(folder)
    path = folder / DOCUMENT
    if not path.exists():
        raise UserError(f"{folder} is not a bundle: there is no {path}. A run writes one to RUN/bundle when it ends.")
    try:
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
        version = document.get("version")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Copy the bundle again.") from error
    if version != VERSION:
        wrote = document.get("written_by", {}).get("vglm_train")
        reader = READERS.get(version) or (f"vglm_train {wrote} and later" if wrote else "the program that wrote it")
        raise UserError(
            f"{path}: version {version}, this program reads {VERSION} (vglm_train {__version__}). Open it with "
            f"{reader}, or train again."
        )
    return document


def read_whole(folder: Path) -> dict[str, Any]:
    """bundle.json of a bundle that holds a whole model. UserError as `read_document`, and for a fine-tuning's."""
    document = read_document(folder)
    if document["stage"] == "finetune":
        raise UserError(f"{folder} {merge_first(document, folder)}.")
    return document


def read_trained(folder: Path) -> dict[str, Tensor]:
    """What a bundle's run trained, by name. UserError if it cannot be read, or is not finite."""
    file = folder / TRAINED
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read ({error}). Copy the bundle again.") from error
    check_all_finite(tensors, file)
    return tensors


def write_document(folder: Path, config: Config, document: Mapping[str, Any]) -> None:
    """config.yaml and bundle.json, `document` without its version."""
    (folder / CONFIG).write_text(dump(config), "utf-8")
    program = {"vglm_train": __version__, "commit": commit()}
    content = json.dumps({"version": VERSION, "written_by": program, **document}, indent=2, ensure_ascii=False)
    (folder / DOCUMENT).write_text(content + "\n", "utf-8")


@dataclass(frozen=True, slots=True)
class BundleParts:
    """What a bundle is opened from: its bundle.json, the bundle that holds the whole model, and adapters to add."""

    document: Mapping[str, Any]
    whole: Path  # the bundle itself, or the one that a fine-tuning began with
    whole_document: Mapping[str, Any]
    adapters: list[ScaledAdapter]  # a fine-tuning's bundle is one itself


def resolve(folder: Path, base: Path | None, adapters: Sequence[ScaledAdapter]) -> BundleParts:
    """What `open_bundle` will read, from bundle.json alone.

    UserError for a folder that is no bundle, a base that is not there, and a model that adapters cannot belong to.
    """
    document = read_document(folder)
    if document["stage"] != "finetune":
        parts = BundleParts(document, folder, document, list(adapters))
    else:
        whole = _base_of(folder, document, base)
        parts = BundleParts(document, whole, read_whole(whole), [(folder, 1.0), *adapters])
    if parts.adapters:
        check_adaptable(parts.whole, parts.whole_document)
    return parts


def check_adaptable(folder: Path, document: Mapping[str, Any]) -> None:
    """UserError unless the bundle has a language model, to which an adapter may belong."""
    if document["stage"] == "align":
        raise UserError(f"{folder} is of stage align and has no language model that adapters belong to.")


def _base_of(folder: Path, document: Mapping[str, Any], moved: Path | None) -> Path:
    """The bundle that the fine-tuning of `folder` began with."""
    base = moved or Path(document["base"])
    recover(base)
    if not (base / DOCUMENT).exists():
        raise UserError(
            f"{folder}/{DOCUMENT}: what was trained belongs to the bundle {base}, which is not there. Give its path "
            "with --base."
        )
    return base
