"""What a fine-tuning added to a model, and what of it trained: a few megabytes beside a model of many gigabytes.

adapter.json           version, section tuning (rank, alpha, targets, layers, rules), whose model it is, origin
adapter.safetensors    fp32 tensors under the names they have in the model
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vglm_train.checkpoint.bundle.towers import fingerprint
from vglm_train.checkpoint.resume import save_tensors, write_text_atomic
from vglm_train.config.tuning import Tuning
from vglm_train.errors import UserError

VERSION = 1
DOCUMENT, TENSORS = "adapter.json", "adapter.safetensors"


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A saved adapter."""

    folder: Path
    tensors: dict[str, Tensor]
    document: dict[str, Any]

    @property
    def scale(self) -> float:
        """What LoRA's B A is multiplied by."""
        lora = self.document["tuning"].get("lora")
        return lora["alpha"] / lora["rank"] if lora else 1.0


def save_adapter(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    tuning: Tuning,
    base: Mapping[str, str],
    origin: Mapping[str, Any],
) -> int:
    """Write an adapter aside and rename it; returns its size in bytes.

    tensors: names in the model -> what trained. base: see `base_of`. UserError where the disk is full.
    """
    aside = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    document = {"version": VERSION, "tuning": asdict(tuning), "base": dict(base), "origin": dict(origin)}
    try:
        aside.mkdir(parents=True)
        own = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in tensors}
        save_tensors(own, aside / TENSORS)
        write_text_atomic(aside / DOCUMENT, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        size = sum(file.stat().st_size for file in aside.iterdir())
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(aside, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UserError(f"{folder}: the adapter could not be written ({error}). Make room and save again.") from error
    return size


def read_adapter(folder: Path) -> AdapterFile:
    """UserError for a folder that is no adapter, or is of another version, or cannot be read."""
    if not (folder / DOCUMENT).is_file():
        raise UserError(f"{folder} is not an adapter: there is no {DOCUMENT} in it.")
    try:
        document = json.loads((folder / DOCUMENT).read_text("utf-8"))
        version, _ = document["version"], (document["tuning"], document["base"])
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter cannot be read ({error}). Copy it again.") from error
    if version != VERSION:
        raise UserError(f"{folder}/{DOCUMENT}: version {version}, this program reads {VERSION}. Train it again.")
    return AdapterFile(folder, tensors, document)


def base_of(bundle: Path) -> dict[str, str]:
    """Fingerprints of a bundle's parts, by which an adapter knows the model it belongs to. UserError if it is none."""
    try:
        towers = json.loads((bundle / "bundle.json").read_text("utf-8"))["towers"]
        found = {
            tower: reference.get("fingerprint") or fingerprint(bundle / reference["file"])
            for tower, reference in towers.items()
        }
        return {**found, "trained": fingerprint(bundle / "trained.safetensors")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{bundle} is not a bundle that can be read ({error}).") from error


def check_base(adapter: AdapterFile, base: Mapping[str, str], where: Path) -> None:
    """UserError where the adapter was trained on another model than `base`, that of the bundle at `where`."""
    theirs = adapter.document["base"]
    if wrong := [part for part in theirs if part in base and theirs[part] != base[part]]:
        raise UserError(
            f"{adapter.folder} was not trained on {where}: the fingerprint of its {', '.join(wrong)} differs. Give the "
            "bundle that the adapter's run began with."
        )


Weighted = tuple[Path, float]


def parse_weighted(text: str) -> Weighted:
    """FOLDER, or FOLDER:0.5. UserError for a weight that is no finite number."""
    if ":" not in text or Path(text).exists():
        return Path(text), 1.0
    folder, _, weight = text.rpartition(":")
    try:
        value = float(weight)
    except ValueError:
        value = nan
    if not isfinite(value):
        raise UserError(f"--adapter {text}: {weight!r} is no number to multiply by; give FOLDER, or FOLDER:WEIGHT.")
    return Path(folder), value


def parse_adapters(texts: Sequence[str]) -> list[Weighted]:
    """Every --adapter of a command line. UserError for one that is given twice, of which one weight would be lost."""
    adapters = [parse_weighted(text) for text in texts]
    for path, times in Counter(path.resolve() for path, _ in adapters).items():
        if times > 1:
            raise UserError(f"--adapter {path} is given {times} times; give it once, with the sum of its weights.")
    return adapters
