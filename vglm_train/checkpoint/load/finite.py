"""Weights that hold NaN or infinite values are refused when they are read, by the names that their file has."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from vglm_train.checkpoint.load.tensor_files import open_weights
from vglm_train.errors import UserError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
SHOWN = 6  # names in a message


def is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite: one pass, without memory."""
    if tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.sum().isfinite():
        return True
    smallest, largest = torch.aminmax(tensor)  # a sum may overflow; here NaN wins in both
    return bool(smallest.isfinite() & largest.isfinite())


def check_finite(tensor: Tensor, name: str, *sources: Path) -> None:
    """UserError where `tensor`, read from files or folders `sources` as `name` and cast, is not finite throughout.

    The message names all such tensors of these files. Where there are none, the cast was too narrow.
    """
    if is_finite(tensor):
        return
    found = [line for source in sources for line in _broken(source)]
    where = ", ".join(map(str, sources))
    if not found:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{where}: {name} holds numbers too large for {dtype}. Set the part's dtype to bf16 or fp32.")
    raise UserError(
        f"{'; '.join(found)}. Nothing can be computed with such weights: take an earlier checkpoint, or download the "
        "file again and compare its checksum."
    )


def check_all_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    """UserError where one of the tensors that were read from `file` is not finite throughout."""
    for name, tensor in tensors.items():
        check_finite(tensor, name, file)


def _broken(source: Path) -> Iterator[str]:
    """A line for each file of weights with tensors that are not finite."""
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix in SUFFIXES)
    for file in files:
        # another kind of file may stand there, which nobody has read; --check reads on the meta device
        with suppress(UserError), torch.device("cpu"):
            for shard in open_weights(file):
                if names := [name for name in shard.shapes if not is_finite(shard.read(name))]:
                    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                    yield f"{file} holds NaN or infinite values in {', '.join(names[:SHOWN])}{more}"
