"""What evaluators share: their tables of examples, and what they need of the items."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor

from vglm_train.data.eval_choice import examples
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError


@dataclass(frozen=True, slots=True)
class ImageTable:
    """Examples to look at. Each row has a cell for each of `columns`."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Image.Image | str | float]]


class Item(Protocol):
    """A held-out picture or question."""

    @property
    def key(self) -> str: ...
    @property
    def source(self) -> str: ...


def to_pil(pixels: Tensor) -> Image.Image:
    """[3,h,w] uint8 -> the same image for PIL."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def shown(items: Sequence[Item], indices: Sequence[int], count: int) -> list[int]:
    """Which `count` of the items with `indices` are shown as examples: of each source in turn, always the same."""
    sources = [items[index].source for index in indices]
    return [indices[n] for n in examples([items[index].key for index in indices], sources, count)]


def check_same_items(items: Sequence[Item], ranks: Ranks) -> None:
    """UserError on all ranks unless they have read the same items: they share them out by number."""
    digest = hashlib.blake2b("\n".join(f"{i.source} {i.key}" for i in items).encode("utf-8", "surrogateescape"))
    found = ranks.gather_objects((len(items), digest.hexdigest()[:8]))
    other = next((rank for rank, each in enumerate(found) if each != found[0]), None)
    if other is not None:
        raise UserError(
            f"evaluation: process 0 could use {found[0][0]} validation samples and process {other} {found[other][0]}, "
            "not the same ones. All machines must see the same files; log.txt names what was left out."
        )
