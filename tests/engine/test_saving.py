"""Checkpoints that are written while training goes on, with the real engine on the CPU."""

import logging
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import crash
import pytest
import tiny
import torch

from vglm_train import distributed
from vglm_train.checkpoint.resume import Checkpoints, read_state
from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.engine.hooks import Cadence
from vglm_train.engine.progress import RunState
from vglm_train.engine.saving import HostCopy, SaveHook
from vglm_train.errors import UserError
from vglm_train.log.console import LOGGER
from vglm_train.objective.alignment import AlignmentObjective


class Run:
    """Two steps of training at a time; the writing thread waits for `may_write` before it writes anything."""

    def __init__(self, folder: Path) -> None:
        self.ranks: Ranks = distributed.start("gloo")
        config = tiny.config()
        self.objective = AlignmentObjective(tiny.alignment(0), config.objective, self.ranks, 42, dec_id=tiny.DEC)
        self.engine = DeepSpeedEngine(self.objective.train(), config, 1, self.ranks)
        self.state, self.checkpoints = RunState(), Checkpoints(folder)
        self.may_write, self.durable = threading.Event(), []
        self.hook = SaveHook(
            self.checkpoints,
            self.engine,
            self.state,
            Cadence(1, 2, None),
            2,
            [self],
            self.ranks,  # type: ignore
        )

    def checkpointed(self, step: int) -> None:
        assert self.may_write.wait(60)
        latest = self.checkpoints.latest()
        self.durable.append((step, None if latest is None else latest.name))

    def train(self) -> None:
        for _ in range(2):
            batch = tiny.batch(8 * self.state.step, 8)
            units = self.objective.units(batch)
            scale = {name: 1 / count for name, count in units.items()}
            self.engine.step([batch], [scale].copy, 1e-3)
            self.state.step += 1

    def after_step(self, **report: bool) -> None:
        asked = {"done": False, "stopping": False, **report}
        self.hook.after_step(SimpleNamespace(step=self.state.step, **asked))  # type: ignore


class Said(logging.Handler):
    """Lines of the project's log; `when` one holds certain words, something is done."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._words, self._then = "", lambda: None

    def when(self, words: str, then: Callable[[], None]) -> None:
        self._words, self._then = words, then

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if self._words in self.lines[-1]:
            self._then()


@pytest.fixture
def said() -> Iterator[Said]:
    handler, logger = Said(), logging.getLogger(LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 16 KiB here: the checkpoint does not fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def run(tmp_path: Path):
    run = Run(tmp_path / "checkpoints")
    yield run
    run.may_write.set()
    run.hook.close()


def test_it_holds_the_step_at_which_it_was_due_to_the_last_byte(run: Run, tmp_path: Path) -> None:
    run.train()
    straight = Checkpoints(tmp_path / "straight")
    straight.write(2, {name: tensor.clone() for name, tensor in run.engine.state()}, run.state.to_dict())
    run.after_step()
    run.train()  # what trains changes, and what has been counted
    assert run.checkpoints.latest() is None
    run.may_write.set()
    run.hook.finish()
    assert run.checkpoints.latest() == run.checkpoints.of(2)
    assert crash.content(run.checkpoints.folder) == crash.content(straight.folder)


def test_the_next_one_waits_and_says_so_once(run: Run, said: Said) -> None:
    run.train()
    run.after_step()
    run.train()
    said.when("training waits", run.may_write.set)
    run.after_step()
    run.hook.finish()
    assert [step for step, _ in run.durable] == [2, 4]
    waits = [line for line in said.lines if "waits" in line]
    assert waits == ["step 4: training waits until the checkpoint before is written"]
    assert [read_state(path)["step"] for path in run.checkpoints.steps()] == [2, 4]


def test_what_is_logged_is_made_durable_before_it_is_the_latest(run: Run) -> None:
    run.may_write.set()
    for _ in range(2):
        run.train()
        run.after_step()
    run.hook.finish()
    assert run.durable == [(2, None), (4, "step-00000002")]


@pytest.mark.parametrize("end", ["done", "stopping"])
def test_the_last_step_waits_until_it_is_written(run: Run, end: str) -> None:
    run.train()
    run.may_write.set()
    run.after_step(**{end: True})
    assert run.checkpoints.latest() == run.checkpoints.of(2)


def test_one_that_cannot_be_written_ends_the_run_at_the_next_step(run: Run, full_disk: None) -> None:
    run.train()
    run.after_step()
    run.may_write.set()
    assert run.hook._written is not None
    run.hook._written.exception(timeout=60)
    run.train()
    with pytest.raises(UserError, match=f"{run.checkpoints.of(2)}: the checkpoint could not be written"):
        run.after_step()


def test_one_that_cannot_be_written_is_told_if_the_run_has_ended_otherwise(
    run: Run, said: Said, full_disk: None
) -> None:
    run.train()
    run.after_step()
    run.may_write.set()
    run.hook.close()
    assert said.lines[-1].startswith(f"{run.checkpoints.of(2)}: the checkpoint could not be written")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU; not tested here")
def test_a_gpu_copies_into_pinned_memory() -> None:
    device = torch.device("cuda", 0)
    copy = HostCopy({"a": (3, 1000), "b": (1,)}, device).pin()
    assert copy._pinned
    tensors = {"a": torch.randn(3, 1000, device=device), "b": torch.ones(1)}
    copy.take(tensors.items())
    assert all(torch.equal(copy.tensors[name], tensor.cpu()) for name, tensor in tensors.items())
    copy.close()
