"""A stand-in for training: rows that are a function of the step, a checkpoint every few steps, W&B offline.

PATIENCE=600 python wandb_run.py FOLDER STEPS [SECONDS_A_STEP]; started again, it continues from its last checkpoint.
"""

import os
import sys
import time
from pathlib import Path

from PIL import Image

from vglm_train.config.run import Wandb
from vglm_train.log.run_info import RunInfo
from vglm_train.log.sink import Sink
from vglm_train.log.sinks import JsonlSink
from vglm_train.log.wandb_sink import WandbSink

SAVE, EVALUATE = 5, 4
WANDB = Wandb(
    mode="offline",
    project="tests",
    tags=("small", "中文"),
    notes="a stand-in",
    group="stages",
    patience=int(os.environ.get("PATIENCE", "600")),
)
INFO = RunInfo(
    name="stand-in", total_steps=30, warmup_steps=0, epoch_samples=60, global_batch=4, candidates=4, vocabulary=99
)


def row(step: int) -> dict[str, float]:
    """The matching head is blind until step 15; step 3 is the fastest."""
    return {
        "train/loss": 10.0 / step,
        "train/lr": step * 1e-6,
        "train/loss_itm": 0.637 if step < 15 else 0.4,
        "perf/samples_per_second": 1000.0 if step == 3 else 100.0,
    }


def main(folder: Path, steps: int, seconds: float) -> None:
    saved = folder / "saved"
    done = int(saved.read_text()) if saved.exists() else None
    sinks: list[Sink] = [JsonlSink(folder, done)]
    sinks.append(WandbSink(WANDB, folder, INFO, "align", {"optim": {"lr": 1e-4}}, done))
    print("ready", flush=True)
    for step in range((done or 0) + 1, steps + 1):
        for sink in sinks:
            sink.write(step, row(step))
            if step % EVALUATE == 0:
                sink.write(step, {"eval/r_mean": float(step)})
                sink.image_table(step, "eval/matches", ["picture", "caption"], [[_picture(step), f"红色 {step}"]])
        if step % SAVE == 0:
            for sink in sinks:
                sink.checkpointed(step)
            saved.with_suffix(".new").write_text(str(step))
            saved.with_suffix(".new").rename(saved)
        print(step, flush=True)
        time.sleep(seconds)
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "bundle.json").write_text("{}")
    for sink in sinks:
        sink.bundle(bundle)
        sink.close()


def _picture(step: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (step % 256, 0, 0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
