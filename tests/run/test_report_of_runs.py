"""The report's verdict on short real runs of which it is known that they cannot learn."""

import json
from pathlib import Path

import pytest
from made_shards import sample, write_manifest, write_shard

from run import runs
from vglm_train.report.runs import read_runs
from vglm_train.report.verdict import assess_run

pytestmark = pytest.mark.usefixtures("alone")
SHORT = (
    "run.length={steps: 60}", "checkpoint.every=1000", "evaluate.every=60", "evaluate.rerank=0", "data.workers=0",
    "data.languages=[en]", "model.text.language_token=false", "model.qformer.dropout=0",
)  # fmt: skip


def verdict(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"ok": [], "warn": [], "fact": []}
    for line in assess_run(read_runs([folder])[0]):
        found[line.kind].append(line.text.en)
    return found


def write_source(folder: Path, numbers: range) -> str:
    """Pictures that all have the same caption."""
    folder.mkdir()
    records = [{"id": str(n), "image_id": n, "captions": {"en": ["a photo"]}} for n in numbers]
    write_shard(folder / "a.tar", [sample(n, json=json.dumps(each).encode()) for n, each in zip(numbers, records)])
    write_manifest(folder, {"a.tar": len(numbers)})
    return f"[{{name: same, shards: {folder}}}]"


def test_captions_that_say_nothing_of_their_pictures(config: Path, tmp_path: Path) -> None:
    """Only ITG can learn: to write the one caption."""
    train, held = write_source(tmp_path / "a", range(60)), write_source(tmp_path / "b", range(60, 80))
    sources = f"data.train={train}", f"data.validation={held}"
    runs.finish_here(config, tmp_path / "run", *SHORT, *sources)
    said = verdict(tmp_path / "run")
    assert [text[:3] for text in said["ok"] if text.endswith("learning.")] == ["ITG"]
    itc, itm = (next(text for text in said["fact"] if text.startswith(name)) for name in ("ITC", "ITM"))
    assert "the run has ended without learning it" in itc
    assert "the run has ended without learning it" in itm
    assert "Held-out, step 60: ITM accuracy en " in itm
    assert not any("overfitting" in text or "images exchanged" in text for text in said["warn"])


def test_a_learning_rate_that_is_far_too_high(config: Path, tmp_path: Path) -> None:
    runs.finish_here(config, tmp_path / "run", *SHORT, "optim.lr=3", "optim.clip=null")
    said = verdict(tmp_path / "run")
    assert not any(text.endswith("learning.") for text in said["ok"])
    assert any(text.startswith("ITG") and "worse than an even guess" in text for text in said["warn"])
