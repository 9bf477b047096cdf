"""Adapters into the weights of the model they belong to: a bundle that needs nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vglm_train.checkpoint.bundle.adapter import AdapterFile, add_adapters
from vglm_train.checkpoint.bundle.format import CONFIG, TOKENIZER, ScaledAdapter, check_adaptable, read_whole
from vglm_train.checkpoint.bundle.read import Bundle, open_bundle
from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.checkpoint.convert.writers import check_target
from vglm_train.config.load import load
from vglm_train.config.run import Config
from vglm_train.config.tuning import Tuning
from vglm_train.errors import UserError
from vglm_train.model.language.adapter import Prefix
from vglm_train.model.tuning.lora import merge


def merge_bundle(
    folder: Path,
    adapters: Sequence[ScaledAdapter],
    out: Path,
    force: bool = False,
    language_weights: str | None = None,
    vision_weights: str | None = None,
) -> list[str]:
    """Write the bundle `folder` with adapters folded into its weights to `out`; returns the report.

    language_weights, vision_weights: where a frozen tower is now, if it has moved. UserError for adapters of another
    model, for prefixes, which no weight could hold, and where nothing is to be merged.
    """
    check_target(out, 0, force)
    document = read_whole(folder)
    check_adaptable(folder, document)
    bundle = open_bundle(folder, torch.device("cpu"), vision_weights=vision_weights, language_weights=language_weights)
    added = add_adapters(bundle.model, folder, document, adapters)
    if any(isinstance(adapter, Prefix) for adapter in bundle.model.language.adapters()):
        raise UserError("a trained prefix is no change of weights and cannot be merged: keep it beside the bundle.")
    merged = merge(bundle.model.language)
    if not (merged or adapters):
        raise UserError(f"{folder} has nothing to merge; give --adapter.")
    origin = _origin(bundle.document["origin"], adapters, added)
    changed = any(name.startswith("vision.") for adapter in added for name in adapter.tensors)
    config = _with_prompt(_whole(bundle, folder, out, changed, vision_weights), adapters)
    save_bundle(out, config, bundle.model, bundle.template.tokenizer, origin, bundle.template.text)
    lines = [
        f"{adapter.folder}: {len(adapter.tensors)} tensors, weight {weight:g}"
        for adapter, (_, weight) in zip(added, adapters, strict=True)
    ]
    return [*lines, f"merged {len(merged)} products", f"wrote {out}"]


def _origin(
    before: Mapping[str, Any], adapters: Sequence[ScaledAdapter], added: Sequence[AdapterFile]
) -> dict[str, Any]:
    """Where the weights come from: the bundle's own origin, and those of all that was ever merged into it."""
    merged = [*before.get("merged", []), *(f"{path}:{weight:g}" for path, weight in adapters)]
    runs = [*before.get("merged_runs", []), *(_run_of(adapter) for adapter in added)]
    return {**before, "merged": merged, "merged_runs": runs}


def _run_of(adapter: AdapterFile) -> dict[str, Any]:
    """The run that made an adapter: what it learned from, and what it was scored on, tells what the model is for."""
    run = dict(adapter.document.get("origin", {}))
    if (adapter.folder / CONFIG).is_file():
        config = load(adapter.folder / CONFIG)
        data = {source.name: source.table or source.shards for source in config.data.train}
        run |= {"task": config.evaluate.task, "data": data, "questions": asdict(config.prompt.questions)}
    return run


def _with_prompt(config: Config, adapters: Sequence[ScaledAdapter]) -> Config:
    """With the prompt of the one run that made the adapter: its questions may be longer than the bundle's."""
    files = [path / CONFIG for path, _ in adapters]
    if len(files) != 1 or not files[0].is_file():
        return config
    run = load(files[0])
    return replace(config, prompt=run.prompt, evaluate=replace(config.evaluate, decoding=run.evaluate.decoding))


def _whole(bundle: Bundle, folder: Path, out: Path, changed: bool, moved: str | None) -> Config:
    """The configuration of a bundle that holds its language model, and its image encoder if that one is `changed`.
    `moved`: where the encoder is now."""
    language: Any = bundle.config.model.language
    shape = None if language.family == "chatglm" else str(folder / TOKENIZER / "config.json")
    language = replace(language, weights=None, config=shape, tokenizer=str(out / TOKENIZER))
    reference = bundle.document["towers"]["vision"]
    named = (moved or reference["file"]) if "fingerprint" in reference and not changed else None
    # what training changed may be less than half precision tells apart
    dtype = "fp32" if changed else bundle.config.model.vision.dtype
    vision = bundle.config.model.vision
    shape_of = vision.weights if vision.family == "auto" and named is None else None
    vision = replace(vision, weights=named, config=shape_of, dtype=dtype)
    model = replace(bundle.config.model, language=language, vision=vision)
    run = replace(bundle.config.run, stage="generate")
    return replace(bundle.config, model=model, run=run, tuning=Tuning())
