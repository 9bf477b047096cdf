"""Which format a path is of, and who reads and writes it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vglm_train.checkpoint.bundle.format import DOCUMENT
from vglm_train.checkpoint.convert import bundle, components, hugging_face, lavis, visualglm
from vglm_train.checkpoint.convert.source import Options, SourceModel, open_tensors
from vglm_train.checkpoint.load.chatglm import CONFIG, HUB_CONFIG, is_sat_folder, read_json, sat_shard
from vglm_train.checkpoint.load.lazy_tensors import Tensors, of_shards
from vglm_train.errors import UserError
from vglm_train.folders import recover

WRITTEN = ("hf-blip2", "hf-blip2-retrieval", "lavis", "visualglm-sat")


@dataclass(frozen=True, slots=True)
class Format:
    what: str
    read: Callable[[Path, Options], SourceModel]
    part: bool = False  # of a model: needs --config


FORMATS = {
    "bundle": Format("a bundle of this project", bundle.read),
    "lavis": Format("LAVIS's BLIP-2: stage one, or stage two with OPT or T5", lavis.read),
    "hf-blip2": Format("Hugging Face Blip2ForConditionalGeneration", hugging_face.read),
    "hf-blip2-retrieval": Format("Hugging Face Blip2ForImageTextRetrieval", hugging_face.read),
    "visualglm-sat": Format("VisualGLM as SAT folder", visualglm.read_sat),
    "visualglm-hub": Format("VisualGLM in the hub's layout", visualglm.read_hub),
    "eva": Format("an EVA ViT alone", lambda path, o: components.read(path, "eva", "vision", o), True),
    "clip": Format("Hugging Face CLIP", lambda path, o: components.read(path, "clip", "vision", o), True),
    "siglip": Format("Hugging Face SigLIP", lambda path, o: components.read(path, "siglip", "vision", o), True),
    "bert": Format("Hugging Face BERT", lambda path, o: components.read(path, "bert", "bert", o), True),
    "chatglm-sat": Format("ChatGLM as SAT folder",
                          lambda path, o: components.read(path, "chatglm-sat", "language", o), True),
    "chatglm-hub": Format("ChatGLM-6B in the hub's layout",
                          lambda path, o: components.read(path, "chatglm-hub", "language", o), True),
    "hf-language": Format("a Hugging Face language model",
                          lambda path, o: components.read(path, "hf-language", "language", o), True),
}  # fmt: skip


def recognise(path: Path) -> str:
    """The format of a file or folder. Raises UserError if it is none that is known, or not there."""
    recover(path)
    if not path.exists():
        raise UserError(f"{path} is not there.")
    if path.is_file():
        return _of_file(path)
    if (path / DOCUMENT).is_file():
        return "bundle"
    if is_sat_folder(path):
        config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
        return "visualglm-sat" if config.get("eva_args") else "chatglm-sat"
    if kind := hugging_face.kind_of(path):
        return kind
    if (path / HUB_CONFIG).is_file():
        return _of_folder(path)
    _unknown(path)


def raw_tensors(path: Path, kind: str) -> Tensors:
    """What the file or folder itself holds, under its own names."""
    if kind == "bundle":
        files = sorted(path.glob("*.safetensors"))
        return {name if file.stem == "trained" else f"{file.stem}: {name}": tensor
                for file in files for name, tensor in open_tensors(file).items()}  # fmt: skip
    if kind in ("visualglm-sat", "chatglm-sat"):
        return of_shards([sat_shard(path)])
    return open_tensors(path)


def can_become(kind: str, stage: str | None, names: set[str]) -> list[str]:
    """What import and export can make of it."""
    if FORMATS[kind].part:
        return ["bundle (with --config)"]
    if kind != "bundle":
        return ["bundle"]
    if stage == "align":
        return ["hf-blip2-retrieval", "lavis"]
    return ["visualglm-sat"] if any(name.startswith("language: network.") for name in names) else ["hf-blip2", "lavis"]


def _of_file(path: Path) -> str:
    names = set(open_tensors(path))
    if lavis.is_lavis(names):
        return "lavis"
    bare = {name.removeprefix("visual_encoder.") for name in names}
    if {"cls_token", "pos_embed"} <= bare or {"class_token", "positions"} <= names:
        return "eva"
    if any("embeddings.word_embeddings.weight" in name for name in names):
        return "bert"
    _unknown(path)


def _of_folder(path: Path) -> str:
    content = read_json(path / HUB_CONFIG)
    kind = str(content.get("model_type"))
    if kind == "chatglm":
        return "visualglm-hub" if content.get("eva_config") else "chatglm-hub"
    if kind.startswith(("clip", "siglip")):
        return "clip" if kind.startswith("clip") else "siglip"
    if kind == "bert":
        return "bert"
    if content.get("architectures") or "hidden_size" in content or "d_model" in content:
        return "hf-language"
    _unknown(path)


def _unknown(path: Path) -> NoReturn:
    raise UserError(f"{path} is none of the formats known here: {', '.join(FORMATS)}. Name one with --format if it is.")
