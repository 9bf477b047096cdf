"""Our own portable bundle, read without memory and written from any source."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from vglm_train.checkpoint.bundle.format import CONFIG, TOKENIZER, TOWERS, TRAINED, read_whole, write_document
from vglm_train.checkpoint.bundle.towers import find
from vglm_train.checkpoint.convert.source import TOKENIZER_FILES, Options, SourceModel, expected, tokenizer_of
from vglm_train.checkpoint.convert.towers import as_loaded, language_tensors, vision_tensors
from vglm_train.checkpoint.convert.writers import progress, replaced, write_safetensors
from vglm_train.checkpoint.load.chatglm import read_json
from vglm_train.checkpoint.load.lazy_tensors import below, of_shards, prefixed, total
from vglm_train.checkpoint.load.tensor_files import open_shard
from vglm_train.config.load import load
from vglm_train.errors import UserError
from vglm_train.fingerprint import fingerprint
from vglm_train.progress import Progress


def read(folder: Path, options: Options) -> SourceModel:
    """A bundle of stage one or two, with its frozen towers wherever their files are."""
    document = read_whole(folder)
    config = load(folder / CONFIG)
    source = SourceModel(folder, "bundle", config, of_shards([open_shard(folder / TRAINED)]))
    source.origin = document["origin"].get("imported") or {}
    moved = {"vision": options.vision, "language": options.language}
    shape = folder / TOKENIZER / "config.json"
    if config.model.language is not None and config.model.language.family != "chatglm":
        source.language = read_json(shape)
    for tower, reference in document["towers"].items():
        file = find(folder, tower, reference, str(moved[tower]) if moved[tower] else None)
        if "fingerprint" in reference:
            source.towers[tower] = file
        if tower == "vision":
            tensors = vision_tensors(file, config.model.vision)
            if config.model.vision.family == "auto":
                vision = replace(config.model.vision, weights=str(file))
                source.config = config = replace(config, model=replace(config.model, vision=vision))
        else:
            assert config.model.language is not None
            tensors = language_tensors(file, config.model.language)
            if source.language is not None:
                words = source.tensors.get("qformer.embeddings.words.weight")  # of a Q-Former that reads the question
                whole = expected(config, source.language, None if words is None else words.shape[0])
                tensors, _ = as_loaded(tensors, whole.language)
        source.tensors |= prefixed(tensors, TOWERS[tower])
    source.tokenizer = tokenizer_of(folder / TOKENIZER, options)
    return source


def write(source: SourceModel, out: Path, force: bool) -> None:
    """The bundle that `open_bundle` reads. Frozen towers with files of their own are named, with a fingerprint."""
    document: dict[str, Any] = {"stage": source.stage, "towers": {}}
    document["origin"] = {"from": str(source.path.resolve()), "format": source.kind, "imported": source.origin}
    outside = tuple(TOWERS[tower] for tower in source.towers)
    written = {name: tensor for name, tensor in source.tensors.items() if not name.startswith(outside)}
    with replaced(out, total(written), force) as new, progress(written, out.name) as bar:
        new.mkdir()
        trained = source.tensors
        for tower, prefix in TOWERS.items():
            trained = {name: tensor for name, tensor in trained.items() if not name.startswith(prefix)}
            reference = _tower(source, tower, new, bar)
            if reference is not None:
                document["towers"][tower] = reference
        write_safetensors(new / TRAINED, trained, bar, {})
        _tokenizer(source, new / TOKENIZER)
        write_document(new, source.config, document)


def _tower(source: SourceModel, tower: str, new: Path, bar: Progress) -> dict[str, str] | None:
    """Write a frozen tower, or name where it is. Returns the reference."""
    if tower in source.towers:
        path = source.towers[tower].resolve()
        return {"file": str(path), "fingerprint": fingerprint(path)}
    tensors = below(source.tensors, TOWERS[tower])
    if not tensors:
        return None
    write_safetensors(new / f"{tower}.safetensors", tensors, bar, {})
    return {"file": f"{tower}.safetensors"}


def _tokenizer(source: SourceModel, folder: Path) -> None:
    """Its files as they are, and config.json of a Hugging Face language model."""
    folder.mkdir()
    path = source.tokenizer
    if path is not None:
        files = [path] if path.is_file() else [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
        for file in files:
            shutil.copyfile(file, folder / file.name)
        if not files:
            raise UserError(f"{path}: no tokenizer here that is known: {', '.join(TOKENIZER_FILES)}.")
    if source.language is not None:
        (folder / "config.json").write_text(json.dumps(source.language, indent=2) + "\n", "utf-8")
