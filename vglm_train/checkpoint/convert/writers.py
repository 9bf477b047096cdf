"""Files and folders of weights, written whole or not at all and a tensor at a time."""

import errno
import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vglm_train.checkpoint.keymaps.keymap import KeyMapError
from vglm_train.checkpoint.load.lazy_tensors import Lazy, total
from vglm_train.checkpoint.load.tensor_files import DTYPES
from vglm_train.errors import UserError
from vglm_train.folders import check_folder, recover, replace_path
from vglm_train.progress import Progress

NAMES = {dtype: name for name, dtype in DTYPES.items()}
SHARD = 5 * 10**9  # bytes of a file of a Hugging Face folder, at most


@contextmanager
def replaced(out: Path, size: int, force: bool) -> Iterator[Path]:
    """A path for a file or folder of about `size` bytes to be written, which becomes `out` when all went well.

    Raises UserError if `out` exists and is not to be replaced, the disk is too small, or writing fails; then nothing is
    left behind and `out` is as it was.
    """
    check_target(out, size, force)
    try:
        with replace_path(out) as new:
            yield new
    except KeyMapError as error:
        raise UserError(f"{out} was not written: {error}.") from error
    except Exception as error:
        # torch's own writer raises a RuntimeError for a full disk
        known = isinstance(error, OSError) or "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error)
        if not known or isinstance(error, UserError):
            raise
        raise UserError(_failure(out, error)) from error


def check_target(out: Path, size: int, force: bool) -> None:
    """Raises UserError if `out` cannot be written, before anything is read."""
    recover(out)
    if out.exists() and not force:
        raise UserError(f"{out} is there already: give another --out, or --force to replace it.")
    if not out.parent.is_dir():
        raise UserError(f"{out}: the folder {out.parent} is not there. Make it first.")
    check_folder(f"--out {out}", out.parent)
    free = shutil.disk_usage(out.parent).free
    if size > free:
        raise UserError(
            f"{out} would take {size / 2**30:.2f} GiB, and {out.parent} has {free / 2**30:.2f} GiB left: free some "
            "room, or give --out on another disk."
        )


def write_safetensors(file: Path, tensors: Mapping[str, Lazy], bar: Progress, metadata: Mapping[str, str]) -> None:
    """One safetensors file; only the tensor at hand is in memory."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        offsets = [end, end + tensor.size]
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            _write(stream, tensor)
            bar.update(tensor.size)


def write_sharded(folder: Path, tensors: Mapping[str, Lazy], bar: Progress, limit: int = SHARD) -> None:
    """A Hugging Face folder's safetensors: one file, or several of at most `limit` bytes and their index."""
    parts: list[dict[str, Lazy]] = [{}]
    for name, tensor in tensors.items():
        if parts[-1] and total(parts[-1]) + tensor.size > limit:
            parts.append({})
        parts[-1][name] = tensor
    if len(parts) == 1:
        write_safetensors(folder / "model.safetensors", tensors, bar, {"format": "pt"})
        return
    index: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        write_safetensors(folder / name, part, bar, {"format": "pt"})
        index |= dict.fromkeys(part, name)
    content = {"metadata": {"total_size": total(tensors)}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_torch(
    file: Path, tensors: Mapping[str, Lazy], part: str, bar: Progress, beside: Mapping[str, Any] | None = None
) -> None:
    """One file of torch.save with the tensors under `part`, and what stands beside them.

    What is only renamed stays mapped from its file until torch writes it; what is computed is in memory till the end.
    A tensor with two names is written once.
    """
    made: dict[int, Tensor] = {}
    content = {}
    for name, tensor in tensors.items():
        if id(tensor) not in made:
            made[id(tensor)] = _compact(tensor.read())
        content[name] = made[id(tensor)]
    torch.save({part: content, **(beside or {})}, file)
    bar.update(total(tensors))


def progress(tensors: Mapping[str, Lazy], what: str) -> Progress:
    """In bytes."""
    return Progress(total(tensors), "B", what)


def _compact(tensor: Tensor) -> Tensor:
    """A tensor whose storage holds nothing else: torch.save writes whole storages."""
    tensor = tensor.contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _write(stream: BinaryIO, tensor: Lazy) -> None:
    value = tensor.read()
    assert (tuple(value.shape), value.dtype) == (tensor.shape, tensor.dtype), "a reader gave another tensor"
    stream.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _failure(out: Path, error: Exception) -> str:
    full = not isinstance(error, OSError) or error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full:
        return f"{out} was not written: the disk is full. Free some room, or give --out on another disk."
    return f"{out} was not written: {getattr(error, 'strerror', None) or error}."
