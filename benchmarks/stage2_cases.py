"""What `benchmarks.stage2` measures: presets at full size with random weights, or toy shapes of them."""

import json
from dataclasses import dataclass
from pathlib import Path

from vglm_train.config.load import load
from vglm_train.config.run import Config

ROOT = Path(__file__).resolve().parents[1]
RANDOM = [f"model.{part}.weights=null" for part in ("vision", "qformer", "language")]
TINY = [
    *(f"model.vision.{shape}" for shape in ("image_size=28", "width=32", "depth=1", "heads=2", "mlp_width=64")),
    *(f"model.qformer.{shape}" for shape in ("layers=2", "width=32", "heads=2", "mlp_width=64", "queries=4")),
]
TINY_CHATGLM = [f"model.language.{shape}" for shape in ("layers=2", "width=32", "heads=2", "mlp_width=64")]
TINY_SHAPES = {
    "opt": {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2},
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2},
}


@dataclass(frozen=True, slots=True)
class Case:
    """A language model, how long its sequences are, and what other code reached on one H200."""

    preset: str
    dtype: str  # of the frozen towers
    rows: int
    prompt: int  # tokens of text before the answer; the image's are added
    answer: int  # tokens of the answer, all of them targets
    recompute: bool  # whether recomputation is measured as well
    others: str

    def overrides(self) -> list[str]:
        towers = [f"model.{tower}.dtype={self.dtype}" for tower in ("vision", "language")]
        return [*RANDOM, *towers, "model.language.tokenizer=nowhere", "optim.clip=1.0"]


VISUALGLM, LAVIS = "configs/pretrain/visualglm_stage2.yaml", "configs/pretrain/lavis_stage2_opt.yaml"
FLAN_T5 = "configs/pretrain/blip2_paper_stage2_flan_t5.yaml"
SAT = "VisualGLM's own code on such a card: 139 images/s in 80 GiB, with recompute 101 in 29"
CASES = {
    "chatglm-fp16": Case(VISUALGLM, "fp16", 64, 16, 48, True, SAT),
    "chatglm-bf16": Case(VISUALGLM, "bf16", 64, 16, 48, False, SAT),
    "opt-fp16": Case(LAVIS, "fp16", 128, 1, 31, False, "LAVIS's own code on such a card: 257 images/s in 35 GiB"),
    "opt-bf16": Case(LAVIS, "bf16", 128, 1, 31, False, "LAVIS's own code on such a card: 257 images/s in 35 GiB"),
    "t5-bf16": Case(FLAN_T5, "bf16", 128, 16, 16, False, "nothing to compare with"),
}
USUAL = ["chatglm-fp16", "chatglm-bf16", "opt-fp16", "t5-bf16"]


def configure(case: Case, batch: int | None, tiny: bool, folder: Path) -> Config:
    """The preset with random weights, of `batch` rows if given; `folder` takes the config.json of a toy shape."""
    overrides = [*case.overrides(), f"data.global_batch={batch or case.rows}"]
    if tiny:
        overrides += TINY
        name = Path(case.preset).stem
        if case.preset == VISUALGLM:
            overrides += [*TINY_CHATGLM, "model.language.vocabulary=200"]
        else:
            kind, source = ("opt", "opt-2.7b") if name.endswith("opt") else ("t5", "flan-t5-xl")
            shape = json.loads((ROOT / "configs/language" / source / "config.json").read_text("utf-8"))
            heads = {"num_attention_heads": 2} if kind == "opt" else {}
            shape |= {**TINY_SHAPES[kind], **heads, "vocab_size": 200}
            (folder / "config.json").write_text(json.dumps(shape), "utf-8")
            overrides.append(f"model.language.config={folder}")
    return load(ROOT / case.preset, overrides)
