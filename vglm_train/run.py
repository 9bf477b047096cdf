"""A training run from its configuration, built in the order data flows. train.py calls it."""

import contextlib
import dataclasses
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

import torch

from vglm_train import distributed, stages
from vglm_train.changes import Changes
from vglm_train.checkpoint.resume import read_tensors
from vglm_train.checkpoint.run_folder import RunFolder
from vglm_train.checkpoint.vocabulary import keep
from vglm_train.config.batch_split import candidates
from vglm_train.config.check import check_length, moves_blocks
from vglm_train.config.run import Config
from vglm_train.data.features import prepare
from vglm_train.data.loader import build as build_loader
from vglm_train.data.overlap import find_overlap
from vglm_train.data.splits import read_manifests
from vglm_train.distributed import Ranks
from vglm_train.engine import hooks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.engine.progress import Plan, RunState
from vglm_train.engine.saving import SaveHook
from vglm_train.engine.trainer import Hook, Trainer
from vglm_train.engine.watch import Watch
from vglm_train.errors import LostProcess, UserError, explain_dead_processes
from vglm_train.log import console, sinks, tongues
from vglm_train.log.alarms import Alarms
from vglm_train.log.health_sink import HealthSink
from vglm_train.log.jsonl import METRICS, SampleLog, forget_samples, read_rows
from vglm_train.log.meter import Meter
from vglm_train.log.run_info import RunInfo
from vglm_train.log.sink import Sink
from vglm_train.log.startup import Startup
from vglm_train.log.tensorboard import TensorBoardSink
from vglm_train.log.throughput import Throughput
from vglm_train.log.wandb_sink import WandbSink
from vglm_train.model.frozen_blocks import FrozenBlocks, move_blocks
from vglm_train.model.visual import VisualModel
from vglm_train.objective.base import Objective
from vglm_train.signals import StopOnSignal

SMALLER = (
    "Set engine.recompute=true, or a smaller engine.micro_batch or data.global_batch (--check estimates the memory), "
    "or end what else runs on the card (nvidia-smi names it)."
)
log = logging.getLogger(console.LOGGER)


def run(config: Config, accept_changes: bool, startup: Startup) -> int:
    """Train to the end, from the newest checkpoint if the run folder holds one.

    `accept_changes`: continue although data or weights have changed since that checkpoint was written.
    Returns 0, or 128 + signal number if asked to stop. Raises UserError for what a person can mend.
    """
    folder = RunFolder(config)
    config = folder.settled(config)
    resume_from = folder.check(config)  # before anything is built
    ranks = distributed.start(config.engine.backend, grow=config.run.stage == "align")
    try:
        resume_from = folder.agreed(resume_from, config, ranks)
        with distributed.explain_full_card(SMALLER):
            startup.reached("processes")
            return _Run(config, folder, resume_from, ranks, accept_changes, startup).train()
    finally:
        distributed.stop()


class _Run:
    """One process of a run. The parts are built in `__init__` and `train`; nothing is built twice."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        resume_from: Path | None,
        ranks: Ranks,
        accept: bool,
        startup: Startup,
    ) -> None:
        self.config, self.folder, self.ranks, self.resume_from = config, folder, ranks, resume_from
        self.startup = startup
        self.frozen_blocks: FrozenBlocks | None = None
        self.stage = stages.build(config)
        manifests = read_manifests(config)
        self.sources = {source.name: each.samples for source, each in zip(config.data.train, manifests)}
        self.state = self._state()
        self.changes = Changes(config, folder, resume_from, self.state, accept)
        self.changes.compare_inputs(self.stage, manifests, ranks)
        self.changes.compare_settings()
        self.start_words = folder.start_words(resume_from)
        seed = self.state.stream_seed(config.run.seed)
        self.loader = build_loader(config, self.stage.processor, ranks, manifests, seed)
        check_length(config, self.loader.epoch_samples)
        self.validation = self.stage.held_out()
        shared: list[str] = []
        if self.validation is not None:
            self.changes.compare_validation(self.validation.shards)
            with ranks.together():
                if ranks.main:
                    allowed = config.evaluate.allow_training_data
                    shared = find_overlap(manifests, self.validation.shards, allowed)
        self.plan = Plan.of(config, self.loader.epoch_samples, ranks.world)
        self.info = RunInfo(
            name=config.run.name,
            total_steps=self.plan.steps,
            warmup_steps=self.plan.warmup_samples // self.plan.global_batch,
            epoch_samples=self.plan.epoch_samples,
            global_batch=self.plan.global_batch,
            candidates=candidates(config, ranks.world),
            vocabulary=self.stage.vocabulary,
            weights=dict(self.stage.weights),
            shared=tuple(shared),
        )
        self.changes.compare_candidates(self.info.candidates)
        console.setup(ranks)
        startup.reached("inputs")

    def train(self) -> int:
        model = self._model()
        if self.config.data.features is not None:
            shards = self.loader.dataset.mixture.shards()
            self.loader.use_features(prepare(self.config, model.vision, model.encode_image, shards, self.ranks))
            self.startup.reached("features")
        objective = self.stage.objective(model, self.ranks)
        rates = {f"model.{name}": rate for name, rate in model.rates.items()}
        engine = DeepSpeedEngine(objective, self.config, self.plan.split.accumulation, self.ranks, rates)
        self.startup.reached("engine")
        if self.resume_from:
            engine.load_state(read_tensors(self.resume_from, engine.trained_shapes()))
            self.startup.reached("checkpoint")
        self._claim()
        self._tell_start()
        outlets = self._sinks()
        try:
            return self._fit(engine, objective, model, outlets)
        finally:
            for outlet in outlets:
                outlet.close()

    def _fit(self, engine: DeepSpeedEngine, objective: Objective, model: VisualModel, outlets: Sequence[Sink]) -> int:
        """Take all steps and write the bundle; the exit status."""
        stop, watch = StopOnSignal(), Watch(self.folder.path, self.ranks, self.config.engine.stall)
        parts = (self.plan, self.state, engine, objective, self.loader, stop, self.ranks, watch)
        trainer = Trainer(self.config, *parts)
        save = self._save_hook(engine, outlets)
        try:
            with contextlib.closing(save), explain_dead_processes(), watch:
                stopped = trainer.fit(self._hooks(objective, model, outlets, save))
        except UserError as error:
            received = stop.release()
            if received is None or (self.ranks.main and not isinstance(error, LostProcess)):
                raise
            return 128 + received  # the launcher ends all ranks, since one gave up and says why
        if stopped:
            log.info("stopped at step %d; the same command continues from there", self.state.step)
            return 128 + (stop.received or signal.SIGTERM)  # where another rank was asked, too
        self._check_applied()
        step = self._best(engine)
        if blocks := self.frozen_blocks:
            blocks.restore(keep=self.ranks.main)
        if self.ranks.main:
            origin = {"run": self.config.run.name, "step": step, "samples": step * self.plan.global_batch}
            origin["sources"] = self.sources
            self.stage.save(self.folder.bundle, model, origin, self.state.inputs["held"])
            log.info("done: %s", self.folder.bundle)
            for outlet in outlets:
                outlet.bundle(self.folder.bundle)
        self.ranks.barrier()
        return 0

    def _check_applied(self) -> None:
        """UserError where the run has trained nothing, or most of the time computed with what is not finite."""
        step, skipped = self.state.step, self.state.skipped
        if 2 * skipped > step:
            count = f"none of the {step} steps was" if skipped == step else f"{skipped} of the {step} steps were not"
            raise UserError(
                f"{count} applied, since losses or gradients were not finite, so there is no bundle. Look at the first "
                f"rows of {self.folder.path / METRICS}: weights or pictures that are not finite, or a rate that is too "
                "high. Then start the run in another run.folder."
            )
        if skipped and self.ranks.main:
            log.warning("%d of %d steps were not applied: they were not finite", skipped, step)

    def _best(self, engine: DeepSpeedEngine) -> int:
        """The step whose weights are the run's result, now in the model: the best, where that was asked for."""
        step, best = self.state.step, self.state.best_step
        if self.config.checkpoint.best is None or best is None or best == step:
            return step
        log.info("the bundle holds step %d, the best by %s", best, self.config.checkpoint.best)
        engine.load_state(read_tensors(self.folder.checkpoints.of(best), engine.trained_shapes()))
        return best

    def _tell_start(self) -> None:
        """Where the run begins, what has changed, and what training and validation share: scores are too good then."""
        if not self.ranks.main:
            return
        for line in self.info.shared:
            log.warning("%s", line)
        log.info("%s: %s", self.folder.path, self.start_words)
        if (share := self.plan.split).empty:
            words = "%d rows do not divide among %d processes: %d of %d places of a step stay empty"
            log.info(words, share.batch, share.world, share.empty, share.batch + share.empty)
        for line in self.changes.lines:
            log.warning("changed: %s", line)

    def _state(self) -> RunState:
        if self.resume_from is None:
            return RunState()
        state = RunState.read(self.resume_from)
        state.ended &= self.config.evaluate.patience is not None  # taken away, the run goes on
        return state

    def _claim(self) -> None:
        """Make the folder this run's, now that nothing is left that a person could have got wrong."""
        if self.ranks.main:
            self.folder.claim(self.config)
            keep(self.folder.path, self.stage.vocabularies())
            self.info.write(self.folder.path)
            forget_samples(self.folder.path, self.state.step)
        self.ranks.barrier()
        console.setup(self.ranks, self.folder.path)

    def _model(self) -> VisualModel:
        """Random weights are a function of the seed, the same on every rank; then what the configuration names."""
        torch.manual_seed(self.config.run.seed)
        moved = moves_blocks(self.config, self.ranks.world)
        with torch.device("cpu") if moved else self.ranks.device:  # the card may be too small for the whole
            model = self.stage.model()
        self.startup.reached("model")
        self.stage.load(model)
        self.startup.reached("weights")
        for line in self.stage.tune(model):
            log.info("%s", line)
        self.cost = self.stage.cost(model)
        if moved:
            self.frozen_blocks = move_blocks(model, self.config, self.ranks)
            model.to(self.ranks.device)
        model.recompute(self.config.engine.recompute)
        if self.config.engine.compile:
            model.compile_blocks()
        self._record_passes(model)
        return model

    def _record_passes(self, model: VisualModel) -> None:
        """As CUDA graphs, or not."""
        engine, on_gpu = self.config.engine, self.ranks.device.type == "cuda"
        if engine.graphs is False:
            model.record_nothing()
        elif on_gpu and not engine.recompute and (engine.graphs or self.config.run.stage == "align"):
            model.graph_passes()
        elif engine.graphs:
            log.info("engine.graphs: there is no GPU here, so nothing is recorded")

    def _sinks(self) -> list[Sink]:
        if not self.ranks.main:
            return []
        config, folder = self.config, self.folder.path
        resume_step = self.state.step if self.resume_from else None
        outlets: list[Sink] = [
            sinks.JsonlSink(folder, resume_step),
            sinks.ConsoleSink(self.plan.steps, resume_step),
            Alarms.resume(self.info, folder, tongues.of_computer()),
            HealthSink(self.info, read_rows(folder / METRICS), tongues.of_computer()),
            *([TensorBoardSink(folder)] if config.log.tensorboard else []),
        ]
        if config.log.wandb.mode != "disabled":
            resolved, source = dataclasses.asdict(config), self.stage.source()
            run = (self.info, config.run.stage, resolved, resume_step, source)
            outlets.append(WandbSink(config.log.wandb, folder, *run))
        return outlets

    def _save_hook(self, engine: DeepSpeedEngine, outlets: Sequence[Sink]) -> SaveHook:
        cadence, keep = hooks.Cadence.of(self.config), self.config.checkpoint.keep
        return SaveHook(self.folder.checkpoints, engine, self.state, cadence, keep, outlets, self.ranks)

    def _hooks(self, objective: Objective, model: VisualModel, outlets: Sequence[Sink], save: SaveHook) -> list[Hook]:
        config, state, cadence = self.config, self.state, hooks.Cadence.of(self.config)
        throughput = Throughput(self.ranks.device, self.ranks.world, self.cost.per_sample, self.cost.per_token)
        names, rows, meter = (self.loader.sources, self.loader.languages), self.plan.global_batch, Meter(self.ranks)
        chain: list[Hook] = [
            hooks.StartHook(self.startup, meter),
            hooks.LogHook(meter, throughput, outlets, cadence, state, objective, rows, names),
        ]
        if config.log.samples:
            chain.append(hooks.SampleHook(SampleLog(self.folder.path, self.ranks.rank)))
        if self.validation is not None:
            items = list(self.validation.items(config.data.workers))
            best = (config.checkpoint.best, config.evaluate.patience)
            judge = self.stage.evaluator(model, items, self.ranks)
            chain.append(hooks.EvaluateHook(judge, objective, outlets, cadence, state, *best))
        guard = hooks.GuardHook(config, state, save.save_now, save.checkpoints)
        self.startup.reached("outputs")
        return [*chain, guard, save, hooks.ClockHook(throughput, cadence)]
