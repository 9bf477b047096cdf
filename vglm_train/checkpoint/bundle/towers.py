"""Frozen towers of a bundle: small ones travel along, large ones are named with a fingerprint."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vglm_train.checkpoint.resume import save_tensors
from vglm_train.errors import UserError
from vglm_train.files import sha256

SMALL = 256 * 2**20  # bytes up to which a tower travels along
HEAD = 2**20  # bytes of each file of a folder that its fingerprint reads


def save_or_reference(file: Path, weights: Mapping[str, Tensor], source: str | None) -> dict[str, Any]:
    """Write a tower to `file`, or only name `source`, where it came from. Returns the reference.

    An image encoder's folder is named whatever its size: its config.json says more than our section does.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    published = source is not None and Path(source).is_dir() and file.stem == "vision"
    if source is not None and (size > SMALL or published):
        return {"file": str(Path(source).resolve()), "fingerprint": fingerprint(Path(source))}
    save_tensors(dict(weights), file)
    return {"file": file.name}


def find(folder: Path, what: str, reference: Mapping[str, Any], moved: str | None) -> Path:
    """Where the weights of tower `what` are. `moved`: where the person says that they are now.

    Raises UserError if there are none, or they are not those the bundle was trained with.
    """
    if "fingerprint" not in reference:
        return folder / reference["file"]
    path = Path(moved or reference["file"])
    if not path.exists():
        raise UserError(
            f"{folder}/bundle.json: the frozen {what} model's weights {path} are not there. They are too large to "
            f"travel with the bundle; give their path with --{what}-weights."
        )
    if fingerprint(path) != reference["fingerprint"]:
        raise UserError(
            f"{path} is not the {what} model this bundle was trained with: its fingerprint differs from bundle.json's."
        )
    return path


def fingerprint(path: Path) -> str:
    """SHA-256 of a file; of a folder, of its weight files' names, sizes and first MiB, since all can be 12 GB."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.suffix in (".safetensors", ".bin", ".pt")):
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(HEAD))
    return digest.hexdigest()
