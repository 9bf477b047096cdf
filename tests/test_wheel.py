"""The wheel: what is in it, and that it does everything from a folder of its own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vglm_train import __version__

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("vglm_train", "data_tools", "benchmarks", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
INSIDE = "vglm_train/_shipped"
SMALL = (
    "run.name=try", "run.length={steps: 12}", "optim.warmup={steps: 2}", "data.global_batch=4", "data.workers=1",
    "engine.precision=fp32", "engine.backend=gloo", "evaluate.every=6", "checkpoint.every=6", "log.every=2",
    "model.vision={family: eva, image_size: 16, patch: 8, width: 24, depth: 1, heads: 2, mlp_width: 48, dtype: fp32}",
    "model.qformer={layers: 2, width: 32, heads: 2, mlp_width: 48}",
)  # fmt: skip
Vglm = Callable[..., str]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools leaves a folder `build` where it works."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "sources"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    _run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, copy)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture
def vglm(wheel: Path, tmp_path: Path) -> Vglm:
    """`vglm ...` of the installed wheel in an empty folder; this environment's libraries, but not the checkout."""
    place, empty = tmp_path / "environment", tmp_path / "empty"
    venv.create(place, symlinks=True)
    paths = {"base": str(place), "platbase": str(place)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    _run(sys.executable, "-m", "pip", "--python", place, "install", "-q", "--no-deps", "--no-index", wheel)
    empty.mkdir()
    command = Path(sysconfig.get_path("scripts", "venv", paths)) / "vglm"

    def run(*words: object, status: int = 0) -> str:
        return _run(command, *words, cwd=empty, status=status)

    return run


def _run(*words: object, cwd: Path | None = None, status: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_only_one_top_level_name_is_taken(names):
    assert {name.split("/")[0] for name in names} == {"vglm_train", f"vglm_train-{__version__}.dist-info"}


@pytest.mark.parametrize(
    ("folder", "place"), [("vglm_train", ""), ("data_tools", f"{INSIDE}/"), ("benchmarks", f"{INSIDE}/")]
)
def test_every_file_is_in_the_wheel(names, folder, place):
    """Modules, and what they read: pages, styles."""
    files = (
        path for path in (ROOT / folder).rglob("*") if path.is_file() and not {"__pycache__", "results"} & {*path.parts}
    )
    assert {place + path.relative_to(ROOT).as_posix() for path in files} <= names


def test_every_preset_is_in_the_wheel(names):
    files = {
        f"{INSIDE}/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*") if path.is_file()
    }
    assert files <= names


def test_licence_types_and_version(wheel, names):
    information = f"vglm_train-{__version__}.dist-info"
    assert {"vglm_train/py.typed", f"{information}/licenses/LICENSE", f"{information}/entry_points.txt"} <= names
    with zipfile.ZipFile(wheel) as archive:
        assert f"Version: {__version__}\n" in archive.read(f"{information}/METADATA").decode()


@pytest.mark.slow
def test_the_wheel_does_everything_from_an_empty_folder(vglm, tmp_path):
    empty = tmp_path / "empty"
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
    assert (empty / "scores.json").is_file()
    assert json.loads((empty / "speed.json").read_text("utf-8"))["rows"][0]["case"] == "vision"
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
