"""Files of published weights, opened unread: safetensors and torch.save's, whole, in parts, in folders."""

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vglm_train.errors import UserError
from vglm_train.weights.found import look_at_file
from vglm_train.weights.identify import identify, weight_files

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Names of safetensors."""


@dataclass(frozen=True, slots=True)
class TensorFile:
    """One file of tensors, none of them in memory."""

    path: Path
    shapes: Mapping[str, Sequence[int]]
    dtypes: Mapping[str, torch.dtype]
    content: Callable[[str], Tensor] = field(repr=False)

    def read(self, key: str) -> Tensor:
        """A tensor; where torch's default device is the meta device, its shape and type alone."""
        if torch.get_default_device().type == "meta":
            return torch.empty(tuple(self.shapes[key]), dtype=self.dtypes[key])
        return self.content(key)


def open_shard(path: Path, part: str | None = None) -> TensorFile:
    """A safetensors file, or one of torch.save (`part`: the key under which its tensors stand).

    Tensors of torch files are mapped, not loaded. Raises UserError if it cannot be read without running its code.
    """
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        content = _torch_file(path)
        content = content if part is None else content[part]
        tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    except FileNotFoundError as error:
        raise UserError(
            f"cannot read weights from {path}: there is no such file or folder. Correct the path."
        ) from error
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(_unreadable(path, error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        wanted = "tensors by name" if part is None else f"tensors by name under {part!r}"
        raise UserError(f"{path} holds no {wanted}: it is another kind of file.") from error
    dtypes = {key: value.dtype for key, value in tensors.items()}
    return TensorFile(path, {key: value.shape for key, value in tensors.items()}, dtypes, tensors.__getitem__)


def top_level_dicts(path: Path) -> list[str]:
    """Names of the dictionaries that a file of torch.save holds at its top: under which its tensors may stand."""
    try:
        content = _torch_file(path)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(_unreadable(path, error)) from error
    return [str(key) for key, value in content.items() if isinstance(value, dict)] if isinstance(content, dict) else []


def open_weights(path: Path) -> list[TensorFile]:
    """A file, safetensors or torch.save's (tensors at its top, or under model, module or state_dict), or a folder of
    Hugging Face with either, in one file or in parts."""
    if path.is_dir():
        return [open_shard(file) for file in folder_files(path)]
    part = None
    if path.suffix != ".safetensors" and path.exists():
        part = next((name for name in ("model", "module", "state_dict") if name in top_level_dicts(path)), None)
    shard = open_shard(path, part)
    if not shard.shapes:
        raise UserError(f"{path} holds no tensors by name: it is another kind of file.")
    return [shard]


def folder_files(folder: Path) -> list[Path]:
    """Files of weights of a Hugging Face folder. UserError if there are none, or parts are missing."""
    if files := weight_files(folder):
        return files
    found = identify(folder)
    if found.advice:
        raise UserError(found.sentence(folder))
    raise UserError(
        f"{folder} holds no weights: model.safetensors or pytorch_model.bin is expected, or parts of it with "
        ".index.json. Give the folder that holds them, or complete its download."
    )


def _safetensors(path: Path) -> TensorFile:
    file = safe_open(path, "pt")
    slices = {key: file.get_slice(key) for key in list(file.keys())}
    unknown = sorted({part.get_dtype() for part in slices.values()} - set(DTYPES))
    if unknown:
        raise ValueError(f"tensors of type {', '.join(unknown)} are not known here")
    dtypes = {key: DTYPES[part.get_dtype()] for key, part in slices.items()}
    return TensorFile(path, {key: part.get_shape() for key, part in slices.items()}, dtypes, file.get_tensor)


def _unreadable(path: Path, error: Exception) -> str:
    if path.is_file() and (found := look_at_file(path)).advice:
        return found.sentence(path)
    if code := re.search(r"[Uu]nsupported \w+:? (?:GLOBAL )?([A-Za-z_][\w.]+)", str(error)):
        return (
            f"{path} holds {code[1]}, which is code and no tensor: it was not run, and nothing was read. "
            "Take the weights from their publisher as safetensors, or as a file of tensors alone."
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"cannot read weights from {path}: {reason}. Download it again."


def _torch_file(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return content
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        # files older than torch 1.6 cannot be mapped
        content = torch.load(path, map_location="cpu", weights_only=True)
        return content
