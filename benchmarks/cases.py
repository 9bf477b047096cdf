"""What `vglm benchmark` can run: each case is one process of a module of this folder."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

TRAINING = ("deepspeed", "sat")
CONTEXT = 1.5  # GiB beside torch's tensors: CUDA's context, libraries, what the allocator cannot use


@dataclass(frozen=True, slots=True)
class Case:
    """`words` follow `python -m benchmarks.`; `{bundle}`, `{photos}`, `{table}` and `{work}` stand for options."""

    name: str
    what: str
    words: str
    tiny: str | None  # the words at toy shapes on the CPU; None: it has none
    gib: float  # of GPU memory that torch's tensors take at most; 0: it needs no GPU
    seconds: int  # about, on an H100
    disk: float = 0.0  # GiB in the folder of --work
    ram: float = 6.0  # GiB that the machine has to have, at full size
    packages: tuple[str, ...] = ()  # modules that not every installation has

    def refusal(
        self, free: float | None, places: Mapping[str, Path | None], tiny: bool, ram: float | None = None
    ) -> str | None:
        """Why it cannot run here, in a sentence; None if it can.

        free: GiB of the GPU's memory, None without one. ram: GiB of the machine, None where that is not known.
        """
        words = self.tiny if tiny else self.words
        if words is None:
            return "left out: it has no small size, and this run is of tiny shapes"
        for name, place in places.items():
            if f"{{{name}}}" in words and place is None:
                return f"left out: give --{name}, which it needs"
        if absent := [name for name in self.packages if find_spec(name) is None]:
            return f'left out: it needs {", ".join(absent)} (pip install "vglm_train[train,chat]")'
        if tiny:
            return None
        if self.gib and (free or 0.0) < self.gib + CONTEXT:
            return f"left out: it needs {self.gib + CONTEXT:.0f} GiB of GPU memory, and {free or 0:.1f} GiB are free"
        if ram is not None and ram < self.ram:
            return f"left out: it needs {self.ram:.0f} GiB of RAM, and this machine has {ram:.0f} GiB"
        work = places.get("work")
        if self.disk and work and (space := shutil.disk_usage(work).free / 2**30) < self.disk:
            return f"left out: it needs {self.disk:.0f} GiB of disk in --work, and {space:.0f} GiB are free"
        return None


def _of(
    group: str, parts: Mapping[str, tuple[str, float, int]], words: str, tiny: str, packages: tuple[str, ...]
) -> list[Case]:
    """Cases of one module; `*` in the words is the part's name."""
    return [
        Case(
            f"{group}/{part}", what, words.replace("*", part), tiny.replace("*", part), gib, seconds, packages=packages
        )
        for part, (what, gib, seconds) in parts.items()
    ]


STAGE_TWO = {
    "chatglm-bf16": ("stage two before ChatGLM-6B's shape in bf16, 64 rows of 96 places", 33.0, 35),
    "chatglm-fp16": ("the same in fp16, also with engine.recompute", 34.5, 45),
    "opt-fp16": ("stage two before OPT-2.7B's shape, 128 rows of 64 places", 26.0, 35),
    "t5-bf16": ("stage two before Flan-T5-XL's shape, 128 rows of 48 places and 16 of answer", 36.0, 35),
}
FINETUNE = {
    "lora": ("LoRA on ChatGLM-6B's shape, 16 rows of 320 places, also with engine.recompute", 31.0, 35),
    "lora-4": ("the same with 4 rows", 19.5, 30),
    "qlora-4": ("QLoRA, 4 rows of 320 places, engine.recompute", 16.0, 35),
    "prefix-4": ("P-tuning, 4 rows of 320 places, also with engine.recompute", 20.0, 30),
    "qformer-lora-4": ("Q-Former and LoRA, 4 rows of 320 places, also with engine.recompute", 21.0, 30),
}
ENCODERS = {
    "vit-g": ("ViT-g/14 at 224 pixels alone and within stage one, 64 pairs: what the next two are beside", 14.0, 40),
    "rad-dino": ("RAD-DINO's shape at 518 pixels, 1,370 tokens: the same", 14.0, 40),
    "siglip2-so400m": ("SigLIP 2 so400m's shape at 384 pixels, 729 tokens: the same", 14.0, 40),
}
FEATURES = {
    "align": ("stage one with stored features and with the encoder, 100 pairs", 17.5, 120),
    "generate": ("stage two before OPT-2.7B's shape with stored features and with the encoder", 26.0, 60),
}
CHAT = {
    "fp16": ("answers of VisualGLM-6B's shape in fp16: 1, 8 and 32 at once", 18.5, 45),
    "int8": ("the same in int8", 13.0, 45),
    "int4": ("the same in int4", 11.0, 45),
}
LONGEST = "configs/finetune/xray_vqa_{}.yaml as it stands, longest rows"
RECIPES = {
    f"xray_vqa_{name}": (LONGEST.format(name), gib, 30)
    for name, gib in (("chatglm_lora", 16.5), ("chatglm_qlora", 16.0), ("chatglm_ptuning", 16.5), ("opt", 11.0),
                      ("flan_t5", 13.0))
}  # fmt: skip
CASES = {
    case.name: case
    for case in (
        Case("stage1/plain", "stage one, ViT-g, batch 100: the engine, and a bare loop", "stage1 --compile no",
             "stage1 --compile no --tiny --cpu --batch 4 --steps 3", 17.0, 45, packages=("deepspeed",)),
        Case("stage1/compiled", "the same with engine.compile", "stage1 --compile yes",
             "stage1 --compile yes --tiny --cpu --batch 4 --steps 3", 17.5, 90, packages=("deepspeed",)),
        *_of("stage2", STAGE_TWO, "stage2 --single * --no-bare",
             "stage2 --single * --no-bare --tiny --cpu --batch 4 --steps 3", TRAINING),
        Case("stage2/chatglm-32", "stage two before ChatGLM-6B's shape in bf16, 32 rows of 96 places",
             "stage2 --single chatglm-bf16 --no-bare --batch 32",
             "stage2 --single chatglm-bf16 --no-bare --tiny --cpu --batch 2 --steps 3", 25.5, 30, packages=TRAINING),
        Case("divided/plain", "stage two before LLaMA-13B's shape in bf16, 16 rows of 96 places, all of it on the card",
             "divided", "divided --tiny --cpu --rows 4", 50.0, 60, packages=("deepspeed",)),
        Case("divided/offload", "the same with engine.offload: the frozen blocks in the machine's memory",
             "divided --offload", "divided --offload --tiny --cpu --rows 4", 24.0, 120, ram=40.0,
             packages=("deepspeed",)),
        *_of("finetune", FINETUNE, "finetune --single *", "finetune --single * --tiny --cpu --steps 2", TRAINING),
        Case("finetune/lora-table", "LoRA on the lengths of a table's items (--table)",
             "finetune --single lora-table --table {table}",
             "finetune --single lora-table --table {table} --tiny --cpu", 29.0, 90, packages=TRAINING),
        Case("vision", "the frozen ViT-g/14 alone, 100 pictures, plain and fused", "vision",
             "vision --tiny --cpu --batch 8 --times 2", 9.0, 30),
        *_of("encoders", ENCODERS, "encoders --single *",
             "encoders --single * --tiny --cpu --batch 4 --steps 2", ("deepspeed",)),
        *_of("features", FEATURES, "features --stage * --compile",
             "features --stage * --tiny --batch 4 --steps 3 --workers 1", (*TRAINING, "webdataset")),
        *_of("chat", CHAT, "chat --single *", "chat --single * --tiny --cpu --steps 2", ("sat",)),
        *_of("recipes", RECIPES, "recipes --single *", "recipes --single * --tiny --steps 1", TRAINING),
        Case("stream/decode", "the loader's photos a second of one core, beside plain webdataset and PIL (--photos)",
             "stream decode --photos {photos}", "stream decode --photos {photos} --number 8 --rounds 1", 0.0, 90,
             packages=("webdataset", "psutil")),
        Case("stream/start", "the loader's start and memory with 10,000 shards (--photos)",
             "stream start --photos {photos}", "stream start --photos {photos} --shards 12 --batches 2", 0.0, 120,
             packages=("webdataset", "psutil")),
        Case("pairs", "330 million pairs in 33,000 shards: start, memory, resumes, shares", "pairs",
             "pairs --shards 110 --samples 60 --draws 4000 --resumes 2 --workers 1", 0.0, 300,
             packages=("webdataset", "psutil")),
        Case("serve_load", "many clients of `vglm serve` with a bundle (--bundle)", "serve_load {bundle}",
             "serve_load {bundle} --clients 4 --alone 2 --seconds 1 --tokens 8", 1.0, 200,
             packages=("httpx", "psutil", "fastapi")),
        Case("convert", "conversions of VisualGLM-6B's size, hub to bundle to SAT (--work)", "convert --work {work}",
             None, 0.0, 200, disk=47.0, ram=8.0),
    )
}  # fmt: skip
"""By name. Those of a group share what stands before the slash."""


def choose(names: list[str]) -> list[Case]:
    """Cases by name or group, in the order of `CASES`; all for no name. KeyError for a name that is none."""
    for name in names:
        if not any(_is_of(case, name) for case in CASES):
            raise KeyError(name)
    return [case for case in CASES.values() if not names or any(_is_of(case.name, name) for name in names)]


def _is_of(case: str, name: str) -> bool:
    return name in (case, case.partition("/")[0])
