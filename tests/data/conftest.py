"""Sources and loaders for the tests of the stream."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_shards import TOKENS, write_source

from vglm_train.config.data import Data, Source
from vglm_train.config.model import Model, Text, Vision
from vglm_train.config.run import Config, Engine, Run
from vglm_train.data import loader
from vglm_train.data.loader import Loader
from vglm_train.data.processors import PairProcessor
from vglm_train.distributed import Ranks
from vglm_train.prompt.qformer_text import build_text


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "vocab.txt"
    path.write_text("\n".join([*TOKENS, *map(str, range(200))]) + "\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """31 samples in 7 shards of unequal size."""
    return write_source(tmp_path_factory.mktemp("uneven"), [5, 1, 9, 4, 0, 7, 5])


LoaderOf = Callable[..., Loader]


@pytest.fixture
def loader_of(vocabulary: Path) -> LoaderOf:
    """A loader over folders of shards; keywords go to the sections that have them."""

    def build(*folders: Path, rank: int = 0, world: int = 1, micro: int | None = None, **data: Any) -> Loader:
        text = data.pop("text", Text(tokenizer=str(vocabulary), max_length=12, processor="plain", language_token=True))
        sources = tuple(Source(name=f"source{n}", shards=str(folder)) for n, folder in enumerate(folders))
        defaults = {"languages": ("en", "zh"), "global_batch": 12, "workers": 0, "shuffle_shards": 2}
        config = Config(
            run=Run(name="test", seed=data.pop("seed", 7)),
            data=Data(**{"train": sources, **defaults, **data}),
            model=Model(vision=Vision(image_size=16, patch=8), text=text),
            engine=Engine(micro_batch=micro),
        )
        rows = PairProcessor(build_text(text, config.data.languages), config.data.languages)
        return loader.build(config, rows, Ranks(rank=rank, world=world))

    return build
