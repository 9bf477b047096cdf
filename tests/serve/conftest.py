"""A server of a tiny model; bundles and pictures are those of the tests of chat."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat.conftest import bundles, pictures  # noqa: F401  (fixtures)
from serve.made_server import Running, serving_at

from vglm_train.chat.model import ChatModel, load
from vglm_train.chat.request import Limits


@pytest.fixture(scope="session")
def made(bundles: dict[str, Path]) -> Iterator[Callable[..., ChatModel]]:  # noqa: F811
    """Opens a model of its own, which a server may close."""
    opened: list[ChatModel] = []

    def make(family: str = "causal", **limits: Any) -> ChatModel:
        opened.append(load(bundles[family], device="cpu", limits=Limits(**limits)))
        return opened[-1]

    yield make
    for model in opened:
        model.close(finish=False)


@pytest.fixture(scope="module")
def tiny(made: Callable[..., ChatModel]) -> Iterator[Running]:
    """A server of the decoder-only model, without a token."""
    with serving_at(made()) as running:
        yield running
