"""`--check` of a run that continues says what its training says, and what it could not look at."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from made_shards import sample, write_manifest, write_shard

from run.starts import STEPS, begin, go_on, said, second_start
from train import main

pytestmark = pytest.mark.usefixtures("alone")


def changes_in(text: str) -> list[str]:
    return [line.partition("changed: ")[2] for line in text.splitlines() if "changed: " in line]


def more_samples(home: Path) -> None:
    write_shard(home / "train" / "shard-000003.tar", [sample(100 + n) for n in range(20)])
    counts = {f"shard-{n:06d}.tar": count for n, count in enumerate((40, 33, 27, 20))}
    write_manifest(home / "train", counts, captions={"en": 240, "zh": 120})


def fewer_held_out(home: Path) -> None:
    write_shard(home / "val" / "shard-000000.tar", [sample(180 + n) for n in range(11)])
    write_manifest(home / "val", {"shard-000000.tar": 11}, captions={"en": 22, "zh": 11})


def test_the_same_lines_as_in_training(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(home, "checkpoint.best=eval/r_mean")
    more_samples(home)
    fewer_held_out(home)
    words = ("--accept-changes", "checkpoint.best=eval/en_itm_accuracy", "engine.micro_batch=5", "log.every=2")
    capsys.readouterr()
    assert go_on(home, "--check", *words) == 0
    checked = changes_in(capsys.readouterr().out)
    assert go_on(home, *words) == 0
    assert checked == changes_in(said(home))
    for part in (
        "data.train made: 100 samples in 3 shards", "run.length.steps: 5 before, 10 now", "log.every: 1 before, 2 now",
        f"the data is read from its beginning again, in a new order, from step {STEPS} on",
        "data.validation: 12 samples", "the best step so far, 5 with", "ITC has compared each image with 20 texts",
    ):  # fmt: skip
        assert any(part in line for line in checked), part


def without_data(home: Path) -> None:
    shutil.rmtree(home / "train")


def without_validation(home: Path) -> None:
    shutil.rmtree(home / "val")


def without_weights(home: Path) -> None:
    (home / "encoder.safetensors").unlink()


ABSENT: dict[str, tuple[tuple[Callable[[Path], None], ...], str, tuple[str, ...]]] = {
    "training data": ((without_data,), "1 input", ("data.train made ({0}/train: no such folder of shards. vglm",)),
    "validation data": ((without_validation,), "1 input", ("data.validation made ({0}/val: no such",)),
    "weights": ((without_weights,), "1 input", ("model.vision.weights ({0}/encoder.safetensors)",)),
    "all": ((without_data, without_validation, without_weights), "3 inputs",
            ("data.train made", "data.validation made", "model.vision.weights")),
}  # fmt: skip


@pytest.mark.parametrize(("remove", "count", "named"), ABSENT.values(), ids=ABSENT)
@pytest.mark.parametrize("second", [False, True], ids=["first start", "second start"])
def test_what_is_not_here_is_the_last_line(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    second: bool,
    remove: tuple[Callable[[Path], None], ...],
    count: str,
    named: tuple[str, ...],
) -> None:
    if second:
        begin(home)
    for each in remove:
        each(home)
    capsys.readouterr()
    assert go_on(home, "--check") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"not here: {count} that training needs and this check could not look at: ")
    for part in named:
        assert part.format(home) in last
    assert go_on(home) == 2


def test_what_is_here_is_compared_though_something_is_not(
    home: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    begin(home)
    more_samples(home)
    without_weights(home)
    capsys.readouterr()
    assert go_on(home, "--check") == 2
    said_by_check = capsys.readouterr().err
    assert "data.train made: 100 samples in 3 shards" in said_by_check
    assert "model.vision.weights" not in said_by_check


def test_one_of_two_sources_is_not_here(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load((home / "run.yaml").read_text())
    shutil.copytree(home / "train", home / "more")
    document["data"]["train"].append({"name": "more", "shards": str(home / "more")})
    (home / "run.yaml").write_text(yaml.safe_dump(document))
    begin(home)
    shutil.rmtree(home / "train")
    write_shard(home / "more" / "shard-000000.tar", [sample(n) for n in range(40, 80)])
    write_manifest(home / "more", {"shard-000000.tar": 40}, captions={"en": 80, "zh": 40})
    capsys.readouterr()
    assert main([*map(str, second_start(home)), "--check"]) == 2
    error = capsys.readouterr().err
    assert "data.train more: 100 samples in 3 shards" in error
    assert "data.train made" not in error


def test_a_run_without_a_finished_checkpoint_begins_anew(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a kill while the first one is written; other data is then no change."""
    begin(home)
    shutil.rmtree(home / "run" / "checkpoints")
    more_samples(home)
    capsys.readouterr()
    assert go_on(home, "--check") == 0
    words = f"{home / 'run'}, no checkpoint is in it, so the run begins anew at step 0"
    assert f"folder: {words}" in capsys.readouterr().out
    assert go_on(home, steps=STEPS) == 0
    assert words.replace(",", ":", 1) in said(home)
    rows = [json.loads(line)["step"] for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == sorted(rows)
    assert rows[0] == 1


def test_validation_data_that_cannot_be_scored_is_refused_without_a_best_metric(
    table: Path, refused: Callable[..., str]
) -> None:
    """Questions where captions are scored."""
    document = yaml.safe_load((table / "run.yaml").read_text())
    document["data"]["validation"] = [{"name": "held", "table": str(table / "table.json")}]
    (table / "run.yaml").write_text(yaml.safe_dump(document))
    words = (f"run.folder={table / 'run'}", "evaluate.allow_training_data=true")
    assert "usable pictures none has a caption in en" in refused(table / "run.yaml", *words)
