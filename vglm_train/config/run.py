"""The run itself: length, objective, optimizer, engine, checkpoints, logs, evaluation. `Config` is the whole YAML."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from vglm_train.config.data import Data
from vglm_train.config.language import Decoding, Prompt
from vglm_train.config.model import Model
from vglm_train.config.tuning import Tuning
from vglm_train.config.validation import BELOW_ONE, NOT_EMPTY, NOT_NEGATIVE, POSITIVE, FieldError, Range, check_limits

StageName = Literal["align", "generate", "finetune"]
Task = Literal["caption", "vqa", "report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """A duration: exactly one of the three is given. Counted in samples inside."""

    epochs: Annotated[float | None, "passes over all samples of all sources", NOT_NEGATIVE] = None
    steps: Annotated[int | None, "updates of the weights", NOT_NEGATIVE] = None
    samples: Annotated[int | None, "samples read", NOT_NEGATIVE] = None

    def __post_init__(self) -> None:
        given = [name for name in ("epochs", "steps", "samples") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            reason = f"give exactly one of epochs, steps, samples; found {found}"
            raise FieldError(*(given or ["epochs"]), reason=f"{reason}. To replace one: run.length={{steps: 1000}}")
        check_limits(self)

    def samples_of(self, epoch_samples: int, global_batch: int) -> int:
        """This length in samples, not rounded to steps. `epoch_samples`: samples of one epoch over all sources."""
        if self.steps is not None:
            return self.steps * global_batch
        return self.samples if self.samples is not None else round((self.epochs or 0) * epoch_samples)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Which stage is trained, for how long, and where it is kept."""

    name: Annotated[str, "the run's name, also in W&B", NOT_EMPTY]
    folder: Annotated[str | None, "where the run is kept; null: runs/NAME", NOT_EMPTY] = None
    stage: Annotated[
        StageName,
        "align: the Q-Former alone, stage one; generate: before a frozen language model, stage two; finetune: a domain",
    ] = "align"
    seed: Annotated[int, "what all random choices depend on", Range(least=0, most=2**63 - 1)] = 42
    length: Annotated[Length, "how long it trains"] = field(default_factory=lambda: Length(epochs=10))

    def __post_init__(self) -> None:
        check_limits(self)
        if "/" in self.name or self.name in (".", ".."):
            reason = f"{self.name!r} cannot name a folder below runs/; use a plain name, and run.folder for the place"
            raise FieldError("name", reason=reason)
        if not (self.length.epochs or self.length.steps or self.length.samples):
            raise FieldError("length", reason="must be above 0: a run of no steps trains nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrastive:
    """ITC: which text belongs to which image, among `batch` pairs."""

    weight: Annotated[float, "share of the loss; 0: not computed", NOT_NEGATIVE] = 1.0
    batch: Annotated[
        int | None,
        "pairs that ITC compares, and that ITM chooses its negatives from; null: the rows that all ranks run at once",
        Range(least=2),
    ] = None
    smoothing: Annotated[float, "label smoothing", BELOW_ONE] = 0.1
    gather: Annotated[Literal["exact", "lavis"], "lavis: no gradient through other ranks' features"] = "exact"

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matching:
    """ITM: does this text belong to this image, against hard negatives."""

    weight: Annotated[float, "share of the loss; 0: not computed", NOT_NEGATIVE] = 1.0

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioning:
    """ITG: the caption, a token after the other, from the queries."""

    weight: Annotated[float, "share of the loss; 0: not computed", NOT_NEGATIVE] = 1.0
    smoothing: Annotated[float, "label smoothing", BELOW_ONE] = 0.1

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """The losses of stage one, and over what a loss is a mean in every stage."""

    itc: Annotated[Contrastive, "image-text contrast"] = field(default_factory=Contrastive)
    itm: Annotated[Matching, "image-text matching"] = field(default_factory=Matching)
    itg: Annotated[Captioning, "image-grounded text generation"] = field(default_factory=Captioning)
    mean: Annotated[
        Literal["global", "micro"],
        "global: over the whole global batch; micro: each rank's micro-batch counts the same, as LAVIS",
    ] = "global"

    def __post_init__(self) -> None:
        if self.itc.weight == self.itm.weight == self.itg.weight == 0:
            names = ("itc.weight", "itm.weight", "itg.weight")
            raise FieldError(*names, reason="all loss weights are 0: nothing would be learned; give one above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    """AdamW; linear warm-up from `warmup_lr` to `lr`, then decay to `min_lr`, counted in samples."""

    lr: Annotated[float, "peak learning rate", POSITIVE] = 1e-4
    min_lr: Annotated[float, "learning rate at the end of the decay", NOT_NEGATIVE] = 1e-5
    warmup_lr: Annotated[float, "learning rate at the first step", NOT_NEGATIVE] = 1e-6
    warmup: Annotated[Length, "how long the learning rate rises"] = field(default_factory=lambda: Length(steps=2000))
    decay: Annotated[
        Literal["cosine", "cosine_per_epoch", "constant"],
        "after the warm-up; cosine_per_epoch: LAVIS's staircase; constant: none",
    ] = "cosine"
    betas: Annotated[tuple[float, float], "AdamW's decay rates of the two moments", BELOW_ONE] = (0.9, 0.98)
    eps: Annotated[float, "AdamW's term in the denominator", POSITIVE] = 1e-8
    weight_decay: Annotated[float, "decoupled weight decay", NOT_NEGATIVE] = 0.05
    decay_rule: Annotated[
        Literal["matrices", "lavis"], "what is decayed: matrices; lavis: temperature and queries too"
    ] = "matrices"
    clip: Annotated[
        float | None, "largest gradient norm; null: no clipping", Range(above=0, why="null for no clipping")
    ] = 1.0

    def __post_init__(self) -> None:
        check_limits(self)
        for name in ("min_lr", "warmup_lr"):
            if getattr(self, name) > self.lr:
                raise FieldError(name, "lr", reason=f"{getattr(self, name)} is above the peak, lr {self.lr}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """How a step is computed: precision, micro-batches, memory, processes."""

    zero: Annotated[
        int,
        "1 or 2: DeepSpeed's ZeRO stage, the optimizer divided among processes; 3: as 1, and the blocks of the frozen "
        "towers divided too, each fetched while the one before it runs",
        Range(least=1, most=3),
    ] = 1
    offload: Annotated[
        Literal["none", "cpu"],
        "cpu: the blocks of the frozen towers lie in the machine's memory, and each is copied to the GPU while the one "
        "before it runs",
    ] = "none"
    micro_batch: Annotated[
        int | None, "rows a rank runs at once; null: its whole share of the global batch", POSITIVE
    ] = None
    precision: Annotated[Literal["bf16", "fp32"], "of the arithmetic of what trains"] = "bf16"
    recompute: Annotated[bool, "compute Q-Former activations again in backward: less memory, more time"] = False
    compile: Annotated[
        bool, "torch.compile of the Q-Former's blocks, and of those of transformers' language models: 1 to 3 % faster"
    ] = False
    graphs: Annotated[
        bool | None,
        "passes as CUDA graphs, on a GPU. null: of the frozen towers in front of the language model at small batches, "
        "and of the Q-Former in stage align without recompute; true: of a Q-Former that trains in every stage; "
        "false: none",
    ] = None
    backend: Annotated[
        Literal["auto", "nccl", "gloo"], "how processes talk to each other; auto: nccl where there are GPUs"
    ] = "auto"
    stall: Annotated[
        float | None,
        "seconds that a part of a step may take before the ranks that do not arrive are named; after twice as long the "
        "run ends; null: never",
        POSITIVE,
    ] = 600.0
    max_skipped: Annotated[int, "steps that are not finite, in a row, before the run stops", POSITIVE] = 20

    def __post_init__(self) -> None:
        if self.zero not in (1, 2, 3):
            reasons = {0: "stage 0 reports no gradient norm and its bf16 weights lag one Adam step behind"}
            why = reasons.get(self.zero, "there is no such stage")
            raise FieldError("zero", reason=f"must be 1, 2 or 3, found {self.zero}: {why}")
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a run that is stopped goes on from."""

    every: Annotated[int, "steps between two checkpoints", POSITIVE] = 1000
    keep: Annotated[int, "how many of the newest are kept", POSITIVE] = 2
    best: Annotated[str | None, "a metric such as eval/r_mean, whose best step is kept as well", NOT_EMPTY] = None

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wandb:
    """Weights & Biases."""

    mode: Annotated[
        Literal["online", "offline", "disabled"], "offline: into the run's folder, to be synchronised later"
    ] = "disabled"
    project: Annotated[str, "the project's name", NOT_EMPTY] = "vglm_train"
    entity: Annotated[str | None, "user or team; null: the default of the account", NOT_EMPTY] = None
    tags: Annotated[tuple[str, ...], "words to find the run by"] = ()
    notes: Annotated[str | None, "a text about the run", NOT_EMPTY] = None
    group: Annotated[str | None, "runs of one group are shown together, such as the stages of a model", NOT_EMPTY] = (
        None
    )
    job_type: Annotated[str | None, "kind of run within its group; null: the stage", NOT_EMPTY] = None
    bundle: Annotated[
        Literal["reference", "upload"], "the bundle as an artifact: where it lies and its hashes, or the files too"
    ] = "reference"
    patience: Annotated[int, "seconds that the end of a run waits for W&B", POSITIVE] = 600

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Log:
    """What is written while a run goes on."""

    every: Annotated[int, "steps between two rows of metrics.jsonl", POSITIVE] = 10
    wandb: Annotated[Wandb, "Weights & Biases"] = field(default_factory=Wandb)
    tensorboard: Annotated[bool, "write RUN/tensorboard for TensorBoard; needs the extra tensorboard"] = False
    samples: Annotated[bool, "write samples-RANK.jsonl in the run folder: which samples each step read"] = False

    def __post_init__(self) -> None:
        check_limits(self)


RerankScore = Literal["match", "log_odds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """Scores on data.validation or data.holdout, during the run and at its end."""

    every: Annotated[int | None, "steps between two evaluations; null: only at the end", POSITIVE] = None
    images: Annotated[int, "validation images at most, spread over sources and languages", POSITIVE] = 1000
    rerank: Annotated[int, "stage align: candidates that ITM scores again; 0: ITC only", NOT_NEGATIVE] = 16
    rerank_score: Annotated[
        RerankScore,
        "match: ITM's logit of match, as LAVIS; log_odds: less that of no match. Either is added to ITC's score",
    ] = "match"
    decoding: Annotated[Decoding, "stages generate and finetune: how texts are written"] = field(
        default_factory=Decoding
    )
    table: Annotated[int, "validation images shown in the W&B table", NOT_NEGATIVE] = 16
    task: Annotated[Task, "stage finetune: what is asked of validation images"] = "caption"
    allow_training_data: Annotated[
        bool, "evaluate although data.validation has shards of data.train, or nothing that is not in it; else refused"
    ] = False
    patience: Annotated[
        int | None, "evaluations without a better checkpoint.best before the run ends; null: to the end", POSITIVE
    ] = None

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """A run of vglm_train."""

    run: Annotated[Run, "which stage is trained, for how long, and where it is kept"]
    model: Annotated[Model, "what is built"] = field(default_factory=Model)
    data: Annotated[Data, "what is read"] = field(default_factory=Data)
    prompt: Annotated[Prompt, "stages generate and finetune: pictures and texts as one sequence"] = field(
        default_factory=Prompt
    )
    tuning: Annotated[Tuning, "stage finetune only: what trains"] = field(default_factory=Tuning)
    objective: Annotated[Objective, "the losses"] = field(default_factory=Objective)
    optim: Annotated[Optim, "optimizer and learning rate"] = field(default_factory=Optim)
    engine: Annotated[Engine, "how a step is computed"] = field(default_factory=Engine)
    checkpoint: Annotated[Checkpoint, "what a stopped run goes on from"] = field(default_factory=Checkpoint)
    log: Annotated[Log, "what is written while it goes on"] = field(default_factory=Log)
    evaluate: Annotated[Evaluate, "scores on held-out data"] = field(default_factory=Evaluate)
