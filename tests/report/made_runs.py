"""Run folders as training leaves them: healthy, blind, starved, killed; and one that grows."""

import math
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

from PIL import Image

from vglm_train.log.run_info import RunInfo
from vglm_train.log.sinks import JsonlSink

TOTAL = 20_000
COLUMNS = ["image", "caption", "found"]


def row(step: int, rng: random.Random, kind: str, total: int = TOTAL) -> dict[str, float]:
    """What a run of stage one logs at a step."""
    left, blind = math.exp(-4 * step / total), kind == "blind"
    itc = math.log(256) * (1 if blind else 0.25 + 0.75 * left) + rng.gauss(0, 0.05)
    itm = 0.637 + rng.gauss(0, 0.003) if blind else 0.18 + 0.5 * left + rng.gauss(0, 0.01)
    itg = math.log(30523) * (0.22 + 0.78 * left) + rng.gauss(0, 0.05)
    wait = 0.58 if kind == "starved" else 0.003
    warm = min(1, step / (0.05 * total))
    return {
        "train/loss": itc + itm + itg, "train/loss_itc": itc, "train/loss_itm": itm, "train/loss_itg": itg,
        "train/itc_accuracy": 1 / 256 if blind else 1 - 0.97 * left + rng.gauss(0, 0.01),
        "train/itm_accuracy": 2 / 3 if blind else 0.93 - 0.27 * left + rng.gauss(0, 0.005),
        "train/temperature": 0.07 * (0.4 + 0.6 * left), "train/lr": 1e-4 * warm,
        "train/grad_norm": 1.2 + 3 * left + abs(rng.gauss(0, 0.2)), "train/steps_not_finite": 0.0,
        "perf/samples_per_second": (310 if kind == "starved" else 790) + rng.gauss(0, 8),
        "perf/data_wait_fraction": min(1, abs(wait + rng.gauss(0, 0.01 if kind == "starved" else 0.001))),
        "perf/memory_gib": 41.3, "data/damaged": 2.0, "data/epoch": step / 4000, "data/samples": 256.0 * step,
    }  # fmt: skip


def scores(step: int, kind: str, total: int = TOTAL) -> dict[str, float]:
    """Of an evaluation."""
    gain = 0.0 if kind == "blind" else 1 - math.exp(-3 * step / total)
    return {
        "eval/en_i2t_r1": 0.1 + 40 * gain, "eval/en_t2i_r1": 0.1 + 37 * gain, "eval/zh_i2t_r1": 0.1 + 33 * gain,
        "eval/zh_t2i_r1": 0.1 + 31 * gain,
        "eval/en_itm_accuracy": 50 + 38 * gain, "eval/zh_itm_accuracy": 50 + 33 * gain,
        "eval/r_mean": 0.5 + 50 * gain, "eval/en_images": 1000.0, "eval/zh_images": 1000.0,
    }  # fmt: skip


def info(name: str, total: int = TOTAL) -> RunInfo:
    return RunInfo(
        name=name, total_steps=total, warmup_steps=total // 20, epoch_samples=1_024_000, global_batch=256,
        candidates=256, vocabulary=30523,
    )  # fmt: skip


def write_run(folder: Path, kind: str, steps: int, every: int = 50, total: int = TOTAL, pid: int | None = None) -> Path:
    """`pid`: of the process that trains, which the folder's lock names; None: this one."""
    sink, rng = JsonlSink(folder, None), random.Random(kind)
    info(folder.name, total).write(folder)
    for step in range(every, steps + 1, every):
        sink.write(step, row(step, rng, kind, total))
        if step % (total // 10) == 0:
            sink.write(step, scores(step, kind, total))
            pictures = [Image.effect_noise((240, 160), 60).convert("RGB") for _ in range(3)]
            texts = ["一只猫坐在窗台上", "two dogs on a beach", "a red bus"]
            rows = [[picture, text, f"{text} (step {step})"] for picture, text in zip(pictures, texts)]
            sink.image_table(step, "retrieval", COLUMNS, rows)
    sink.close()
    (folder / "lock").write_text(f"process {pid or os.getpid()} on {socket.gethostname()}\n")
    (folder / "log.txt").write_text(f"2026-11-26 10:00:00 step {steps}/{total}\n")
    return folder


def dead_process() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def write_four(folder: Path) -> None:
    """A healthy, a blind, a starved and a killed run below a folder."""
    write_run(folder / "healthy", "healthy", TOTAL // 2)
    write_run(folder / "blind", "blind", TOTAL // 2)
    write_run(folder / "starved", "starved", TOTAL * 2 // 5)
    killed = write_run(folder / "killed", "healthy", TOTAL * 3 // 10, pid=dead_process())
    (killed / "checkpoints").mkdir()
    (killed / "checkpoints" / "latest").write_text("step-00005000\n")
