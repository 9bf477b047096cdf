"""The run itself: length, objective, optimizer, engine, checkpoints, logs, evaluation. `Config` is the whole YAML."""

from dataclasses import dataclass, field
from typing import Literal

from vglm_train.config.data import Data
from vglm_train.config.language import Decoding, Prompt
from vglm_train.config.model import Model
from vglm_train.config.tuning import Tuning
from vglm_train.config.validation import FieldError, below_one, not_empty, not_negative, positive

StageName = Literal["align", "generate", "finetune"]
Task = Literal["caption", "vqa", "report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """A duration: exactly one of the three is given. Counted in samples inside."""

    epochs: float | None = None
    steps: int | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("epochs", "steps", "samples") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            reason = f"give exactly one of epochs, steps, samples; found {found}"
            raise FieldError(*(given or ["epochs"]), reason=f"{reason}. To replace one: run.length={{steps: 1000}}")
        not_negative(self, "epochs", "steps", "samples")

    def samples_of(self, epoch_samples: int, global_batch: int) -> int:
        """This length in samples, not rounded to steps. `epoch_samples`: samples of one epoch over all sources."""
        if self.steps is not None:
            return self.steps * global_batch
        return self.samples if self.samples is not None else round((self.epochs or 0) * epoch_samples)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    name: str
    folder: str | None = None  # none: runs/NAME
    stage: StageName = "align"  # Q-Former alone; before a frozen language model; a domain
    seed: int = 42
    length: Length = field(default_factory=lambda: Length(epochs=10))

    def __post_init__(self) -> None:
        not_empty(self, "name", "folder")
        if "/" in self.name or self.name in (".", ".."):
            reason = f"{self.name!r} cannot name a folder below runs/; use a plain name, and run.folder for the place"
            raise FieldError("name", reason=reason)
        if not 0 <= self.seed < 2**63:
            raise FieldError("seed", reason=f"must be from 0 to 2**63 - 1, found {self.seed}")
        if not (self.length.epochs or self.length.steps or self.length.samples):
            raise FieldError("length", reason="must be above 0: a run of no steps trains nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrastive:
    weight: float = 1.0
    smoothing: float = 0.1
    gather: Literal["exact", "lavis"] = "exact"  # lavis: no gradient through other ranks' features

    def __post_init__(self) -> None:
        not_negative(self, "weight")
        below_one(self, "smoothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioning:
    weight: float = 1.0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        not_negative(self, "weight")
        below_one(self, "smoothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    itc: Contrastive = field(default_factory=Contrastive)
    itm: Matching = field(default_factory=Matching)
    itg: Captioning = field(default_factory=Captioning)
    mean: Literal["global", "micro"] = "global"  # micro: each rank's micro-batch counts the same, as LAVIS

    def __post_init__(self) -> None:
        if self.itc.weight == self.itm.weight == self.itg.weight == 0:
            names = ("itc.weight", "itm.weight", "itg.weight")
            raise FieldError(*names, reason="all loss weights are 0: nothing would be learned; give one above 0")


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

    def __post_init__(self) -> None:
        positive(self, "lr", "eps")
        not_negative(self, "min_lr", "warmup_lr", "weight_decay")
        for name in ("min_lr", "warmup_lr"):
            if getattr(self, name) > self.lr:
                raise FieldError(name, "lr", reason=f"{getattr(self, name)} is above the peak, lr {self.lr}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise FieldError("betas", reason=f"each must be at least 0 and below 1, found {list(self.betas)}")
        if self.clip is not None and self.clip <= 0:
            raise FieldError("clip", reason=f"must be above 0, or null for no clipping; found {self.clip}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    zero: int = 1  # 1 or 2
    micro_batch: int | None = None  # rows a rank runs at once; none: its whole share of the global batch
    precision: Literal["bf16", "fp32"] = "bf16"
    recompute: bool = False  # recompute Q-Former activations in backward
    compile: bool = False  # torch.compile of the Q-Former's blocks: 3 % faster, with stored features and graphs 10
    graphs: bool = False  # align, on a GPU: the Q-Former's passes as CUDA graphs; pays where the host is what is slow
    backend: Literal["auto", "nccl", "gloo"] = "auto"  # auto: nccl where there are GPUs
    max_skipped: int = 20  # not-finite steps in a row before the run stops

    def __post_init__(self) -> None:
        if self.zero not in (1, 2):
            reasons = {
                0: "stage 0 reports no gradient norm and its bf16 weights lag one Adam step behind",
                3: "stage 3 splits the weights, which is unproven with several Q-Former passes in one step",
            }
            why = reasons.get(self.zero, "there is no such stage")
            raise FieldError("zero", reason=f"must be 1 or 2, found {self.zero}: {why}")
        positive(self, "micro_batch", "max_skipped")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    every: int = 1000  # steps
    keep: int = 2
    best: str | None = None  # a metric such as eval/r_mean; its best step is kept as well

    def __post_init__(self) -> None:
        positive(self, "every", "keep")
        not_empty(self, "best")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wandb:
    mode: Literal["online", "offline", "disabled"] = "disabled"
    project: str = "vglm_train"
    entity: str | None = None

    def __post_init__(self) -> None:
        not_empty(self, "project", "entity")


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    every: int = 10  # steps
    wandb: Wandb = field(default_factory=Wandb)
    samples: bool = False  # samples-RANK.jsonl in the run folder: which samples each step read

    def __post_init__(self) -> None:
        positive(self, "every")


RerankScore = Literal["match", "log_odds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    every: int | None = None  # steps; none: only at the end
    images: int = 1000  # validation images at most, spread over sources and languages
    rerank: int = 16  # align: candidates re-scored by ITM; 0: ITC only
    rerank_score: RerankScore = "match"  # ITM's logit of match, as LAVIS; log_odds: less that of no match. Both + ITC
    decoding: Decoding = field(default_factory=Decoding)  # generate: how captions are written
    table: int = 16  # validation images shown in the W&B table
    task: Task = "caption"  # finetune: what is asked of validation images
    patience: int | None = None  # evaluations without a better checkpoint.best before the run ends; none: to the end

    def __post_init__(self) -> None:
        positive(self, "every", "images", "patience")
        not_negative(self, "rerank", "table")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    run: Run
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    prompt: Prompt = field(default_factory=Prompt)  # stages generate and finetune
    tuning: Tuning = field(default_factory=Tuning)  # stage finetune only
    objective: Objective = field(default_factory=Objective)
    optim: Optim = field(default_factory=Optim)
    engine: Engine = field(default_factory=Engine)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    log: Log = field(default_factory=Log)
    evaluate: Evaluate = field(default_factory=Evaluate)
