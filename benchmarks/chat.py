"""Speed and memory of answering, by format of the language model: `python -m benchmarks.chat`.

VisualGLM-6B's shape (EVA ViT-g/14, Q-Former with 32 queries, ChatGLM-6B) with random weights, greedy. Each form has a
process of its own, and a last one runs SAT's own `filling_sequence` on the same shape and card.

    1, 8, 32    conversations that are decoded together, prompts of 64 tokens: a step, tokens/s of all, and how much
                longer a step takes than reading its weights at the rate of a large copy in the same process
    GiB         after building, at most while building, and at most while decoding; of torch's allocator, without the
                CUDA context (about 0.5 GiB)
    2048        one picture and a conversation of 2,000 tokens of prompt and 48 of answer: what a card must hold

With --check the kernels' products are compared with float64 products of the weights that the layers hold.
"""

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.rates import copy_rate, wait
from benchmarks.record import record
from benchmarks.stage2_cases import ROOT, VISUALGLM, Case, configure
from vglm_train.batch import PromptBatch
from vglm_train.chat.memory import need
from vglm_train.model.language.linears import form_of, linears
from vglm_train.model.language.packed import frozen_bytes
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language

FORMATS = {
    "fp16": ("fp16", None),
    "int8": ("fp16", "int8"),
    "int4": ("fp16", "int4"),
    "bf16": ("bf16", None),
    "int8-bf16": ("bf16", "int8"),
    "int4-bf16": ("bf16", "int4"),
}
ROWS = (1, 8, 32)
PROMPT, WARM, STEPS = 64, 16, 100
LONG, ANSWER = 2000, 48
GIB = 2**30


def build(name: str, device: torch.device, tiny: bool) -> VisualLanguageModel:
    """The whole model with random weights in a format."""
    dtype, quantize = FORMATS[name]
    with tempfile.TemporaryDirectory() as folder:
        config = configure(Case(VISUALGLM, dtype, 1, 16, 48, False, ""), None, tiny, Path(folder))
    with device:
        model = build_visual_language(config.model, (0.5,) * 3, (0.5,) * 3, None, None, quantize)  # type: ignore[arg-type]
    return model.to(device).eval()


def prompts(model: VisualLanguageModel, rows: int, length: int, device: torch.device) -> PromptBatch:
    """Random ids, <sop> at the end."""
    language: Any = model.language
    ids = torch.randint(10, language.vocabulary - 10, (rows, length), device=device)
    ids[:, -1] = language.sop_id
    mask = torch.ones_like(ids, dtype=torch.bool)
    none = torch.empty(0, 3, 1, 1, dtype=torch.uint8, device=device)
    fields = {"input_ids": ids, "attention_mask": mask, "visual_mask": ~mask, "labels": ids}
    return PromptBatch(pixels=none, valid=mask[:, 0], **fields)


@torch.no_grad()
def decode(model: VisualLanguageModel, batch: PromptBatch, steps: int) -> tuple[float, float]:
    """Seconds until the first logits, and of each step."""
    language, device = model.language, batch.input_ids.device
    wait(device)
    begin = time.perf_counter()
    decoder = language.decoder(language.embed(batch.input_ids), batch, WARM + steps)
    logits = decoder.start()
    wait(device)
    first = time.perf_counter() - begin
    for number in range(WARM + steps):
        if number == WARM:
            wait(device)
            begin = time.perf_counter()
        logits = decoder.step(logits.argmax(-1))
    wait(device)
    return first, (time.perf_counter() - begin) / steps


def run_format(name: str, arguments: argparse.Namespace) -> None:
    """Every measurement of one format."""
    device = torch.device("cpu" if arguments.cpu else "cuda")
    rate = copy_rate(device, arguments.tiny)
    reset_peak(device)
    begin = time.perf_counter()
    model = build(name, device, arguments.tiny)
    wait(device)
    seconds, (held, peak) = time.perf_counter() - begin, memory(device)
    language: Any = model.language
    read = frozen_bytes(language) - frozen_bytes(language.network.transformer.word_embeddings)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"\n{name}: {card}, torch {torch.__version__}, copies {rate / 1e12:.2f} TB/s (read and written)")
    print(
        f"built in {seconds:.0f} s: {held:.2f} GiB, at most {peak:.2f} meanwhile; language model "
        f"{frozen_bytes(language) / GIB:.2f} GiB, of which a step reads {read / GIB:.2f}: floor "
        f"{1e3 * read / rate:.2f} ms"
    )
    weights = {"weights_gib": held, "loading_gib": peak, "language_gib": frozen_bytes(language) / GIB}
    record("weights", "torch's allocator", values=weights)
    if arguments.check and FORMATS[name][1]:
        check(model)
    for rows in ROWS:
        reset_peak(device)
        decode(model, batch := prompts(model, rows, PROMPT, device), 2)  # compiles, records
        first, step = decode(model, batch, arguments.steps)
        print(
            f"{rows:3} conversations: first {1e3 * first:6.1f} ms, then {1e3 * step:6.2f} ms a step, "
            f"{rows / step:7.0f} tokens/s, {step * rate / read:5.2f} x floor, at most {memory(device)[1]:.2f} GiB",
            flush=True,
        )
        record(
            f"{rows} at once", f"mean of {arguments.steps} steps after {WARM}", ms=1e3 * step,
            peak_gib=memory(device)[1], floor_ms=1e3 * read / rate,
            values={"tokens_per_s": rows / step, "first_ms": 1e3 * first},
        )  # fmt: skip
        language.slots._free.clear()
    longest(model, device, arguments.tiny)


@torch.no_grad()
def longest(model: VisualLanguageModel, device: torch.device, tiny: bool) -> None:
    """Peak of a picture and one conversation of 2,048 tokens."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    reset_peak(device)
    side, batch = 28 if tiny else 224, prompts(model, 1, 100 if tiny else LONG, device)
    batch = replace(batch, pixels=torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, device=device))
    model.visual_tokens(model.image_features(batch))
    first, step = decode(model, batch, ANSWER - WARM)
    counted = need(model, form_of(model.language), LONG + ANSWER)  # type: ignore[arg-type]
    reserved = torch.cuda.max_memory_reserved() / GIB if device.type == "cuda" else 0.0
    print(
        f"2048 tokens: first {1e3 * first:.0f} ms, then {1e3 * step:.2f} ms a step; at most "
        f"{memory(device)[1]:.2f} GiB used, {reserved:.2f} held; `auto` counts with {counted / GIB:.2f}",
        flush=True,
    )
    values = {"first_ms": 1e3 * first, "reserved_gib": reserved, "auto_gib": counted / GIB}
    record("2048 tokens", "one conversation", ms=1e3 * step, peak_gib=memory(device)[1], values=values)


def check(model: VisualLanguageModel) -> None:
    """Largest error of products, relative to the largest output, for each kind of layer and number of rows."""
    for linear in list(linears(model.language))[:4]:
        layer = linear.module
        twin = type(layer)(layer.inputs, layer.outputs, None, torch.float32)
        twin.codes, twin.scales, weight = layer.codes, layer.scales, None
        weight = twin.full().double()
        errors = []
        for rows in (1, 3, 8, 17, 32, 64, 65):
            x = torch.randn(rows, layer.inputs, device=weight.device, dtype=layer.dtype)
            exact = x.double() @ weight.T + (0 if layer.bias is None else layer.bias.double())
            errors.append(float((layer(x).double() - exact).abs().max() / exact.abs().max()))
        print(f"  {linear.last}: errors {' '.join(f'{error:.1e}' for error in errors)} at 1, 3, 8, 17, 32, 64, 65 rows")


def run_sat(arguments: argparse.Namespace) -> None:
    """SAT's model and `filling_sequence`, one conversation, top-k of one."""
    from sat.generation.autoregressive_sampling import filling_sequence
    from sat.generation.sampling_strategies import BaseStrategy
    from sat.model.cached_autoregressive_model import CachedAutoregressiveMixin
    from sat.model.official.chatglm_model import ChatGLMModel

    import vglm_train.model.language.glm.sat  # noqa: F401  (imports SAT without DeepSpeed)

    device = torch.device("cuda")
    shape = (2, 64, 2, 128, 400) if arguments.tiny else (28, 4096, 32, 16384, 130528)
    layers, width, heads, inner, vocabulary = shape
    options = argparse.Namespace(
        num_layers=layers, hidden_size=width, num_attention_heads=heads, inner_hidden_size=inner,
        vocab_size=vocabulary, max_sequence_length=2048, layernorm_order="post", model_parallel_size=1, skip_init=True,
        use_gpu_initialization=True, bos_token_id=1, mask_token_id=2, gmask_token_id=3, pad_token_id=0,
    )  # fmt: skip
    model: Any = ChatGLMModel(options, params_dtype=torch.float16)
    model.add_mixin("auto-regressive", CachedAutoregressiveMixin())
    model = model.half().to(device).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)

    def positions(seq: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mask = torch.ones(1, 1, len(seq), len(seq), device=device).tril_()
        mask[..., :PROMPT] = 1
        index = torch.arange(len(seq), device=device)
        both = torch.stack((index.clamp(max=PROMPT - 2), (index - PROMPT + 2).clamp(min=0)))
        return seq[None], mask, both[None]

    for steps in (WARM, arguments.steps + WARM):
        seq = torch.full((PROMPT + steps,), -1, device=device)
        seq[:PROMPT] = torch.randint(10, vocabulary - 10, (PROMPT,), device=device)
        wait(device)
        begin = time.perf_counter()
        strategy = BaseStrategy(temperature=0.95, top_k=30, top_p=0.7, repetition_penalty=1.2)
        with torch.no_grad():
            filling_sequence(model, seq, 1, strategy=strategy, get_masks_and_position_ids=positions)
        wait(device)
        seconds = (time.perf_counter() - begin) / steps
    print(
        f"\nSAT's filling_sequence, fp16, VisualGLM's sampling: {1e3 * seconds:.1f} ms a token, "
        f"{1 / seconds:.1f} tokens/s"
    )
    record("filling_sequence", f"mean of {steps} tokens", ms=1e3 * seconds, values={"tokens_per_s": 1 / seconds})


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> tuple[float, float]:
    """GiB that torch's tensors have now, and had at most."""
    if device.type != "cuda":
        return 0.0, 0.0
    return torch.cuda.memory_allocated(device) / GIB, torch.cuda.max_memory_allocated(device) / GIB


def main(argv: Sequence[str]) -> int:
    """Run the chosen formats, each in a process of its own; returns 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", choices=[*FORMATS, "sat"], default=["fp16", "int8", "int4", "sat"])
    parser.add_argument("--steps", type=int, default=STEPS, help="steps measured")
    parser.add_argument("--check", action="store_true", help="compare products with float64")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, to try the script")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--single", choices=[*FORMATS, "sat"], help=argparse.SUPPRESS)  # in this process
    arguments = parser.parse_args(argv)
    if arguments.single:
        run_sat(arguments) if arguments.single == "sat" else run_format(arguments.single, arguments)
        return 0
    failed = []
    for name in arguments.only:
        command = [sys.executable, "-m", "benchmarks.chat", *argv, "--single", name]
        if subprocess.run(command, check=False, cwd=ROOT).returncode:
            failed.append(name)
            print(f"{name}: failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
