"""A table as people have it trains as it is, beside shards too; a missing picture is counted, not fatal."""

import json
from pathlib import Path

import made_tables
import pytest

from train import main

pytestmark = pytest.mark.usefixtures("alone")
ROWS, MISSING = 20, 2


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VisualGLM's layout; the first pictures are not there."""
    folder = tmp_path_factory.mktemp("table")
    names = made_tables.pictures(folder, ROWS)
    for name in names[:MISSING]:
        (folder / name).unlink()
    return made_tables.write_json(folder / "dataset.json", made_tables.visualglm(names))


def train(config: Path, folder: Path, sources: str, *overrides: str) -> list[dict[str, float]]:
    fixed = [
        "data.workers=0",
        "data.validation=[]",
        "evaluate.every=null",
        "data.languages=[en]",
        "data.global_batch=20",
    ]
    words = [str(config), f"run.folder={folder}", f"data.train={sources}", *fixed, "run.length={steps: 30}", *overrides]
    assert main(words) == 0
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_visualglm_json(speaking_config: dict[str, Path], table: Path, tmp_path: Path) -> None:
    sources = f"[{{name: few, table: {table}}}]"
    rows = train(speaking_config["chatglm"], tmp_path / "run", sources, "data.max_damaged=0.1")
    assert all(row["data/damaged"] == MISSING * (n + 1) for n, row in enumerate(rows)), [
        r["data/damaged"] for r in rows
    ][:4]
    assert rows[-1]["train/loss"] < rows[0]["train/loss"] - 0.5


def test_beside_shards(speaking_config: dict[str, Path], config: Path, table: Path, tmp_path: Path) -> None:
    shards = config.parent / "train"
    sources = f"[{{name: few, table: {table}, weight: 3}}, {{name: general, shards: {shards}, weight: 1}}]"
    rows = train(speaking_config["causal"], tmp_path / "run", sources, "data.max_damaged=0.1", "run.length={steps: 4}")
    assert rows[-1]["data/share_few"] == pytest.approx(0.75, abs=0.05)
