"""Which format a path is of, and who reads and writes it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vglm_train.checkpoint.bundle.towers import ENCODER
from vglm_train.checkpoint.convert import bundle, components, hugging_face, lavis, visualglm
from vglm_train.checkpoint.convert.source import Options, SourceModel, open_tensors
from vglm_train.checkpoint.load.chatglm import sat_shard
from vglm_train.checkpoint.load.lazy_tensors import Tensors, of_shards
from vglm_train.errors import UserError
from vglm_train.weights.found import Found, tensor_names
from vglm_train.weights.identify import FORMATS as WHAT
from vglm_train.weights.identify import identify

UNKNOWN = f"Known are {', '.join(WHAT)}; name one with --format if it is one"
WRITTEN = ("hf-blip2", "hf-blip2-retrieval", "lavis", "visualglm-sat")


@dataclass(frozen=True, slots=True)
class Format:
    read: Callable[[Path, Options], SourceModel]
    part: bool = False  # of a model: needs --config


def _part(kind: str, part: components.Part) -> Format:
    return Format(lambda path, options: components.read(path, kind, part, options), part=True)


FORMATS = {
    "bundle": Format(bundle.read),
    "lavis": Format(lavis.read),
    "hf-blip2": Format(hugging_face.read),
    "hf-blip2-retrieval": Format(hugging_face.read),
    "visualglm-sat": Format(visualglm.read_sat),
    "visualglm-hub": Format(visualglm.read_hub),
    "eva": _part("eva", "vision"),
    "clip": _part("clip", "vision"),
    "siglip": _part("siglip", "vision"),
    "hf-vision": _part("hf-vision", "vision"),
    "bert": _part("bert", "bert"),
    "chatglm-sat": _part("chatglm-sat", "language"),
    "chatglm-hub": _part("chatglm-hub", "language"),
    "hf-language": _part("hf-language", "language"),
}


def recognise(path: Path) -> str:
    """The format of a file or folder. UserError if it is none that is read here, saying what it is, or not there."""
    found = find(path)
    if found.kind is None:
        raise UserError(found.sentence(path))
    return found.kind


def find(path: Path) -> Found:
    """What a file or folder is; of a file also what its tensors tell. UserError if it is not there."""
    found = identify(path)
    if found.kind is not None or found.advice:
        return found
    if path.is_file():
        return _of_tensors(set(open_tensors(path)))
    return replace(found, advice=UNKNOWN)


def raw_tensors(path: Path, kind: str) -> Tensors:
    """What the file or folder itself holds, under its own names."""
    if kind == "bundle":
        files = {file.stem: file for file in sorted(path.glob("*.safetensors"))}
        if (folder := path / ENCODER).is_dir():
            files[ENCODER] = folder
        return {name if part == "trained" else f"{part}: {name}": tensor
                for part, file in files.items() for name, tensor in open_tensors(file).items()}  # fmt: skip
    if kind in ("visualglm-sat", "chatglm-sat"):
        return of_shards([sat_shard(path)])
    return open_tensors(path)


def can_become(kind: str, stage: str | None, names: set[str], encoder: str) -> list[str]:
    """What import and export can make of it. `encoder`: the family of a bundle's image encoder."""
    if FORMATS[kind].part:
        return ["bundle (with --config)"]
    if kind != "bundle":
        return ["bundle"]
    if encoder != "eva":
        return [f"no other format, which have no place for an image encoder of family {encoder}"]
    if stage == "align":
        return ["hf-blip2-retrieval", "lavis"]
    return ["visualglm-sat"] if any(name.startswith("language: network.") for name in names) else ["hf-blip2", "lavis"]


def _of_tensors(names: set[str]) -> Found:
    """By the names in a file."""
    bare, kind = {name.removeprefix("visual_encoder.") for name in names}, None
    if lavis.is_lavis(names):
        kind = "lavis"
    elif {"cls_token", "pos_embed"} <= bare or {"class_token", "positions"} <= names:
        kind = "eva"
    elif any("embeddings.word_embeddings.weight" in name for name in names):
        kind = "bert"
    if kind is not None:
        return Found(kind, WHAT[kind])
    return tensor_names(names) or Found(None, "none of the formats known here", UNKNOWN)
