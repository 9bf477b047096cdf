"""What of the validation data is evaluated, and what a best step can be chosen by."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_shards import sample, write_manifest, write_shard

from run import runs
from vglm_train.report.runs import read_runs
from vglm_train.report.verdict import assess_run

pytestmark = pytest.mark.usefixtures("alone")
SHORT = (
    "run.length={steps: 2}",
    "optim.warmup={steps: 1}",
    "checkpoint.every=2",
    "evaluate.every=1",
    "data.workers=0",
    "checkpoint.keep=1",
)


def write_source(folder: Path, language: str, count: int) -> str:
    folder.mkdir()
    records: list[dict[str, Any]] = [
        {"id": str(n), "image_id": 100 + n, "captions": {language: [f"photo {n}"]}} for n in range(count)
    ]
    write_shard(folder / "a.tar", [sample(n, json=json.dumps(each).encode()) for n, each in enumerate(records)])
    write_manifest(folder, {"a.tar": count})
    return f"{{name: {language}, shards: {folder}}}"


def test_the_only_chinese_source_comes_second(config: Path, tmp_path: Path) -> None:
    sources = [write_source(tmp_path / "en", "en", 30), write_source(tmp_path / "zh", "zh", 6)]
    words = (f"data.validation=[{', '.join(sources)}]", "evaluate.images=8", "checkpoint.best=eval/zh_t2i_r1")
    runs.finish_here(config, tmp_path / "run", *SHORT, *words)
    scores = {name for _, name, _ in runs.losses(tmp_path / "run") if name.startswith("eval/")}
    assert {"eval/en_i2t_r1", "eval/zh_i2t_r1", "eval/r_mean"} <= scores


@pytest.mark.parametrize(
    ("best", "chinese"), [("eval/zh_t2i_r1", 0), ("eval/zh_itm_accuracy", 1)], ids=["none", "nothing to choose from"]
)
def test_a_best_score_that_the_data_does_not_give(
    refused: Callable[..., str], config: Path, tmp_path: Path, best: str, chinese: int
) -> None:
    sources = [write_source(tmp_path / "en", "en", 6)]
    sources += [write_source(tmp_path / "zh", "zh", chinese)] if chinese else []
    words = (f"data.validation=[{', '.join(sources)}]", f"checkpoint.best={best}", f"run.folder={tmp_path / 'run'}")
    said = refused(config, *SHORT, *words)
    assert f"'{best}' is nothing that the validation data gives; it gives eval/r_mean, eval/en_i2t_r1" in said
    assert not (tmp_path / "run" / "metrics.jsonl").read_text(), "no step was made"


def test_validation_data_that_is_training_data(refused: Callable[..., str], config: Path, tmp_path: Path) -> None:
    """Refused, and where it is meant told: on the console, and by every report of the run."""
    words = (*SHORT, f"data.validation.0.shards={config.parent / 'train'}")
    said = refused(config, *words, f"run.folder={tmp_path / 'run'}")
    assert "data.validation: has shards of data.train, 3 of its 3: " in said
    assert "evaluate.allow_training_data=true" in said
    assert not (tmp_path / "run").exists()
    runs.finish_here(config, tmp_path / "run", *words, "evaluate.allow_training_data=true")
    assert "data.validation has shards of data.train, 3 of its 3: " in (tmp_path / "run" / "log.txt").read_text()
    (run,) = read_runs([tmp_path / "run"])
    (line,) = (line for line in assess_run(run) if "shards of data.train" in line.text.en)
    assert (line.kind, line.text.en[:28]) == ("warn", "Held-out scores are too good")
