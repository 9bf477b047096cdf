"""Run folders and checkpoints that a start cannot use: one error says what to do, and what lies there stays."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from run import runs

pytestmark = pytest.mark.usefixtures("alone")
LATEST = "checkpoints/step-00000030"


@pytest.fixture(scope="module")
def straight(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run of one process."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    runs.finish_here(config, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_folder_of_another_run(refused, config: Path, straight, tmp_path: Path) -> None:
    before = contents(straight)
    said = refused(config, f"run.folder={straight}", "run.name=other", "run.seed=4")
    assert said.startswith(f"{straight} holds another run. Changed since it was started:\n")
    assert "  run.name: tiny there, other here\n  run.seed: 3 there, 4 here\n" in said
    assert said.endswith("or another run.name or run.folder for a new run.")
    assert contents(straight) == before


def test_resume_with_a_changed_model(refused, config: Path, straight) -> None:
    before = contents(straight)
    said = refused(config, f"run.folder={straight}", "model.qformer.width=64")
    assert "  model.qformer.width: 32 there, 64 here\n" in said
    assert contents(straight) == before


def test_folder_that_is_no_run(refused, config: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").touch()
    said = refused(config, f"run.folder={tmp_path / 'holiday'}")
    assert said.startswith(f"{tmp_path / 'holiday'} is not empty and holds no config.yaml, so it is not a run")
    assert [p.name for p in (tmp_path / "holiday").iterdir()] == ["photo.jpg"]
    said = refused(config, f"run.folder={tmp_path / 'holiday' / 'photo.jpg'}")
    assert said.endswith("photo.jpg is no folder, and one is needed there. Give another path.")
    said = refused(config, f"run.folder={tmp_path / 'holiday' / 'photo.jpg' / 'run'}")
    assert "photo.jpg is no folder" in said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where not even root may write")
@pytest.mark.parametrize("more", [[], ["--check"]])
def test_a_folder_that_cannot_be_written(refused, config: Path, more: list[str]) -> None:
    said = refused(config, "run.folder=/proc/nothing/here", *more)
    assert said.startswith("run.folder /proc/nothing/here: nothing can be written in /proc (")


def _cut_tensors(run: Path) -> str:
    file = run / LATEST / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return f"{file}: cannot be read ("


def _other_tensors(run: Path) -> str:
    file = run / LATEST / "tensors.safetensors"
    shutil.copy(run / "bundle" / "trained.safetensors", file)
    return f"{file} does not fit this run's model: "


def _broken_state(run: Path) -> str:
    (run / LATEST / "state.json").write_text('{"step": 3')
    return f"{run / LATEST}/state.json: cannot be read ("


def _state_of_another_version(run: Path) -> str:
    (run / LATEST / "state.json").write_text("{}")
    return f"{run / LATEST}: state.json is not of this program's making (state version None"


def _pointer_to_nothing(run: Path) -> str:
    (run / "checkpoints" / "latest").write_text("step-00000099\n")
    return f"{run}/checkpoints/latest names step-00000099, which is not a complete checkpoint. Write the name"


@pytest.mark.parametrize(
    "damage", [_cut_tensors, _other_tensors, _broken_state, _state_of_another_version, _pointer_to_nothing]
)
def test_checkpoint_that_cannot_be_read(
    refused, config: Path, straight, tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    message = damage(run)
    before = contents(run)
    said = refused(config, f"run.folder={run}")
    assert said.startswith(message)
    assert "\n" not in said
    assert contents(run) == before
