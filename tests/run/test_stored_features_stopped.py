"""A run that is ended while it fills the store of features: nothing half-written, nobody left, and it goes on."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import yaml
from made_shards import jpeg, sample, write_manifest, write_shard

from run import runs

PICTURES = 1280
SLOW = """\
import time

import PIL.Image

real = PIL.Image.open
PIL.Image.open = lambda *given, **more: (time.sleep(0.01), real(*given, **more))[1]
"""


def stored(folder: Path) -> int:
    """Bytes of rows that are on disk."""
    return sum(path.stat().st_size for path in folder.glob("*/part-*.rows"))


def end(process, folder: Path, number: int, group: bool) -> str:
    """Send the signal once more rows are being written; what the process said. Its workers must be gone as well."""
    before, until = len(list(folder.glob("*/part-*.rows"))), time.monotonic() + 60
    while len(list(folder.glob("*/part-*.rows"))) == before:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.5)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    if group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), said
    _, left = psutil.wait_procs(workers, timeout=15)
    assert not left
    assert "Traceback" not in said
    return said


@pytest.mark.slow
def test_ended_and_begun_again(config: Path, tmp_path: Path) -> None:
    """By Ctrl-C, which reaches workers too, by a scheduler's SIGTERM, and by a kill."""
    (tmp_path / "train").mkdir()
    pictures = [jpeg(n, (40 + n // 256, 32)) for n in range(PICTURES)]  # numbers give 256 colours
    write_shard(tmp_path / "train" / "a.tar", [sample(n, jpg=picture) for n, picture in enumerate(pictures)])
    write_manifest(tmp_path / "train", {"a.tar": PICTURES}, captions={"en": 2 * PICTURES, "zh": PICTURES})
    document = yaml.safe_load(config.read_text())
    document["data"] |= {"train": [{"name": "made", "shards": str(tmp_path / "train")}], "validation": []}
    # the decoder that SLOW makes slow
    document["data"]["image"] = {"crop_scale": [1, 1], "flip": False, "decoder": "pillow"}
    document["model"]["qformer"]["dropout"] = 0.0
    document |= {"evaluate": {"every": None}, "checkpoint": {"every": 4}}
    document["run"]["length"] = {"steps": 4}
    document["optim"]["eps"] = 1e-4  # by 1e-8, what rounding leaves of a zero gradient is a whole step
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    slow = {"PYTHONPATH": runs.python_path(tmp_path / "slow")}

    def command(name: str) -> list[str]:
        features = f"data.features={{folder: {tmp_path / f'{name}_features'}}}"
        return runs.command(tmp_path / "run.yaml", tmp_path / name, 1, features)

    folder = tmp_path / "ended_features"
    for number, group in ((signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, False)):
        before = stored(folder)
        said = end(runs.start(command("ended"), **slow), folder, number, group)
        assert not (tmp_path / "ended").exists()
        if number != signal.SIGKILL:
            assert said.splitlines()[-1] == "stopped; the same command goes on from what is saved"
            assert stored(folder) > before, "what was computed is kept"
    said = runs.finish(runs.start(command("ended")))
    number = int(said.partition("features: ")[2].split()[0])
    assert 64 <= number < PICTURES, "it went on from what was stored"
    runs.finish(runs.start(command("straight")))
    ended, straight = runs.losses(tmp_path / "ended"), runs.losses(tmp_path / "straight")
    assert [row[:2] for row in ended] == [row[:2] for row in straight]
    for one, other in zip(ended, straight):
        assert one[2] == pytest.approx(other[2], rel=1e-4, abs=1e-4), one[:2]  # batches of other sizes
