"""Steps of the trainer on a GPU, which must not wait for it: `python step_on_gpu.py align|chatglm|opt|llama|t5`."""

import os
import sys
import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cuda"

import tiny
import tiny_language
import torch
from torch import Tensor
from transformers import LlamaConfig, OPTConfig, T5Config

from vglm_train import distributed
from vglm_train.batch import Batch, PromptBatch, target_places
from vglm_train.config.language import Language
from vglm_train.config.run import Length, Run
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.engine.progress import Plan, RunState
from vglm_train.engine.trainer import StepReport, Trainer
from vglm_train.engine.watch import Watch
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.objective.alignment import AlignmentObjective
from vglm_train.objective.generation import GenerationObjective

WARM_UP = 4  # steps: DeepSpeed's timer begins with the third
BLOCKS = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "max_position_embeddings": 64}  # fmt: skip
SHAPES = {
    "opt": OPTConfig(**BLOCKS, ffn_dim=64, word_embed_proj_dim=32),
    "llama": LlamaConfig(**BLOCKS, intermediate_size=64),
    "t5": T5Config(vocab_size=60, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
                   feed_forward_proj="gated-gelu", decoder_start_token_id=0),
}  # fmt: skip


def refuse(device: object = None) -> None:
    raise RuntimeError("the whole device is waited for")


def language(kind: str) -> tuple[VisualLanguageModel, PromptBatch]:
    batch = tiny_language.prompts(8)
    if kind == "chatglm":
        return tiny_language.build(tiny_language.CHATGLM), batch
    family = "seq2seq" if kind == "t5" else "causal"
    if kind == "t5":
        labels = batch.labels[:, -6:].contiguous()
        batch = replace(batch, labels=labels, targets=target_places(labels, apart=True))
    with tempfile.TemporaryDirectory() as folder:
        SHAPES[kind].save_pretrained(folder)
        shape = Language(family=family, config=folder, tokenizer="nowhere", dtype="bf16")
        return tiny_language.build(replace(tiny.MODEL, language=shape)), batch


class Steps:
    """A loader that gives one batch again and again, from pinned memory, and a stop that nobody asks for."""

    sources, languages = ("a",), ("en",)

    def __init__(self, batch: Batch) -> None:
        self.batch = batch._each(Tensor.pin_memory)

    def batches(self, consumed: int) -> Generator[Batch]:
        while True:
            yield self.batch

    def requested(self) -> bool:
        return False


class Strict:
    """After some steps no wait is allowed but for the norm, which is an event's."""

    doing = "looking"

    def after_step(self, report: StepReport) -> None:
        assert report.update.applied
        if report.step == WARM_UP:
            torch.cuda.set_sync_debug_mode("error")  # of copies and questions
            torch.cuda.synchronize = refuse
        if report.step == WARM_UP + 2:
            torch.cuda.set_sync_debug_mode("default")
            print("one wait", report.update.grad_norm)


def main(kind: str) -> None:
    ranks = distributed.start("nccl")
    config = tiny.config(run=Run(name="tiny", length=Length(steps=WARM_UP + 2)))
    if kind == "align":
        model, batch = tiny.alignment(), tiny.batch(0, 8)
        objective = AlignmentObjective(model, config.objective, ranks, 42, dec_id=tiny.DEC)
    else:
        model, batch = language(kind)
        objective = GenerationObjective(model)
    objective = objective.to(ranks.device)
    engine, steps, plan = DeepSpeedEngine(objective, config, 1, ranks), Steps(batch), Plan.of(config, 64, ranks.world)
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(Path(folder), ranks, None)
        Trainer(config, plan, RunState(), engine, objective, steps, steps, ranks, watch).fit([Strict()])


if __name__ == "__main__":
    main(sys.argv[1])
