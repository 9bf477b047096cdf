"""What `benchmarks.divided` measures: a stage two before LLaMA-13B's shape, built as a run does it, but fast."""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.rates import wait
from benchmarks.stage2_cases import LAVIS, ROOT, TINY, Case
from vglm_train import stages
from vglm_train.config.check import moves_blocks
from vglm_train.config.load import load
from vglm_train.config.run import Config
from vglm_train.distributed import Ranks
from vglm_train.model.frozen_blocks import FrozenBlocks, move_blocks
from vglm_train.model.visual_language import VisualLanguageModel

DEVIATION = 0.02
CASE = Case(LAVIS, "bf16", rows=16, prompt=16, answer=48, recompute=False, others="")
LLAMA_13B = {
    "model_type": "llama", "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
    "num_attention_heads": 40, "num_key_value_heads": 40, "vocab_size": 32000, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "vocab_size": 200}  # fmt: skip


class Clock:
    """Seconds of each part of the start."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.last, self.parts = device, time.perf_counter(), dict[str, float]()

    def reached(self, part: str) -> None:
        wait(self.device)
        now = time.perf_counter()
        self.parts[part], self.last = now - self.last, now

    def line(self) -> str:
        return ", ".join(f"{part} {seconds:.1f} s" for part, seconds in self.parts.items())


def configure(arguments: argparse.Namespace, folder: Path) -> Config:
    """The preset with the shape of the language model that `folder` gets."""
    shape = LLAMA_13B | (SMALL if arguments.tiny else {})
    shape |= {"num_hidden_layers": arguments.layers} if arguments.layers else {}
    (folder / "config.json").write_text(json.dumps(shape), "utf-8")
    overrides = [
        *CASE.overrides(), f"data.global_batch={arguments.rows}", f"model.language.config={folder}",
        "model.qformer.dropout=0", f"engine.zero={arguments.zero}",
        f"engine.offload={'cpu' if arguments.offload else 'none'}", f"engine.recompute={arguments.recompute}",
    ]  # fmt: skip
    return load(ROOT / CASE.preset, [*overrides, *(TINY if arguments.tiny else [])])


def built_model(config: Config, home: torch.device, ranks: Ranks) -> VisualLanguageModel:
    """The stage's model in the memory of `home`."""
    with torch.device("meta"):
        model = stages.build(config).model()
    assert isinstance(model, VisualLanguageModel)
    image = config.data.image
    for name, values in (("mean", image.mean), ("std", image.std)):
        setattr(model, name, torch.tensor(values, device=home)[:, None, None])
    for child in model.children():
        if child is not model.language:
            assert not any(True for _ in child.buffers()), "a table that would have to be computed again"
            child.to_empty(device=home)
    model.language.materialise(home)
    fill(model, ranks.device)
    return model


@torch.no_grad()
def fill(model: nn.Module, device: torch.device) -> None:
    """Random weights, drawn on `device` in bf16: a CPU would take minutes. Norms scale by 1, and biases are 0."""
    generator = torch.Generator(device).manual_seed(0)
    norms = {id(module.weight) for module in model.modules() if "norm" in type(module).__name__.lower()}
    for name, parameter in model.named_parameters():
        parameter.fill_(id(parameter) in norms)  # by all threads: one alone is slow to get new pages of memory
        if id(parameter) not in norms and not name.endswith("bias"):
            drawn = torch.randn(parameter.shape, dtype=torch.bfloat16, device=device, generator=generator)
            parameter.copy_(drawn.mul_(DEVIATION))


def build(config: Config, ranks: Ranks, clock: Clock) -> tuple[VisualLanguageModel, FrozenBlocks | None]:
    """As a run does it: what moves is first in the machine's memory, since a card may be too small for the whole."""
    moved = moves_blocks(config, ranks.world)
    model = built_model(config, torch.device("cpu") if moved else ranks.device, ranks)
    clock.reached("building")
    frozen = move_blocks(model, config, ranks) if moved else None
    model.to(ranks.device)
    model.recompute(config.engine.recompute)
    if ranks.device.type == "cuda":
        torch.cuda.empty_cache()  # of drawing
    clock.reached("moving")
    return model, frozen
