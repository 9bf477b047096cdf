"""A chat model of each family, over bundles of stage two that look at their pictures."""

from collections.abc import Iterator
from pathlib import Path

import made_language
import numpy as np
import pytest
from made_bundles import built
from PIL import Image
from run import runs, speaking

from vglm_train.chat.model import ChatModel, load

WORDS = ("what", "is", "this", "number", "which", "colour", "that", "yes", "no", "red")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A stage-two bundle of each family, and the stage-one bundle under "align"."""
    folder = tmp_path_factory.mktemp("chat")
    config = runs.write_run(folder / "data")
    made = {"align": speaking.write_bundle(config, folder / "aligned")}
    for family in speaking.FAMILIES:
        path = speaking.write_run(config, made["align"], folder / "made", family, WORDS)
        stage, model = built(path, *(["model.language.positions=200"] if family == "chatglm" else []))
        made_language.spread(model.projection)
        made_language.spread(model.qformer)
        stage.save(folder / family, model, {"run": "made"})
        made[family] = folder / family
    return made


@pytest.fixture(scope="session")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose Q-Former reads the question."""
    folder = tmp_path_factory.mktemp("reading")
    config = runs.write_run(folder / "data")
    path = speaking.write_run(config, speaking.write_bundle(config, folder / "aligned"), folder / "made", "causal")
    stage, model = built(
        path,
        "model.qformer.reads_question=true",
        "model.text={max_length: 10, processor: plain, language_token: true}",
        f"model.text.tokenizer={folder / 'data' / 'vocab.txt'}",
    )
    made_language.spread(model.qformer)
    stage.save(folder / "reads", model, {"run": "made"})
    return folder / "reads"


@pytest.fixture(scope="session")
def models(bundles: dict[str, Path]) -> Iterator[dict[str, ChatModel]]:
    opened = {family: load(bundles[family], device="cpu") for family in speaking.FAMILIES}
    yield opened
    for model in opened.values():
        model.close(finish=False)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """PNG files."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(draw.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return paths
