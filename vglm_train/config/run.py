"""The run itself: length, objective, optimizer, engine, checkpoints, logs, evaluation. `Config` is the whole YAML."""

from dataclasses import dataclass, field
from typing import Literal

from vglm_train.config.data import Data
from vglm_train.config.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """A duration: exactly one of the three is given. Counted in samples inside."""

    epochs: float | None = None
    steps: int | None = None
    samples: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    name: str
    folder: str | None = None  # none: runs/NAME
    stage: Literal["align"] = "align"
    seed: int = 42
    length: Length = field(default_factory=lambda: Length(epochs=10))


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrastive:
    weight: float = 1.0
    smoothing: float = 0.1
    gather: Literal["exact", "lavis"] = "exact"  # lavis: no gradient through other ranks' features


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioning:
    weight: float = 1.0
    smoothing: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    itc: Contrastive = field(default_factory=Contrastive)
    itm: Matching = field(default_factory=Matching)
    itg: Captioning = field(default_factory=Captioning)
    mean: Literal["global", "micro"] = "global"  # micro: each rank's micro-batch counts the same, as LAVIS


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    """AdamW; linear warm-up from `warmup_lr` to `lr`, then decay to `min_lr`, counted in samples."""

    lr: float = 1e-4
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup: Length = field(default_factory=lambda: Length(steps=2000))
    decay: Literal["cosine", "cosine_per_epoch", "constant"] = "cosine"  # cosine_per_epoch: LAVIS's staircase
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.05
    decay_rule: Literal["matrices", "lavis"] = "matrices"  # lavis: temperature and queries are decayed too
    clip: float | None = 1.0  # largest gradient norm; none: no clipping


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    zero: int = 1  # 1 or 2
    micro_batch: int | None = None  # rows a rank runs at once; none: its whole share of the global batch
    precision: Literal["bf16", "fp32"] = "bf16"
    recompute: bool = False  # recompute Q-Former activations in backward
    compile: bool = False  # torch.compile of the frozen encoder and the Q-Former
    backend: Literal["auto", "nccl", "gloo"] = "auto"  # auto: nccl where there are GPUs
    max_skipped: int = 20  # not-finite steps in a row before the run stops


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    every: int = 1000  # steps
    keep: int = 2
    best: str | None = None  # a metric such as eval/r_mean; its best step is kept as well


@dataclass(frozen=True, kw_only=True, slots=True)
class Wandb:
    mode: Literal["online", "offline", "disabled"] = "disabled"
    project: str = "vglm_train"
    entity: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    every: int = 10  # steps
    wandb: Wandb = field(default_factory=Wandb)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    every: int | None = None  # steps; none: only at the end
    images: int = 1000  # validation images at most, in shard order
    rerank: int = 16  # candidates re-scored by ITM; 0: ITC only
    table: int = 16  # validation images shown in the W&B table


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    run: Run
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    objective: Objective = field(default_factory=Objective)
    optim: Optim = field(default_factory=Optim)
    engine: Engine = field(default_factory=Engine)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)
    evaluate: Evaluate = field(default_factory=Evaluate)
