"""A stand-in for training: rows that are a function of the step, a checkpoint every few steps, W&B offline.

python wandb_run.py FOLDER STEPS [SECONDS_A_STEP]; started again, it continues from its last checkpoint.
"""

import sys
import time
from pathlib import Path

from PIL import Image

from vglm_train.config.run import Wandb
from vglm_train.log.sinks import JsonlSink, Sink, WandbSink, wandb_run_id

SAVE, EVALUATE = 5, 4


def row(step: int) -> dict[str, float]:
    return {"train/loss": 10.0 / step, "train/lr": step * 1e-6}


def main(folder: Path, steps: int, seconds: float) -> None:
    saved = folder / "saved"
    done = int(saved.read_text()) if saved.exists() else None
    wandb = WandbSink(
        Wandb(mode="offline", project="tests"),
        folder,
        run_name="stand-in",
        resolved={"optim": {"lr": 1e-4}},
        run_id=wandb_run_id(folder),
        resume_step=done,
    )
    sinks: list[Sink] = [JsonlSink(folder, done), wandb]
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
    for sink in sinks:
        sink.close()


def _picture(step: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (step % 256, 0, 0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
