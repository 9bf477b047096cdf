"""Records with real pictures on disk, and bundles that can judge and describe them."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from run import runs, speaking

from data_tools.common import cli
from vglm_train import stages
from vglm_train.config.load import load

ROOT = Path(__file__).resolve().parents[2]


def photo(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Smooth noise with detail, its own for each number."""
    random = np.random.default_rng(number)
    pixels = np.zeros((size[1], size[0], 3))
    for cells, strength in ((4, 60), (12, 40), (40, 25)):
        grid = random.normal(size=(cells, cells, 3)).clip(-2, 2) * 32 + 128
        layer = Image.fromarray(grid.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        pixels += strength / 32 * (np.asarray(layer, dtype=np.float64) - 128)
    return Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8))


def changed(picture: Image.Image) -> dict[str, tuple[Image.Image, int]]:
    """What happens to pictures on the web: the new picture and its JPEG quality."""
    w, h = picture.size
    smaller = picture.resize((round(0.7 * w), round(0.7 * h)), Image.Resampling.LANCZOS)
    crop = picture.crop((round(0.02 * w), round(0.02 * h), w, h))
    bright = ImageEnhance.Brightness(picture).enhance(1.1)
    return {"q60": (picture, 60), "small": (smaller, 85), "bright": (bright, 85), "crop": (crop, 85)}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A records file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(cli.json_line, rows)))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def records(folder: Path, count: int, **fields: Any) -> Path:
    """`count` photos of their own with captions in both languages."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        photo(number).save(folder / f"{number}.jpg", quality=92)
        captions = {"en": [f"a photo number {number}", f"photo {number}"], "zh": [f"第{number}张照片"]}
        rows.append({"id": f"r{number}", "image": f"{number}.jpg", "captions": captions, **fields})
    return write(folder / "records.jsonl", rows)


def bundles(folder: Path) -> tuple[Path, Path]:
    """A stage-one bundle and a stage-two bundle of both languages, untrained."""
    config = runs.write_run(folder / "run")
    aligned = speaking.write_bundle(config, folder / "aligned")
    document = speaking.write_run(config, aligned, folder / "speaking", "causal")
    stage = stages.build(load(document, ()))
    torch.manual_seed(2)
    model = stage.model()
    stage.load(model)
    stage.save(folder / "speaker", model, {"run": "made"})
    return aligned, folder / "speaker"


def start(tool: str, *arguments: object) -> subprocess.Popen[bytes]:
    """`python -m data_tools.TOOL` in the background."""
    words = [sys.executable, "-m", f"data_tools.{tool}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_after(process: subprocess.Popen[bytes], parts: Path, pattern: str, count: int) -> list[str]:
    """SIGKILL as soon as `count` parts are there; the names of those that were finished."""
    deadline = time.monotonic() + 120
    while len(finished(parts, pattern)) < count:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return finished(parts, pattern)


def finished(parts: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in parts.glob(pattern) if ".tmp-" not in path.name)


def jpeg(picture: Image.Image, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()
