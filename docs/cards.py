"""What to set on a card of so many GB, by the estimate of `vglm train --check`: a table for the pages."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from benchmarks import recipes
from vglm_train import stages
from vglm_train.clinic.recipe import needs
from vglm_train.config.load import load
from vglm_train.config.run import Config
from vglm_train.describe import Memory, estimate_memory
from vglm_train.env import BYTES, SIZES
from vglm_train.env import fits as chat_fits
from vglm_train.model.visual import VisualModel
from vglm_train.stages import Stage

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
CARDS = (24, 32, 40, 48, 80)  # GB, as they are sold
SHARE = 0.98  # of the GB are GiB that a process can have: 23.5 of 24, 31.4 of 32, 78.4 of 80
MOST = 128  # rows; beyond, no estimate was compared with a run
PRETRAIN = ("lavis_stage1", "visualglm_stage1", "blip2_paper_stage2_opt", "blip2_paper_stage2_flan_t5",
            "visualglm_stage2")  # fmt: skip
FINETUNE = ("xray_vqa_chatglm_lora", "xray_vqa_chatglm_qlora", "xray_vqa_chatglm_ptuning", "xray_vqa_opt",
            "xray_vqa_flan_t5")  # fmt: skip
SMALL = ((100, None, False), (100, None, True), (100, 25, False), (32, None, False), (16, None, True))
"""Overrides of lavis_stage1.yaml that the page on small GPUs compares: rows of a step, rows at once, recompute."""
Language = Literal["en", "zh"]
SAID = {
    "head": {
        "en": "rows at once, without / with `engine.recompute`",
        "zh": "同时处理的行，不用 / 用 `engine.recompute`",
    },
    "override": {"en": "overrides", "zh": "覆盖项"},
    "language": {"en": "language model", "zh": "语言模型"},
    "estimate": {"en": "GiB, estimate", "zh": "GiB，估计值"},
}
NONE = "-"  # not even one row fits


@cache
def built(name: str) -> tuple[Config, VisualModel]:
    """A ready configuration and its model on the meta device, as it trains."""
    config = _configuration(name)
    stage: Stage = stages.build(config)
    with torch.device("meta"):
        model = stage.model()
        stage.tune(model)
    return config, model


def _configuration(name: str) -> Config:
    """Of one for fine-tuning with the model that its bundle, which is not here, would bring."""
    if name in PRETRAIN:
        return load(ROOT / f"configs/pretrain/{name}.yaml")
    with tempfile.TemporaryDirectory() as folder:
        config = recipes.read(name, False, Path(folder))[0]
    qformer = replace(config.model.qformer, weights="not-here")
    return replace(config, model=replace(config.model, qformer=qformer))


@cache
def need(name: str, rows: int, recompute: bool) -> Memory:
    """Of one process with so many rows at once."""
    config, model = built(name)
    changed = replace(config, engine=replace(config.engine, micro_batch=rows, recompute=recompute))
    changed = replace(changed, data=replace(changed.data, global_batch=rows))
    return estimate_memory(changed, stages.build(changed), model, 1)


def fits(memory: Memory, card: int) -> bool:
    """Whether it fits a card of so many GB, if it needs as much more as a measured run did at most."""
    return needs(memory) <= card * SHARE


def most(name: str, card: int, recompute: bool) -> str:
    """Rows at once that fit and divide the configuration's global batch."""
    batch = built(name)[0].data.global_batch
    divisors = (rows for rows in range(min(MOST, batch), 0, -1) if batch % rows == 0)
    return next((str(rows) for rows in divisors if fits(need(name, rows, recompute), card)), NONE)


def card_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first: configurations by cards."""
    yield [SAID["head"][language], *(f"{card} GB" for card in CARDS)]
    for name in (*PRETRAIN, *FINETUNE):
        folder = "pretrain" if name in PRETRAIN else "finetune"
        cells = (f"{most(name, card, False)} / {most(name, card, True)}" for card in CARDS)
        yield [f"`{folder}/{name}.yaml`", *cells]


def small_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first: what lavis_stage1.yaml needs with some overrides on one GPU."""
    yield [SAID["override"][language], SAID["estimate"][language]]
    for batch, micro, recompute in SMALL:
        words = [f"data.global_batch={batch}"]
        words += ["engine.recompute=true"] if recompute else []
        words += [f"engine.micro_batch={micro}"] if micro else []
        yield [f"`{' '.join(words)}`", f"{need('lavis_stage1', micro or batch, recompute).total / GIB:.1f}"]


def chat_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first: what `vglm env` says that answering needs."""
    yield [SAID["language"][language], *BYTES]
    found = {(fit.model, fit.form): f"{fit.needs / GIB:.1f} GiB" for fit in chat_fits(None)}
    yield from ([model, *(found[model, form] for form in BYTES)] for model in SIZES)
