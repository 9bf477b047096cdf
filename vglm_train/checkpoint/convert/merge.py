"""Adapters into the weights of the model they belong to: a bundle that needs nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vglm_train.checkpoint.bundle.adapter import AdapterFile, Weighted, base_of, check_base, read_adapter
from vglm_train.checkpoint.bundle.read import Bundle, load_bundle
from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.checkpoint.convert.writers import check_target
from vglm_train.config.load import load
from vglm_train.config.run import Config
from vglm_train.config.tuning import Tuning
from vglm_train.errors import UserError
from vglm_train.model.language.adapter import Prefix
from vglm_train.model.tuning.adapters import Adapters
from vglm_train.model.tuning.lora import merge


def merge_bundle(
    folder: Path, adapters: Sequence[Weighted], out: Path, force: bool = False, language_weights: str | None = None
) -> list[str]:
    """Write the bundle `folder` with adapters folded into its weights to `out`; returns the report.

    language_weights: where the frozen language model is now, if it has moved. UserError for adapters of another model,
    for prefixes, which no weight could hold, and where nothing is to be merged.
    """
    check_target(out, 0, force)
    bundle = load_bundle(folder, torch.device("cpu"), language_weights=language_weights)
    if bundle.document["stage"] == "align":
        raise UserError(f"{folder} is of stage align and has no language model that adapters belong to.")
    loaded = [(read_adapter(path), weight) for path, weight in adapters]
    lines = _add(bundle, folder, loaded)
    if any(isinstance(adapter, Prefix) for adapter in bundle.model.language.adapters()):
        raise UserError("a trained prefix is no change of weights and cannot be merged: keep it beside the bundle.")
    merged = merge(bundle.model.language)
    if not (merged or adapters):
        raise UserError(f"{folder} has nothing to merge; give --adapter.")
    origin = {**bundle.document["origin"], "merged": [f"{path}:{weight:g}" for path, weight in adapters]}
    changed = any(name.startswith("vision.") for adapter, _ in loaded for name in adapter.tensors)
    template, whole = bundle.template, _asked(_whole(bundle, folder, out, changed), adapters)
    save_bundle(out, whole, bundle.model, template.tokenizer, origin, template.text)
    return [*lines, f"merged {len(merged)} products", f"wrote {out}"]


def _add(bundle: Bundle, folder: Path, loaded: Sequence[tuple[AdapterFile, float]]) -> list[str]:
    """Put the adapters on the model; a line about each."""
    if not loaded:
        return []
    lines, several, base = [], Adapters(bundle.model), base_of(folder)
    for adapter, weight in loaded:
        check_base(adapter, base, folder)
        several.add(str(adapter.folder), adapter.tensors, adapter.scale)
        lines.append(f"{adapter.folder}: {len(adapter.tensors)} tensors, weight {weight:g}")
    several.use({str(adapter.folder): weight for adapter, weight in loaded})
    return lines


def _asked(config: Config, adapters: Sequence[Weighted]) -> Config:
    """As the one run that made the adapter asked: its questions may be longer than those of the bundle before it."""
    files = [path / "config.yaml" for path, _ in adapters]
    if len(files) != 1 or not files[0].is_file():
        return config
    run = load(files[0])
    return replace(config, prompt=run.prompt, evaluate=replace(config.evaluate, decoding=run.evaluate.decoding))


def _whole(bundle: Bundle, folder: Path, out: Path, changed: bool) -> Config:
    """The configuration of a bundle that holds its language model, and its image encoder if that one is `changed`."""
    language: Any = bundle.config.model.language
    shape = None if language.family == "chatglm" else str(folder / "tokenizer" / "config.json")
    language = replace(language, weights=None, config=shape, tokenizer=str(out / "tokenizer"))
    reference = bundle.document["towers"]["vision"]
    named = reference["file"] if "fingerprint" in reference and not changed else None
    # what training changed may be less than half precision tells apart
    dtype = "fp32" if changed else bundle.config.model.vision.dtype
    vision = replace(bundle.config.model.vision, weights=named, dtype=dtype)
    model = replace(bundle.config.model, language=language, vision=vision)
    run = replace(bundle.config.run, stage="generate")
    return replace(bundle.config, model=model, run=run, tuning=Tuning())
