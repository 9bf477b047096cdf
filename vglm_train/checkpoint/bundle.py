"""The portable result of a run: safetensors and JSON, enough to evaluate, continue or chat elsewhere.

bundle.json           version, stage, vocabulary size, where the frozen encoder is, what made the bundle
config.yaml           the resolved configuration it was trained with
trained.safetensors   what was trained, by name
vision.safetensors    the frozen encoder, if it is small or was never a file; else bundle.json names file and sha256
tokenizer/            the Q-Former's tokenizer
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vglm_train.checkpoint.pretrained import load_pretrained
from vglm_train.checkpoint.resume import write_text_atomic
from vglm_train.config.load import dump, load
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.model.alignment import Alignment, build_alignment
from vglm_train.prompt.text import TextEncoder, build_text

VERSION = 1
VISION = "vision.encoder."  # prefix of what is frozen
SMALL = 256 * 2**20  # bytes up to which the frozen encoder travels along


def save_bundle(folder: Path, config: Config, model: Alignment, text: TextEncoder, origin: dict) -> None:
    """Write a bundle aside and rename it. `origin` says what made it (run name, step, samples, scores)."""
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    vision = {name.removeprefix(VISION): weights.pop(name) for name in list(weights) if name.startswith(VISION)}
    save_file(weights, aside / "trained.safetensors")
    reference = _keep_vision(aside, config, vision)
    text.save(aside / "tokenizer")
    document = {
        "version": VERSION,
        "stage": config.run.stage,
        "vocabulary": text.vocabulary,
        "vision": reference,
        "origin": origin,
    }
    (aside / "config.yaml").write_text(dump(config))
    write_text_atomic(aside / "bundle.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle: the model in eval mode, its text encoder, the configuration and bundle.json."""

    model: Alignment
    text: TextEncoder
    config: Config
    document: dict


def load_bundle(folder: Path, device: torch.device, vision_weights: str | None = None) -> Bundle:
    """Read a bundle onto `device`.

    vision_weights: file of the frozen encoder, where the bundle only names it and the file has moved.
    Raises UserError for a folder that is no bundle, an unreadable file, or weights that do not fit.
    """
    path = folder / "bundle.json"
    if not path.exists():
        raise UserError(f"{folder} is not a bundle: there is no {path}. A run writes one to RUN/bundle when it ends.")
    document = json.loads(path.read_text())
    if document.get("version") != VERSION:
        raise UserError(f"{path}: version {document.get('version')}, this program reads {VERSION}.")
    config = load(folder / "config.yaml")
    section = replace(
        config.model,
        vision=replace(config.model.vision, weights=_vision_file(folder, document["vision"], vision_weights)),
        qformer=replace(config.model.qformer, weights=None),
        text=replace(config.model.text, tokenizer=str(folder / "tokenizer")),
    )
    text = build_text(section.text, config.data.languages)
    with device:
        model = build_alignment(section, text.vocabulary, config.data.image.mean, config.data.image.std)
    load_pretrained(model, section)
    _load_trained(model, folder / "trained.safetensors")
    return Bundle(model.to(device).eval(), text, config, document)


def _keep_vision(folder: Path, config: Config, vision: dict[str, Tensor]) -> dict:
    source = config.model.vision.weights
    size = sum(tensor.numel() * tensor.element_size() for tensor in vision.values())
    if source is not None and (size > SMALL or Path(source).is_dir()):
        return {"file": str(Path(source).resolve()), "sha256": _sha256(Path(source))}
    save_file(vision, folder / "vision.safetensors")
    return {"file": "vision.safetensors"}


def _vision_file(folder: Path, reference: dict, override: str | None) -> str:
    if "sha256" not in reference:
        return str(folder / reference["file"])
    file = Path(override or reference["file"])
    if not file.exists():
        raise UserError(
            f"{folder}/bundle.json: the frozen encoder's weights {file} are not there. They are too large to travel "
            "with the bundle; give their place with --vision-weights."
        )
    if _sha256(file) != reference["sha256"]:
        raise UserError(
            f"{file} is not the encoder this bundle was trained with: its sha256 differs from bundle.json's."
        )
    return str(file)


def _load_trained(model: Alignment, file: Path) -> None:
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read ({error}). Copy the bundle again.") from error
    report = model.load_state_dict(tensors, strict=False)
    missing = sorted(name for name in report.missing_keys if not name.startswith(VISION))
    if missing or report.unexpected_keys:
        raise UserError(
            f"{file} does not fit bundle.json: missing {missing[:3]}, unknown {report.unexpected_keys[:3]}."
        )


def _sha256(path: Path) -> str:
    """Of a file, or of a folder's files in name order."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()
