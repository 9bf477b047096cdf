"""Frozen towers of a bundle: small ones travel along, large ones are named with a fingerprint."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vglm_train.checkpoint.resume import save_tensors
from vglm_train.errors import UserError
from vglm_train.fingerprint import fingerprint, same_content
from vglm_train.weights.encoders import CONFIG
from vglm_train.weights.pixels import COMBINED, PROCESSOR

ENCODER = "vision"  # folder of an image encoder of family auto
SMALL = 256 * 2**20  # bytes up to which a tower travels along


def save_or_reference(
    file: Path, weights: Mapping[str, Tensor], source: str | None, read: str | None = None
) -> dict[str, Any]:
    """Write a tower to `file`, or only name `source`, where it came from. Returns the reference.

    `read`: the fingerprint that `source` had when it was read; None: it is taken now. An image encoder's folder is
    named whatever its size: its config.json says more than our section does.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    published = source is not None and Path(source).is_dir() and file.stem == "vision"
    if source is not None and (size > SMALL or published):
        return {"file": str(Path(source).resolve()), "fingerprint": read or fingerprint(Path(source))}
    save_tensors(dict(weights), file)
    return {"file": file.name}


def save_encoder(
    folder: Path, weights: Mapping[str, Tensor], source: str | None, shape: Path, read: str | None = None
) -> dict[str, Any]:
    """As `save_or_reference` for an image encoder of family auto, which is a Hugging Face folder in the bundle too.

    shape: the folder whose config.json describes it.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if source is not None and size > SMALL:
        return {"file": str(Path(source).resolve()), "fingerprint": read or fingerprint(Path(source))}
    new = folder / ENCODER
    new.mkdir()
    save_tensors(dict(weights), new / "model.safetensors")
    for name in (CONFIG, PROCESSOR, COMBINED):
        if (shape / name).is_file():
            shutil.copyfile(shape / name, new / name)
    return {"file": ENCODER}


def find(folder: Path, what: str, reference: Mapping[str, Any], moved: str | None) -> Path:
    """Where the weights of tower `what` are. `moved`: where the person says that they are now.

    Raises UserError if there are none, or they are not those the bundle was trained with.
    """
    if "fingerprint" not in reference:
        file: Path = folder / reference["file"]
        if not file.exists():
            instead = (
                f", and {moved} cannot stand for it: the bundle's own may have been trained, and bundle.json has no "
                "fingerprint of it"
            )
            raise UserError(
                f"{folder}: {reference['file']}, its {what} model, is not there{instead if moved else ''}. Copy the "
                "whole bundle again."
            )
        return file
    path = Path(moved or reference["file"])
    if not path.exists():
        raise UserError(
            f"{folder}/bundle.json: the frozen {what} model's weights {path} are not there. They are too large to "
            f"travel with the bundle; give their path with --{what}-weights."
        )
    if not same_content(path, reference["fingerprint"]):
        raise UserError(
            f"{path} is not the {what} model this bundle was trained with: its fingerprint differs from bundle.json's."
        )
    return path
