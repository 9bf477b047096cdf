"""What was found, and single files by their names and first bytes."""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vglm_train.file_kind import LOOKED_AT, kind_of

UNFINISHED = (".incomplete", ".part", ".crdownload", ".aria2", ".download", ".tmp")
"""Endings that programs give to what they have not downloaded whole."""
LONGEST_HEADER = 100_000_000  # bytes, by the format's own rule
AGAIN = "Download it again"
UNFINISHED_ADVICE = "Complete the download"
SIGNED_IN = f"{AGAIN}, signed in where its publisher asks for that"
MERGE = "Merge it into its base (peft's merge_and_unload), save the result, and give that"
SAFETENSORS = "Take the same model's release in safetensors"
ENDINGS = {
    ".gguf": ("a GGUF file, llama.cpp's", SAFETENSORS),
    ".ggml": ("a GGML file, llama.cpp's", SAFETENSORS),
    ".onnx": ("an ONNX graph", SAFETENSORS),
    ".h5": ("weights of TensorFlow", SAFETENSORS),
    ".msgpack": ("weights of Flax", SAFETENSORS),
    ".nemo": ("an archive of NeMo's", SAFETENSORS),
    ".zip": ("a zip archive", "Unpack it, and give what is inside"),
    ".gz": ("a gzip archive", "Unpack it, and give what is inside"),
    ".tgz": ("a gzip archive", "Unpack it, and give what is inside"),
    ".tar": ("a tar archive", "Unpack it, and give what is inside"),
    ".json": ("a JSON file", "Give the folder that it stands in, or the file with the weights"),
}
DAMAGED = {
    "empty": ("an empty file", AGAIN),
    "zeros": ("a file of zeros", UNFINISHED_ADVICE),
    "lfs": ("a Git LFS pointer, not the file itself", "Fetch the file: git lfs pull, or the hub's download"),
    "html": ("a web page, not the file itself", SIGNED_IN),
    "xml": ("an XML document, as servers send for errors, not the file itself", SIGNED_IN),
}
"""What stands in place of a file of weights, by `FileKind.name`."""
OF_KIND = {"gguf": ".gguf", "hdf5": ".h5"}  # told by the bytes, whatever the file's name
TENSORS = ("zip", "pickle", "unknown")  # as torch.save writes, today and formerly, or as only its reader knows
NO_WEIGHTS = "Weights are expected here: a file of safetensors or of torch.save, or a folder with one"


@dataclass(frozen=True, slots=True)
class Found:
    """What a path is.

    kind: the name of a format that is read here; None for another, or if only the tensors in a file tell.
    advice: what to do, where it is not read here. damaged: it is not whole, or not what its name says; `file`: the one
    in a folder that is so.
    """

    kind: str | None
    what: str
    advice: str = ""
    damaged: bool = False
    file: Path | None = None

    def sentence(self, path: Path) -> str:
        """For a person who gave `path`."""
        return f"{self.file or path} is {self.what}." + (f" {self.advice}." if self.advice else "")


def damaged(what: str, advice: str = AGAIN) -> Found:
    return Found(None, what, advice, damaged=True)


def look_at_file(path: Path) -> Found:
    """A single file. `kind` is None: the tensors in it tell the rest."""
    if path.suffix in UNFINISHED:
        return damaged("a download that was not finished", UNFINISHED_ADVICE)
    with path.open("rb") as file:
        kind = kind_of(file.read(LOOKED_AT))
    if problem := DAMAGED.get(kind.name):
        return damaged(*problem)
    if path.suffix == ".safetensors":
        return _safetensors(path, path.stat().st_size)
    if ending := ENDINGS.get(OF_KIND.get(kind.name, path.suffix)):
        return Found(None, *ending)
    if kind.name in TENSORS:
        return Found(None, "a file of weights")
    return Found(None, kind.what, NO_WEIGHTS)


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object; an empty one where the file is not there or holds none."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def tensor_names(names: Iterable[str]) -> Found | None:
    """What only the names of the tensors tell; None if they tell nothing."""
    if any(".lora_A" in name or ".lora_B" in name or "lora_embedding_A" in name for name in names):
        return Found(None, "the weights of a PEFT adapter", f"Give its folder to know of which base. {MERGE}")
    return None


def _safetensors(path: Path, size: int) -> Found:
    """By its header: the length of a JSON object, the object, and offsets of the tensors behind it."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if 8 + length <= size else None
        entries = {key: value for key, value in (header or {}).items() if key != "__metadata__"}
        end = max((value["data_offsets"][1] for value in entries.values()), default=0)
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, IndexError, MemoryError):
        return damaged("no safetensors file, whatever its name says")
    if header is None and length > LONGEST_HEADER:
        return damaged("no safetensors file, whatever its name says")
    if header is None:
        return damaged("cut short within its header", UNFINISHED_ADVICE)
    if 8 + length + end > size:
        return damaged(f"cut short: {size:,} of {8 + length + end:,} bytes are there", UNFINISHED_ADVICE)
    return tensor_names(entries) or Found(None, f"a safetensors file of {len(entries)} tensors")
