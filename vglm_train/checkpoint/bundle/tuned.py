"""The bundle of a fine-tuning run: what trained, and which bundle it was added to. And any bundle with adapters on.

bundle.json      version, stage finetune, `base`: the folder of the bundle that the run began with, what made it
adapter.json, adapter.safetensors    see checkpoint/bundle/adapter.py; so the folder is an adapter as well
config.yaml, tokenizer/              as of every bundle
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vglm_train.checkpoint.bundle.adapter import TENSORS, AdapterFile, base_of, check_base, read_adapter, save_adapter
from vglm_train.checkpoint.bundle.read import (
    QUESTIONS,
    VERSION,
    Bundle,
    Tokenizer,
    keep_shape,
    load_bundle,
    read_document,
)
from vglm_train.checkpoint.resume import write_text_atomic
from vglm_train.config.load import dump, load
from vglm_train.config.run import Config
from vglm_train.errors import UserError
from vglm_train.model.language.linears import quantize_blocks
from vglm_train.model.tuning.adapters import Adapters
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.prompt.qformer_text import TextEncoder
from vglm_train.prompt.template import build_template

Weighted = tuple[Path, float]


def save_tuned(
    folder: Path,
    config: Config,
    base: Path,
    model: VisualLanguageModel,
    tokenizer: Tokenizer,
    origin: Mapping,
    questions: TextEncoder | None = None,
) -> int:
    """Write the bundle of a run that began with the bundle `base`, aside and renamed; returns bytes of what trained."""
    aside = folder.with_name(folder.name + ".tmp")
    save_adapter(aside, model.trained_parameters(), config.tuning, base_of(base), origin)
    tokenizer.save(aside / "tokenizer")
    if questions is not None:
        questions.save(aside / QUESTIONS)
    keep_shape(config.model, aside)
    (aside / "config.yaml").write_text(dump(config), "utf-8")
    document = {
        "version": VERSION,
        "stage": "finetune",
        "towers": {},
        "base": str(base.resolve()),
        "origin": dict(origin),
    }
    write_text_atomic(aside / "bundle.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return (folder / TENSORS).stat().st_size


def open_bundle(
    folder: Path,
    device: torch.device,
    vision_weights: str | None = None,
    language_weights: str | None = None,
    base: str | None = None,
    adapters: Sequence[Weighted] = (),
) -> Bundle:
    """A bundle of any stage onto `device`, with what adapters add, each times its weight.

    `base`: where the bundle that a fine-tuning began with is now. Raises UserError as `load_bundle` does, and for
    adapters of another model.
    """
    document = read_document(folder)
    if document["stage"] != "finetune":
        bundle = load_bundle(folder, device, vision_weights, language_weights)
        return _add(bundle, folder, [(read_adapter(path), weight) for path, weight in adapters])
    place = Path(base or document["base"])
    if not (place / "bundle.json").exists():
        raise UserError(
            f"{folder}/bundle.json: what was trained belongs to the bundle {place}, which is not there. Give its place "
            "with --base."
        )
    bundle = load_bundle(place, device, vision_weights, language_weights)
    config = load(folder / "config.yaml")
    if config.tuning.quantize:  # the model that its adapter learned to mend
        quantize_blocks(bundle.model.language)
    weighted = [(folder, 1.0), *adapters]
    bundle = _add(bundle, place, [(read_adapter(path), weight) for path, weight in weighted])
    config = replace(config, model=bundle.config.model)
    assert config.model.language is not None
    old = bundle.template
    queries = config.model.qformer.queries
    template = build_template(config.prompt, config.model.language, old.tokenizer, queries, old.text)
    return Bundle(bundle.model, config, document, template)


def _add(bundle: Bundle, folder: Path, loaded: Sequence[tuple[AdapterFile, float]]) -> Bundle:
    """Put adapters on the model of the bundle at `folder`."""
    if not loaded:
        return bundle
    if bundle.document["stage"] == "align":
        raise UserError(f"{folder} is of stage align and has no language model that adapters belong to.")
    several, base = Adapters(bundle.model), base_of(folder)
    for adapter, _ in loaded:
        check_base(adapter, base, folder)
        several.add(str(adapter.folder), adapter.tensors, adapter.scale)
    several.use({str(adapter.folder): weight for adapter, weight in loaded})
    bundle.model.eval()
    return bundle
