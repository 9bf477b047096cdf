"""What people do first with an installed `vglm`, in an empty folder."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from PIL import Image

SMALL = (
    "run.name=try", "run.length={steps: 12}", "optim.warmup={steps: 2}", "data.global_batch=4", "data.workers=1",
    "engine.precision=fp32", "engine.backend=gloo", "evaluate.every=6", "checkpoint.every=6", "log.every=2",
    "model.vision={family: eva, image_size: 16, patch: 8, width: 24, depth: 1, heads: 2, mlp_width: 48, dtype: fp32}",
    "model.qformer={layers: 2, width: 32, heads: 2, mlp_width: 48}",
)  # fmt: skip
Vglm = Callable[..., str]


def run(*words: object, cwd: Path | None = None, status: int = 0, text: str = "", hidden: tuple[str, ...] = ()) -> str:
    """What a command prints, without the checkout and the environment variables that begin with `hidden`.

    `text`: what is typed. AssertionError for another exit status.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", *hidden))}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        input=text,
        timeout=1800,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def train_on_ten_pictures(vglm: Vglm, empty: Path) -> None:
    """Check presets by name, convert, pack, learn words, train twelve steps, evaluate, report, benchmark."""
    _make_photos(empty / "photos")
    assert "train " in vglm("--help")
    assert "shards: elsewhere" in vglm("train", "lavis_stage1", "--check", "data.train.0.shards=elsewhere")
    assert "configs/language/opt-2.7b" in vglm("train", "lavis_stage2_opt", "--check")
    vglm("data", "convert", "photos/captions.jsonl", "--out", "data/photos/records.jsonl")
    for split, count in (("train", 8), ("val", 2)):
        packed = vglm(
            "data", "pack_shards", "data/photos/records.jsonl", "--out", f"data/photos/{split}", "--split", split,
            "--samples-per-shard", "4", "--workers", "2",
        )  # fmt: skip
        assert f"{count} samples" in packed
    vglm("data", "vocabulary", "data/photos/records.jsonl", "--out", "data/photos/vocab.txt")
    vglm("train", "photos", *SMALL)
    rows = [json.loads(line) for line in (empty / "runs/try/metrics.jsonl").read_text("utf-8").splitlines()]
    assert max(row["step"] for row in rows if "step" in row) == 12
    assert "i2t_r1" in vglm("evaluate", "runs/try/bundle", "--data", "data/photos/val", "--out", "scores.json")
    vglm("report", "runs/try")
    assert "[1/1] vision" in vglm("benchmark", "vision", "--quick", "--out", "speed.json")
    assert json.loads((empty / "speed.json").read_text("utf-8"))["rows"][0]["case"] == "vision"
    assert (empty / "scores.json").is_file()
    assert (empty / "runs/try/report/report.html").is_file()


def _make_photos(folder: Path) -> None:
    """Ten plain pictures with a caption in each language; two of them for validation."""
    (folder / "images").mkdir(parents=True)
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as file:
        for number in range(10):
            Image.new("RGB", (24, 24), (25 * number, 90, 200)).save(folder / f"images/{number}.png")
            row = {
                "image": f"images/{number}.png",
                "captions_en": [f"a blue square with number {number}"],
                "captions_zh": [f"第{number}个蓝色方块"],
                "split": "val" if number > 7 else "train",
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
