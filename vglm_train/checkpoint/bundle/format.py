"""What a bundle is made of: its files, and reading each without building a model."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vglm_train.config.inherit import merge_first
from vglm_train.errors import UserError

VERSION = 2


QUESTIONS = "question_tokenizer"


TOWERS = {"vision": "vision.encoder.", "language": "language."}  # what is frozen, and the prefix of its names


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
