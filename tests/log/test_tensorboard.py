"""RUN/tensorboard, read back as TensorBoard reads it."""

import subprocess
import sys
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vglm_train.log.sinks import JsonlSink
from vglm_train.log.tensorboard import TensorBoardSink

ROOT = Path(__file__).resolve().parents[2]


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def log(folder: Path, resume_step: int | None, steps: range, close: bool = True) -> None:
    sinks = [JsonlSink(folder, resume_step), TensorBoardSink(folder)]
    for step in steps:
        for sink in sinks:
            sink.write(step, {"train/loss": 1.0 / step, "eval/r_mean": float(step)})
            if step % 2 == 0:
                sink.image_table(step, "retrieval", ["image", "caption"], [[Image.new("RGB", (640, 320)), "一只猫"]])
    for sink in sinks if close else ():
        sink.close()


def test_scalars_pictures_and_texts(tmp_path):
    log(tmp_path, None, range(1, 5))
    found = read(tmp_path)
    assert [(each.step, round(each.value, 4)) for each in found.Scalars("train/loss")] == [
        (1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25),
    ]  # fmt: skip
    (first, second) = found.Images("retrieval/0")
    assert (first.step, second.step, first.width, first.height) == (2, 4, 256, 128)
    assert "retrieval/0/text_summary" in found.Tags()["tensors"]


def test_each_step_is_there_once_after_kills(tmp_path):
    log(tmp_path, None, range(1, 8), close=False)
    log(tmp_path, 4, range(5, 9), close=False)
    log(tmp_path, 6, range(7, 11))
    found = read(tmp_path)
    assert [each.step for each in found.Scalars("train/loss")] == list(range(1, 11))
    assert [each.step for each in found.Images("retrieval/0")] == [2, 4, 6, 8, 10]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_what_is_missing_is_named(tmp_path):
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from pathlib import Path; from vglm_train.errors import UserError\n"
        "from vglm_train.log.tensorboard import TensorBoardSink\n"
        "try: TensorBoardSink(Path(sys.argv[1]))\n"
        "except UserError as error: print(error)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    assert (
        'log.tensorboard needs tensorboard, which is not installed: pip install "vglm_train[tensorboard]"'
        in done.stdout
    )
