"""A step on a GPU, which must not wait for the device: `python step_on_gpu.py align|chatglm|opt|llama|t5`."""

import os
import sys
import tempfile
from dataclasses import replace

os.environ["DS_ACCELERATOR"] = "cuda"

import tiny
import tiny_language
import torch
from transformers import LlamaConfig, OPTConfig, T5Config

from vglm_train import distributed
from vglm_train.batch import PromptBatch, target_places
from vglm_train.config.language import Language
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine, Update
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.objective.alignment import AlignmentObjective
from vglm_train.objective.generation import GenerationObjective

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


def main(kind: str) -> None:
    ranks, config = distributed.start("nccl"), tiny.config()
    if kind == "align":
        model, batch = tiny.alignment(), tiny.batch(0, 8)
        objective = AlignmentObjective(model, config.objective, ranks, 42, dec_id=tiny.DEC)
    else:
        model, batch = language(kind)
        objective = GenerationObjective(model)
    objective = objective.to(ranks.device).train()
    engine, batch = DeepSpeedEngine(objective, config, 1, ranks), batch.to(ranks.device)

    def step() -> Update:
        scale = {name: 1 / count for name, count in objective.units(batch).items()}
        return engine.step([batch], lambda: [scale], 1e-3)[1]

    for _ in range(4):  # DeepSpeed's timer begins with the third
        step()
    torch.cuda.set_sync_debug_mode("error")  # of copies and questions
    torch.cuda.synchronize = refuse
    update = step()
    torch.cuda.set_sync_debug_mode("default")
    assert update.applied
    assert update.grad_norm > 0
    print("one wait", update.grad_norm)


if __name__ == "__main__":
    main(sys.argv[1])
