"""Frozen blocks divided between two processes, each with answers of its own lengths: the bits of the whole model."""

from pathlib import Path

import pytest
import torch
from objective import two_ranks
from torch import Tensor

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two ranks found, all cases."""
    folder = tmp_path_factory.mktemp("divided")
    return two_ranks.launch(folder, 2, script=HERE / "divided_ranks.py", DS_ACCELERATOR="cpu")


@pytest.mark.parametrize("case", ["chatglm-None", "causal-None", "seq2seq-None", "causal-nf4"])
def test_the_bits_of_the_whole_model(apart: list[dict[str, Tensor]], case: str) -> None:
    for rank, found in enumerate(apart):
        own = {name.removeprefix(f"{case}/"): value for name, value in found.items() if name.startswith(f"{case}/")}
        whole = {name.removeprefix("whole/"): value for name, value in own.items() if name.startswith("whole/")}
        assert sum("lora" in name for name in whole) > 3
        assert whole["embeds"].any()
        ways = ["divided", "again"] + (["restored"] if rank == 0 else [])
        for way in ways:
            for name in whole if way == "divided" else set(whole) - {"answers"}:
                assert torch.equal(own[f"{way}/{name}"], whole[name]), (rank, way, name)
        kept, size = own["sizes"].tolist()
        assert 2 * kept == size
