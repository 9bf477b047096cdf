"""A real run as the live page sees it: under way, killed, and continued to its end."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from run import runs
from vglm_train.report.watched import WatchedRun


def state(run: WatchedRun) -> list[str]:
    run.refresh()
    return [note.code for note in run.state()]


def test_under_way_killed_and_complete(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ("checkpoint.every=2", "log.every=1", "log.tensorboard=true", "data.workers=0")
    process = runs.start(runs.command(config, folder, 1, "run.length={steps: 10000}", *words))
    try:
        runs.wait_for(folder, 6)
        run = WatchedRun(folder, "a")
        assert state(run) == []
    finally:
        runs.kill(process)
    (killed,) = [note for note in run.notes() if note.code == "killed"]
    assert int(killed.values["checkpoint"]) > 0
    assert killed.values["last"] == (folder / "log.txt").read_text().splitlines()[-1]
    end = run.health.history.last_step + 20
    runs.finish(runs.start(runs.command(config, folder, 1, f"run.length={{steps: {end}}}", *words)))
    assert state(run) == ["complete"]
    assert list(run.health.history.series("train/loss")[0]) == list(range(1, end + 1))
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    assert [each.step for each in found.Scalars("train/loss")] == list(range(1, end + 1))
    assert "health: " in (folder / "log.txt").read_text()
