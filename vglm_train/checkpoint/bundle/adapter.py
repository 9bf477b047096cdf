"""What a fine-tuning added to a model, and what of it trained: a few megabytes beside a model of many gigabytes.

adapter.json           version, section tuning (rank, alpha, targets, layers, rules), whose model it is, origin
adapter.safetensors    fp32 tensors under the names they have in the model
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vglm_train.checkpoint.bundle.format import TRAINED, ScaledAdapter
from vglm_train.checkpoint.load.finite import check_all_finite
from vglm_train.checkpoint.resume import save_tensors
from vglm_train.config.tuning import Tuning
from vglm_train.errors import UserError
from vglm_train.fingerprint import fingerprint
from vglm_train.folders import recover, replace_folder
from vglm_train.model.tuning.adapters import Adapters
from vglm_train.model.visual_language import VisualLanguageModel

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
    """Write a folder with an adapter alone; returns its size in bytes.

    tensors: names in the model -> what trained. base: see `base_of`. UserError where the disk is full.
    """
    try:
        with replace_folder(folder) as new:
            write_adapter(new, tensors, tuning, base, origin)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter could not be written ({error}). Make room and save again.") from error
    return sum(file.stat().st_size for file in folder.iterdir())


def write_adapter(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    tuning: Tuning,
    base: Mapping[str, str],
    origin: Mapping[str, Any],
) -> None:
    """Write the two files of an adapter into `folder`. Arguments as of `save_adapter`."""
    document = {"version": VERSION, "tuning": asdict(tuning), "base": dict(base), "origin": dict(origin)}
    save_tensors(
        {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in tensors}, folder / TENSORS
    )
    (folder / DOCUMENT).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_adapter(folder: Path) -> AdapterFile:
    """UserError for a folder that is no adapter, is of another version, cannot be read, or is not finite."""
    recover(folder)
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
    check_all_finite(tensors, folder / TENSORS)
    return AdapterFile(folder, tensors, document)


def base_of(bundle: Path, document: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of the parts of a bundle, by which an adapter knows the model it belongs to.

    `document`: its bundle.json. UserError where the bundle cannot be read.
    """
    try:
        towers = {
            tower: reference.get("fingerprint") or fingerprint(bundle / reference["file"])
            for tower, reference in document["towers"].items()
        }
        return {**towers, "trained": fingerprint(bundle / TRAINED)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{bundle} is not a bundle that can be read ({error}).") from error


def check_base(adapter: AdapterFile, base: Mapping[str, str], bundle: Path) -> None:
    """UserError where the adapter was trained on another model than `base`, that of `bundle`."""
    trained_on = adapter.document["base"]
    if wrong := [part for part in trained_on if part in base and trained_on[part] != base[part]]:
        raise UserError(
            f"{adapter.folder} was not trained on {bundle}: the fingerprint of its {', '.join(wrong)} differs. Give "
            "the bundle that the adapter's run began with."
        )


def add_adapters(
    model: VisualLanguageModel, bundle: Path, document: Mapping[str, Any], adapters: Sequence[ScaledAdapter]
) -> list[AdapterFile]:
    """Put adapters on the model of `bundle`, whose bundle.json is `document`, each times its weight.

    UserError where one belongs to another model.
    """
    files = [read_adapter(path) for path, _ in adapters]
    if not files:
        return []
    base = base_of(bundle, document)
    for file in files:
        check_base(file, base, bundle)
    added = Adapters(model)
    for file in files:
        added.add(str(file.folder), file.tensors, file.scale)
    added.use({str(path): weight for path, weight in adapters})
    return files


def parse_scaled(text: str) -> ScaledAdapter:
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


def parse_adapters(texts: Sequence[str]) -> list[ScaledAdapter]:
    """Every --adapter of a command line. UserError for one that is given twice, of which one weight would be lost."""
    adapters = [parse_scaled(text) for text in texts]
    for path, times in Counter(path.resolve() for path, _ in adapters).items():
        if times > 1:
            raise UserError(f"--adapter {path} is given {times} times; give it once, with the sum of its weights.")
    return adapters
