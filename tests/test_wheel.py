"""The wheel: what is in it, and that it does everything from a folder of its own."""

import shutil
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from first_run import Vglm, train_on_ten_pictures
from first_run import run as run_command

from vglm_train import __version__

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("vglm_train", "data_tools", "benchmarks", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
INSIDE = "vglm_train/_shipped"


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
    run_command(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, copy)
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
    run_command(sys.executable, "-m", "pip", "--python", place, "install", "-q", "--no-deps", "--no-index", wheel)
    empty.mkdir()
    command = Path(sysconfig.get_path("scripts", "venv", paths)) / "vglm"

    def run(*words: object, status: int = 0) -> str:
        return run_command(command, *words, cwd=empty, status=status)

    return run


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
    train_on_ten_pictures(vglm, tmp_path / "empty")
