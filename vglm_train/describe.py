"""What a run would do: `train.py CONFIG.yaml --check`. It builds the model on the meta device only."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vglm_train import stages
from vglm_train.changes import Changes
from vglm_train.checkpoint.convert.summary import bytes_of
from vglm_train.checkpoint.inputs import named_files
from vglm_train.checkpoint.resume import check_tensors
from vglm_train.checkpoint.run_folder import RunFolder
from vglm_train.config.batch_split import candidates, split
from vglm_train.config.check import check_length, length_window, moves_blocks
from vglm_train.config.load import dump
from vglm_train.config.run import Config
from vglm_train.data.overlap import CLOSER, find_overlap
from vglm_train.data.sampling.mixture import Mixture, build_mixture
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.splits import name_of, open_part, read_manifests, training, validating
from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import BUCKET
from vglm_train.engine.progress import Plan, RunState
from vglm_train.errors import MissingData
from vglm_train.model.frozen_blocks import moved_stacks
from vglm_train.model.language.packed import frozen_bytes, unpacked_bytes
from vglm_train.model.vision.fp8 import copied_bytes
from vglm_train.model.visual import VisualModel
from vglm_train.stages import Stage

TOKENIZERS = ("model.text.tokenizer", "model.language.tokenizer")


def describe(config: Config, world: int, accept_changes: bool = False) -> str:
    """The resolved configuration, then parameters, data, steps and memory. Nothing is written.

    `accept_changes`: as of `run`.

    Where data or tokenizer are not on this machine, it says so and describes the rest. Raises UserError for
    everything that training would refuse.
    """
    folder = RunFolder(config)
    config = folder.settled(config)
    stage = stages.build(config)
    absent, manifests = _absent(config, stage)
    words = [] if any(key in absent for key in TOKENIZERS) else [stage.tokenizer_line()]
    with torch.device("meta"):
        model = stage.model()
        uncompared = _weights(stage, model, absent)
        tuned = stage.tune(model)
    resume = folder.check(config)
    state = RunState.read(resume) if resume else RunState()
    changes = Changes(config, folder, resume, state, accept_changes)
    if resume:
        changes.compare_inputs(stage, manifests, Ranks(), absent)  # first: another vocabulary is no misfit
        changes.compare_settings()
        check_tensors(resume, {f"model.{n}": tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad})
    lines = [
        dump(config).rstrip(),
        "",
        *_parameters(model),
        *_beyond_patches(config),
        *tuned,
        *uncompared,
        *stage.notes(model),
        *words,
        *_data(config, model, world),
        *_validation(config, stage, model, changes if resume else None, bool(words), manifests),
        *_memory(config, stage, model, world),
        f"folder: {folder.path}, {folder.start_words(resume)}",
    ]
    changes.compare_candidates(candidates(config, world))
    return "\n".join([*lines, *(f"changed: {line}" for line in changes.lines), *_not_here(absent)])


def _absent(config: Config, stage: Stage) -> tuple[dict[str, str], list[Manifest]]:
    """Configuration key, of data with the source's name -> which input of the run is not on this machine; and the
    manifests of the training data that is."""
    absent, manifests, data = stage.absent_tokenizers(), [], config.data
    absent |= {key: str(path) for key, path in named_files(config).items() if not path.exists()}
    for key, parts in (("data.train", training(data)), ("data.validation", validating(data))):
        for part in parts:
            try:
                manifest = open_part(part, data.languages, data.cache, count=False)
            except MissingData as error:
                absent[f"{key} {name_of(part)}"] = str(error)
            else:
                manifests += [manifest] if key == "data.train" else []
    return absent, manifests


def _not_here(absent: Mapping[str, str]) -> list[str]:
    """The last line where something could not be looked at."""
    named = "; ".join(f"{key} ({where})" for key, where in absent.items())
    inputs = f"{len(absent)} inputs" if len(absent) > 1 else "1 input"
    return [f"not here: {inputs} that training needs and this check could not look at: {named}"] if absent else []


def _weights(stage: Stage, model: VisualModel, absent: Collection[str]) -> list[str]:
    """Compare names and shapes of all weights with the model, which is on the meta device; no weight is read.

    UserError as `Stage.load`. Where a file is not on this machine, none is compared, which is said.
    """
    if any(key in absent for key in named_files(stage.config)):
        return ["weights: none was compared with the model, since some are not here"]
    stage.load(model)
    return []


def _parameters(model: VisualModel) -> list[str]:
    """Trained and frozen parts with their sizes."""
    lines = []
    for title, trained in (("trained", True), ("frozen", False)):
        parts = {
            name: _count(p for p in part.parameters() if p.requires_grad == trained)
            for name, part in _parts(model).items()
        }
        shown = ", ".join(f"{name} {count:,}" for name, count in parts.items() if count)
        lines.append(f"{title}: {sum(parts.values()):,} parameters ({shown})")
    return lines


def _parts(model: VisualModel) -> dict[str, nn.Module]:
    """Children by name, and the model's own parameters."""
    own = nn.ParameterDict(dict(model.named_parameters(recurse=False)))
    return {**dict(model.named_children()), "own": own}


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _beyond_patches(config: Config) -> list[str]:
    """Where the image encoder was published with a size that is not cut into whole patches."""
    vision = config.model.vision
    if not (rest := vision.image_size % vision.patch):
        return []
    return [f"image encoder: {vision.image_size} pixels are not whole patches of {vision.patch}. It was published so, "
            f"and deals with the {rest} that are left as it did then"]  # fmt: skip


def _features(config: Config, model: VisualModel, samples: int) -> list[str]:
    """The size of stored features, if every sample has another picture."""
    features, vision = config.data.features, model.vision
    if features is None:
        return []
    size = samples * features.views * vision.num_patches * vision.width * vision.dtype.itemsize
    return [
        f"features: up to {bytes_of(size)} of {samples:,} pictures x {features.views} views in {features.folder}, "
        f"whose limit is {features.limit_gib:g} GiB"
    ]


def _data(config: Config, model: VisualModel, world: int) -> list[str]:
    """Samples and steps. Missing data is reported, not refused, so that a recipe can be described anywhere."""
    try:
        manifests = read_manifests(config, count=False)
        mixture = build_mixture(config.data, manifests, config.run.seed)
        samples = sum(manifest.samples for manifest in manifests)
    except MissingData as error:
        lines, mixture, samples = [f"data: not here: {error}"], None, 0
        if config.run.length.epochs is not None or config.optim.warmup.epochs is not None:
            return [*lines, "steps: not known without data, since lengths are in epochs"]
    else:
        check_length(config, samples)
        lines = [f"data: {samples:,} pairs an epoch; captions in {', '.join(config.data.languages)}"]
        lines += _features(config, model, samples)
    plan = Plan.of(config, samples, world)
    epochs = f", {plan.total_samples / samples:.2f} epochs" if samples else ""
    less = f" less {plan.split.empty} empty places" if plan.split.empty else ""
    return [
        *lines,
        f"steps: {plan.steps:,} of {plan.global_batch:,} rows = {world} ranks x {plan.split.micro} x "
        f"{plan.split.accumulation} micro-batches{less}{epochs}; warm-up "
        f"{plan.warmup_samples // plan.global_batch:,} steps",
        *_lengths(config),
        *_mixture(mixture, plan.total_samples),
    ]


def _validation(
    config: Config,
    stage: Stage,
    model: VisualModel,
    changes: Changes | None,
    has_tokenizer: bool,
    training: Sequence[Manifest],
) -> list[str]:
    """Held-out samples, for a run that continues compared with what they were, and with those of `training`. What is
    missing is reported, as `_data` does.

    Local ones are read. UserError where nothing can be scored of them, or not checkpoint.best.
    """
    parts, data = validating(config.data), config.data
    if not parts:
        return []
    try:
        shards = [shard for part in parts for shard in open_part(part, data.languages, data.cache, count=False).shards]
    except MissingData as error:
        return [f"validation: not here: {error}"]
    if changes is not None:
        changes.compare_validation(shards)
    samples, most = sum(shard.samples for shard in shards), config.evaluate.images
    lines = [f"validation: {samples:,} samples" + (f", of which {most:,} are used" if samples > most else "")]
    allowed = config.evaluate.allow_training_data
    lines += [f"validation: {line}" for line in find_overlap(training, shards, allowed, CLOSER)]
    if not has_tokenizer:
        return [*lines, "validation: not read, since the tokenizer is not here"]
    if any(shard.url for shard in shards):
        return [*lines, "validation: not read, since it is remote, so neither it nor checkpoint.best was checked"]
    held_out = stage.held_out()
    assert held_out is not None
    stage.evaluator(model, list(held_out.items(data.workers)), Ranks())
    return lines


def _lengths(config: Config) -> list[str]:
    """A line where texts of similar length are batched together."""
    window = length_window(config)
    among = "within a step" if window == 1 else f"within {window} steps, each of which has texts of one length"
    return [f"lengths: texts of like length run together, {among}"] if window else []


def _mixture(mixture: Mixture | None, rows: int) -> list[str]:
    """Shares of the stream, and how often each pool will be read, where there is more than one."""
    pools = mixture.shares() if mixture else []
    return [
        f"share: {100 * share:.2f} % {pool.name}: {pool.order.samples:,} samples, each read "
        f"{share * rows / pool.order.samples:.2f} times"
        for pool, share in pools
        if len(pools) > 1
    ]


@dataclass(frozen=True, slots=True)
class Memory:
    """What a rank needs, in bytes."""

    frozen: float  # weights that do not train, as far as the card holds them
    states: float  # those that do, with gradients and optimizer
    kept: float  # activations of `rows` rows
    rows: int
    checkpoint: float  # of the first process, in the memory of the machine
    group: Mapping[str, float]  # what objective.itc.batch needs, by name
    built: float  # of the model that a process builds there, before the blocks of the frozen towers leave it; else 0
    offloaded: float  # of these blocks, as long as the run lasts

    @property
    def total(self) -> float:
        return self.frozen + self.states + self.kept + sum(self.group.values())


def estimate_memory(config: Config, stage: Stage, model: VisualModel, world: int) -> Memory:
    """Weights and optimizer exactly, activations by the stage's count. model: may be on the meta device."""
    trained = _count(p for p in model.parameters() if p.requires_grad)
    states = trained * (4 + 4) + trained * 12 / world  # weights and gradients; two moments, gradients in one row
    states += 4 * min(BUCKET, trained) if world > 1 else 0  # gradients on their way to other ranks
    rows, group = split(config, world).micro, stage.group_memory(model, world)
    whole = frozen_bytes(model) + copied_bytes(model.vision)
    frozen, built, offloaded = float(whole), 0.0, 0.0
    if moves_blocks(config, world):
        blocks = [frozen_bytes(block) for stack in moved_stacks(model, config) for block in stack]
        share = sum(blocks) / (world if config.engine.zero == 3 else 1)
        built, offloaded = whole + 4 * trained, share if config.engine.offload == "cpu" else 0.0
        # the block that runs and the next, beside what is kept here
        frozen = whole - sum(blocks) + share - offloaded + sum(sorted(blocks)[-2:])
    if config.engine.recompute:
        frozen += max(unpacked_bytes(block) for stack in model.stacks() for block in stack)
    return Memory(frozen, states, stage.activations(model) * rows, rows, trained * 12, group, built, offloaded)


def _moved(need: Memory) -> list[str]:
    """Of the machine, where frozen blocks are divided or lie there."""
    if not need.built:
        return []
    lies = f", and {bytes_of(need.offloaded)} of frozen blocks stay there" if need.offloaded else ""
    return [f"memory of the machine: each process first builds {bytes_of(need.built)} there{lies}"]


def _memory(config: Config, stage: Stage, model: VisualModel, world: int) -> list[str]:
    """Of a rank, and the arithmetic of a pair."""
    need, cost = estimate_memory(config, stage, model, world), stage.cost(model)
    compared = f"; of {config.objective.itc.batch:,} rows that ITC compares " if need.group else ""
    compared += ", ".join(f"{name} {bytes_of(size)}" for name, size in need.group.items())
    return [
        f"memory a rank: about {bytes_of(need.total)} (frozen {bytes_of(need.frozen)}, weights and optimizer "
        f"{bytes_of(need.states)}, activations of {need.rows} rows {bytes_of(need.kept)}{compared})",
        f"memory beside it: the first process keeps {bytes_of(need.checkpoint)} for the checkpoint being written",
        *_moved(need),
        f"arithmetic: {cost.of(1, stage.max_tokens()) / 1e9:.1f} GFLOP a pair",
    ]
