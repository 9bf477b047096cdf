"""Bundles of each stage and family, small and random, in their own folders."""

from pathlib import Path

import made_language
import pytest
from made_bundles import built
from run import runs, speaking

WORDS = (
    "▁Question", "▁Answer", "▁Short", "▁answer", "▁what", "▁is", "▁this", "▁it", "▁which", "▁that", "▁colour", "▁red",
    "▁of", "?", ":",
)  # fmt: skip


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A stage-two bundle of each family, and the stage-one bundle under "align", whose texts may be 40 tokens long."""
    folder = tmp_path_factory.mktemp("protocols")
    config = runs.write_run(folder / "data")
    made = {"align": folder / "aligned"}
    stage, model = built(config, "model.qformer.positions=40")
    made_language.spread(model)
    stage.save(made["align"], model, {"run": "made"})
    start = speaking.write_bundle(config, folder / "start")
    for family in speaking.FAMILIES:
        path = speaking.write_run(config, start, folder / "made", family, WORDS)
        stage, model = built(path, *(["model.language.positions=200"] if family == "chatglm" else []))
        made_language.spread(model.projection)
        made_language.spread(model.qformer)
        stage.save(folder / family, model, {"run": "made"})
        made[family] = folder / family
    return made
