"""What happens after a step: log, evaluate, guard. Each hook decides for itself whether it is due. `saving.py` has that
which writes checkpoints.

Training metrics get their names here. `LogHook` logs the objective's loss and measure NAME as train/loss_NAME and
train/NAME, speed as perf/ (`log/throughput.py`) and counts as data/. `EvaluateHook` logs the evaluator's scores under
the names they have: `eval/...` comes from `config/metric_names.py`.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from vglm_train.checkpoint.resume import Checkpoints
from vglm_train.config.run import Config
from vglm_train.engine.progress import RunState
from vglm_train.engine.trainer import StepReport
from vglm_train.errors import UserError
from vglm_train.evaluate.base import ImageTable
from vglm_train.log import console
from vglm_train.log.alarms import not_finite
from vglm_train.log.jsonl import SampleLog
from vglm_train.log.meter import Meter
from vglm_train.log.sinks import Sink
from vglm_train.log.startup import Startup
from vglm_train.log.throughput import Throughput
from vglm_train.objective.base import Objective

log = logging.getLogger(console.LOGGER)

TOKENS, WAITED, PADDED = "tokens", "seconds waited", "padded tokens of "  # in the meter; the last one before a kind


@dataclass(frozen=True, slots=True)
class Cadence:
    """When things are due. A row is also logged at every checkpoint, so that none spans a resume."""

    log: int
    save: int
    evaluate: int | None

    @classmethod
    def of(cls, config: Config) -> "Cadence":
        return cls(config.log.every, config.checkpoint.every, config.evaluate.every)

    def saves(self, report: StepReport) -> bool:
        return report.done or report.stopping or report.step % self.save == 0

    def evaluates(self, report: StepReport) -> bool:
        return report.done or bool(self.evaluate and report.step % self.evaluate == 0)

    def logs(self, report: StepReport) -> bool:
        return report.step % self.log == 0 or self.saves(report) or self.evaluates(report)


class LogHook:
    """Gathers what the steps report and writes one row to every sink when due."""

    doing = "logging"

    def __init__(
        self,
        meter: Meter,
        throughput: Throughput,
        sinks: Sequence[Sink],
        cadence: Cadence,
        state: RunState,
        objective: Objective,
        samples_per_step: int,
        names: Sequence[Sequence[str]] = (),
    ) -> None:
        """`names`: groups of names (sources; languages) whose shares of the samples are logged."""
        self.meter, self.throughput, self.sinks, self.cadence, self.state = meter, throughput, sinks, cadence, state
        self.objective, self.samples_per_step, self.names = objective, samples_per_step, names

    def after_step(self, report: StepReport) -> None:
        self._add(report)
        if not self.cadence.logs(report):
            return
        row = self.meter.row()
        tokens, waited = row.pop(TOKENS, None), row.pop(WAITED)
        padded = {name.removeprefix(PADDED): row.pop(name) for name in list(row) if name.startswith(PADDED)}
        terms = {name: row[f"train/loss_{name}"] for name in self.objective.weights if f"train/loss_{name}" in row}
        if terms:
            row["train/loss"] = sum(self.objective.weights[name] * value for name, value in terms.items())
        row |= self.throughput.row(waited, tokens, padded)
        row["data/damaged"] = float(sum(self.state.damaged.values()))
        row |= {f"data/damaged_{cause}": float(count) for cause, count in self.state.damaged.items()}
        row |= {"data/epoch": float(report.epoch), "data/samples": float(self.state.samples)}
        row |= shares(self.state.sample_counts, self.names)
        row["train/steps_not_finite"] = float(self.state.skipped)
        for sink in self.sinks:
            sink.write(report.step, row)

    def _add(self, report: StepReport) -> None:
        """Losses of a step that was not finite are kept out of the means; its work and its time count."""
        for output, units in zip(report.outputs, report.units):
            for name, total in output.sums.items() if report.update.applied else ():
                self.meter.add(f"train/loss_{name}", total, units[name])
            for name, (total, count) in output.measures.items() if report.update.applied else ():
                self.meter.add(f"train/{name}", total, count)
            for kind, count in output.padded_tokens.items():
                self.meter.total(PADDED + kind, count)
            if self.objective.token_loss in units:
                self.meter.total(TOKENS, units[self.objective.token_loss])
        self.meter.total(WAITED, report.wait_seconds)
        self.meter.last("train/lr", report.lr)
        self.meter.last("train/grad_norm", report.update.grad_norm)
        for name, value in self.objective.watched().items():
            self.meter.last(f"train/{name}", value)
        self.throughput.step(self.samples_per_step, report.started)


class StartHook:
    """After the first step tells what the time until then was spent on. Before `LogHook`, whose row has it too."""

    doing = "logging"

    def __init__(self, startup: Startup, meter: Meter) -> None:
        self.startup, self.meter, self.is_told = startup, meter, False

    def after_step(self, report: StepReport) -> None:
        if self.is_told:
            return
        self.is_told = True
        self.startup.first_step(report.wait_seconds)
        log.info("%s", self.startup.line())
        for name, seconds in self.startup.row().items():
            self.meter.last(name, seconds)


class SampleHook:
    """Notes which samples each step read."""

    doing = "noting samples"

    def __init__(self, samples: SampleLog) -> None:
        self.samples = samples

    def after_step(self, report: StepReport) -> None:
        self.samples.write(report.step, report.keys)


def shares(counts: Mapping[str, int], names: Sequence[Sequence[str]]) -> dict[str, float]:
    """Share of each name within its group, over all samples since the run began. A group of one name is left out."""
    row: dict[str, float] = {}
    for group in names:
        total = sum(counts.get(name, 0) for name in group)
        if len(group) > 1 and total:
            row |= {f"data/share_{name}": counts.get(name, 0) / total for name in group}
    return row


class Evaluator(Protocol):
    """Scores the current model. All ranks call it together and get the same scores."""

    def __call__(self) -> tuple[dict[str, float], list[ImageTable]]: ...


class EvaluateHook:
    """Runs the evaluator when due, writes its scores and tables, and remembers the best step."""

    doing = None  # as long as the validation data takes

    def __init__(
        self,
        evaluate: Evaluator,
        module: nn.Module,
        sinks: Sequence[Sink],
        cadence: Cadence,
        state: RunState,
        best: str | None,
        patience: int | None = None,
    ) -> None:
        """`best`: the score that the best step is chosen by; `patience`: evaluations without a better one."""
        self.evaluate, self.module, self.sinks, self.cadence = evaluate, module, sinks, cadence
        self.state, self.best, self.patience = state, best, patience

    def after_step(self, report: StepReport) -> None:
        if not self.cadence.evaluates(report):
            return
        self.module.eval()
        scores, tables = self.evaluate()
        self.module.train()
        for sink in self.sinks:
            sink.write(report.step, scores)
            for table in tables:
                sink.image_table(report.step, table.name, table.columns, table.rows)
        if self.best is None:
            return
        if self.best not in scores:
            names = ", ".join(sorted(scores))
            raise UserError(f"checkpoint.best: {self.best} is not among what the validation data gives: {names}.")
        self._note(scores[self.best], report)

    def _note(self, score: float, report: StepReport) -> None:
        """Remember the step if none was better, and end the run if none was for `patience` evaluations.

        A score that is not finite is never the best.
        """
        state, value = self.state, -score if str(self.best).endswith("_loss") else score
        state.evaluations_since_best += 1
        if not math.isfinite(value):
            log.warning("step %d: %s is %s, so this step is not the best", report.step, self.best, score)
        elif state.best_value is None or value > state.best_value:
            state.best_value, state.best_step, state.evaluations_since_best = value, report.step, 0
        if self.patience and self.cadence.evaluate:
            state.ended = state.evaluations_since_best >= self.patience and not report.done
            if state.ended:
                waited = state.evaluations_since_best
                log.info("%s has not risen in %d evaluations: the run ends here", self.best, waited)


class GuardHook:
    """Stops a run that cannot go on: too many steps without an update, or too much damaged data."""

    doing = "checking"
    MINIMUM_ROWS = 1000  # fewer say little about the fraction

    def __init__(self, config: Config, state: RunState, save: Callable[[int], None], checkpoints: Checkpoints) -> None:
        """`save`: writes a checkpoint of this step, and waits until it is written."""
        self.config, self.state = config, state
        self.save, self.checkpoints = save, checkpoints

    def after_step(self, report: StepReport) -> None:
        state, limit = self.state, self.config.engine.max_skipped
        if state.skipped_in_row >= limit:
            state.skipped_in_row = 0  # the next start tries as often again
            self.save(report.step)  # the weights are those of before these steps
            values = {f"loss_{name}": float(value) for name, value in report.outputs[-1].sums.items()}
            values["grad_norm"] = report.update.grad_norm
            raise UserError(not_finite(report.step, limit, values, self.checkpoints.latest()))
        damaged = sum(state.damaged.values())
        if state.samples >= self.MINIMUM_ROWS and damaged > self.config.data.max_damaged * state.samples:
            causes = ", ".join(f"{cause} {count}" for cause, count in sorted(state.damaged.items()))
            raise UserError(
                f"step {report.step}: {damaged} of {state.samples} samples are damaged ({causes}), more than "
                f"data.max_damaged {self.config.data.max_damaged:g}. log.txt names shards and keys; "
                f"{self._lister()} lists them all. Mend the data or raise the limit."
            )

    def _lister(self) -> str:
        """The command that lists damage in what the run reads."""
        tables = {source.table is not None for source in self.config.data.train}
        named = {True: "vglm data check_table TABLE", False: "vglm data check_shards FOLDER"}
        return " or ".join(named[table] for table in sorted(tables))


class ClockHook:
    """Keeps time spent on evaluation and checkpoints out of the throughput. It comes last."""

    doing = "checking"

    def __init__(self, throughput: Throughput, cadence: Cadence) -> None:
        self.throughput, self.cadence = throughput, cadence

    def after_step(self, report: StepReport) -> None:
        if self.cadence.saves(report) or self.cadence.evaluates(report):
            self.throughput.restart()
