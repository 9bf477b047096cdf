"""`train.py` on 1, 2, 4 ... cards of one machine, on real JPEG shards: `python -m benchmarks.scaling --photos FOLDER`.

Models have their full size and random weights. Each start is a run as a user makes it, with a loader in 14 processes a
card, and its numbers are those of its own metrics.jsonl once it has started. Then a few steps are recorded by
`benchmarks.watched_run`: time in collectives, and the bytes that a card gives to them.

align     stage one, 100 pairs a card
generate  stage two before ChatGLM-6B's shape, 64 rows a card
finetune  LoRA on that model, 16 rows a card

--exact compares losses instead, with the same global batch, and as many pairs in ITC: of a run on one card, and of one
on all cards that is killed, goes on with half of them, is killed, and ends on all.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.record import record
from benchmarks.scaling_data import DONE, MadeData, make_data, write_base
from benchmarks.stage2_cases import ROOT
from vglm_train.errors import UserError

ROWS = {"align": 100, "generate": 64, "finetune": 16}
PRESETS = {"align": "pretrain/lavis_stage1", "generate": "pretrain/visualglm_stage2",
           "finetune": "finetune/xray_vqa_chatglm_lora"}  # fmt: skip
STEPS = {"align": (20, 100), "generate": (10, 40), "finetune": (10, 60)}  # not counted before, counted until
WATCHED = 4  # steps after them
EVERY = 10  # steps of a row, as many as nobody has to set
START = 240  # seconds that a run may take until it has been measured
HEADER = f"{'':10} {'cards':>5} {'samples/s':>10} {'times one':>9} {'waiting':>8} {'GiB':>6} {'ms':>8} {'NCCL':>7} " \
         f"{'alone':>7} {'idle':>6} {'GB':>6}"  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """One stage on some cards."""

    stage: str
    cards: int
    rows: int  # of a step of all cards
    rate: float  # samples a second of all cards
    waiting: float  # share of time
    gib: float
    watched: Mapping[str, float]  # see `watched_run`, the least of the ranks for times, the most for bytes
    more: Sequence[str] = ()  # fields of the config that --set changed

    @property
    def milliseconds(self) -> float:
        return 1e3 * self.rows / self.rate

    def line(self, one: "Measured") -> str:
        seen = self.watched
        return (
            f"{self.stage:10} {self.cards:5} {self.rate:10.1f} {self.rate / one.rate:9.3f} {100 * self.waiting:7.2f}% "
            f"{self.gib:6.1f} {self.milliseconds:8.1f} {seen['collectives_ms']:7.2f} {seen['exposed_ms']:7.2f} "
            f"{seen['idle_ms']:6.2f} {seen['bytes'] / 1e9:6.3f}"
        )

    def record(self, one: "Measured") -> None:
        record(
            ", ".join([f"{self.stage}, {self.cards} cards", *self.more]),
            f"train.py on JPEG shards, median of rows of {EVERY} steps; collectives of {WATCHED} recorded steps",
            samples_per_s=self.rate, ms=self.milliseconds, peak_gib=self.gib,
            values={"cards": self.cards, "times_one": self.rate / one.rate, "waiting": self.waiting, **self.watched},
        )  # fmt: skip


class Runs:
    """Starts of train.py in one folder, with data that they share."""

    def __init__(
        self, work: Path, data: Path, photos: Path | None, vocabulary: Path | None, tiny: bool, more: Sequence[str]
    ) -> None:
        """more: overrides of every run."""
        self.work, self.tiny, self.more = work, tiny, more
        self.rows = dict.fromkeys(ROWS, 4) if tiny else ROWS
        self.data = MadeData(data) if (data / DONE).exists() else make_data(data, photos, vocabulary)

    def command(self, stage: str, cards: int, name: str, *overrides: str, watch: Path | None = None) -> list[str]:
        _, until = STEPS[stage]
        module = ["-m", "benchmarks.watched_run", str(watch), str(until), str(WATCHED)] if watch else ["train.py"]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={cards}"] if cards > 1 else []
        words = [*self.data.overrides(stage, self.tiny), f"run.folder={self.work / name}", *overrides, *self.more]
        return [sys.executable, *launcher, *module, str(ROOT / f"configs/{PRESETS[stage]}.yaml"), *words]

    def measure(self, stage: str, cards: int) -> Measured:
        """A run until it has been watched, which is ended then."""
        name, (before, until) = f"{stage}-{cards}", STEPS[stage]
        watch = self.work / f"{name}.watched"
        words = (f"data.global_batch={cards * self.rows[stage]}", f"engine.micro_batch={self.rows[stage]}",
                 f"log.every={EVERY}", "run.length={steps: 100000}", "checkpoint.every=100000")  # fmt: skip
        command = self.command(stage, cards, name, *words, watch=watch)
        files = [watch.with_name(f"{watch.name}-{rank}") for rank in range(cards)]
        with self.started(command, name) as process:
            wait(process, lambda: all(file.exists() for file in files), self.work / f"{name}.log")
        rows = [row for row in read_rows(self.work / name) if before < row["step"] <= until]
        seen = [json.loads(file.read_text("utf-8")) for file in files]
        watched = {key: (max if key == "bytes" else min)(each[key] for each in seen) for key in seen[0]}
        return Measured(
            stage, cards, cards * self.rows[stage], median(row["perf/samples_per_second"] for row in rows),
            median(row["perf/data_wait_fraction"] for row in rows), rows[-1]["perf/memory_gib"], watched, self.more,
        )  # fmt: skip

    def losses(self, cards: Sequence[int], name: str, steps: int, batch: int) -> dict[int, dict[str, float]]:
        """Of a run that is killed in between and goes on with the next number of cards; step -> losses."""
        micro = self.rows["align"]
        for number, world in enumerate(cards, 1):
            words = (f"data.global_batch={batch}", f"objective.itc.batch={batch}", "objective.mean=global",
                     "objective.itc.gather=exact", f"engine.micro_batch={micro}",
                     "log.every=1", f"run.length={{steps: {steps}}}", "checkpoint.every=4")  # fmt: skip
            with self.started(self.command("align", world, name, *words), name) as process:
                until = steps * number // len(cards)
                last = number == len(cards)
                wait(process, lambda: not last and len(read_rows(self.work / name)) >= until,  # noqa: B023
                     self.work / f"{name}.log", ends=last)  # fmt: skip
        rows = read_rows(self.work / name)
        return {row["step"]: {k: v for k, v in row.items() if k.startswith("train/loss")} for row in rows}

    def started(self, command: Sequence[str], name: str) -> "Started":
        return Started(command, self.work / f"{name}.log", self.tiny)


class Started:
    """A run within a `with`, killed with all of its processes at the end."""

    def __init__(self, command: Sequence[str], log: Path, cpu: bool) -> None:
        self.command, self.log, self.cpu = command, log, cpu

    def __enter__(self) -> subprocess.Popen[bytes]:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **({"DS_ACCELERATOR": "cpu"} if self.cpu else {})}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=variables, cwd=ROOT, start_new_session=True
            )
        return self.process

    def __exit__(self, *_: object) -> None:
        with_all = [self.process.pid, *children(self.process.pid)]
        for pid in with_all:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def children(pid: int) -> list[int]:
    """Of all generations: torchrun gives its processes sessions of their own."""
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def wait(process: subprocess.Popen[bytes], reached: Any, log: Path, ends: bool = False) -> None:
    """Until `reached()`, or with `ends` until it ends well. UserError with the log's end if it does not come."""
    begun = time.monotonic()
    while not reached():
        status = process.poll()
        if ends and status == 0:
            return
        if status is not None or time.monotonic() - begun > START:
            tail = log.read_text("utf-8", "replace")[-2000:]
            raise UserError(f"{log}: it {'ended' if status is not None else 'took too long'} ({status}):\n{tail}")
        time.sleep(0.2)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
    return [row for row in map(json.loads, lines) if "train/loss" in row]


def compare(first: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]]) -> tuple[float, float]:
    """Largest relative difference of a loss: in the first three steps, and in all. Steps must be the same."""
    if first.keys() != other.keys():
        raise UserError(f"steps {sorted(first)} of one run, {sorted(other)} of the other")
    apart = [max(abs(first[s][k] - other[s][k]) / abs(first[s][k]) for k in first[s]) for s in sorted(first)]
    return max(apart[:3]), max(apart)


def exact(runs: Runs, cards: int, steps: int, batch: int) -> Iterator[str]:
    """Lines that say how far losses are apart."""
    worlds = [cards, max(1, cards // 2), cards]
    with ThreadPoolExecutor() as pool:  # side by side: how long they take does not matter
        one = pool.submit(runs.losses, [1], "alone", steps, batch)
        found = runs.losses(worlds, "killed", steps, batch)
        first, most = compare(one.result(), found)
        what = " then ".join(map(str, worlds))
        record(f"exact, {what} cards against one", f"losses of {steps} steps of {batch} pairs, stage one",
               values={"first_three": first, "most": most})  # fmt: skip
        yield (
            f"{what} cards against one, {len(found)} steps of {batch} pairs: losses differ by {first:.1e} in the first "
            f"three steps, {most:.1e} at most; last {next(iter(found[steps].values())):.6f}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    work = Path(tempfile.mkdtemp(dir=arguments.work))
    try:
        data = arguments.data or work / "data"
        runs = Runs(work, data, arguments.photos, arguments.vocabulary, arguments.tiny, arguments.set)
        if arguments.exact:
            for line in exact(
                runs,
                max(arguments.cards),
                arguments.steps,
                arguments.batch or runs.rows["align"] * max(arguments.cards),
            ):
                print(line, flush=True)
            return
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(f"{name}, torch {torch.__version__}\n{HEADER}", flush=True)
        for stage in arguments.stages:
            if stage == "finetune" and not runs.data.base.exists():
                write_base(runs.data, arguments.tiny)
            one: Measured | None = None
            for cards in arguments.cards:
                found = runs.measure(stage, cards)
                one = one or found
                found.record(one)
                print(found.line(one), flush=True)
    finally:
        if not arguments.keep:
            shutil.rmtree(work, ignore_errors=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--photos", type=Path, help="folder of JPEGs; none: pictures of noise are made")
    parser.add_argument("--vocabulary", type=Path, help="BERT's vocab.txt; none: one is made")
    parser.add_argument("--work", type=Path, help="where data, runs and the base bundle (16 GB) are made, and deleted")
    parser.add_argument("--data", type=Path, help="data of an earlier call, or where to make and keep them")
    parser.add_argument("--cards", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of cards")
    parser.add_argument("--stages", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--exact", action="store_true", help="compare losses instead")
    parser.add_argument("--steps", type=int, default=18, help="of --exact")
    parser.add_argument("--batch", type=int, help="pairs a step of --exact; none: 100 for each card")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of every run's config")
    parser.add_argument("--tiny", action="store_true", help="toy shapes on the CPU, to try it")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
