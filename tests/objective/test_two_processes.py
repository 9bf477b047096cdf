"""Two gloo ranks compute in float64 what one process computes: all losses and every gradient, to 1e-9."""

import sys
from pathlib import Path

import pytest
import torch
from precision import EXACT
from torch import Tensor

from vglm_train.distributed import Ranks

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import two_ranks  # noqa: E402


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> list[dict[str, Tensor]]:
    """What each of two ranks found."""
    return two_ranks.launch(tmp_path_factory.mktemp("ranks"), 2, "gloo", DS_ACCELERATOR="cpu")


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    return two_ranks.step(Ranks())


def test_the_case_is_worth_testing(alone):
    batch = two_ranks.global_batch()
    lengths = batch.text_mask.sum(1)
    assert lengths[:4].sum() != lengths[4:].sum(), "the ranks have unequal numbers of target tokens"
    assert alone["count/itc"] == 7
    assert alone["count/itm"] == 21
    assert all(
        alone[f"gradient/{name}"].any() for name in ("vision_norm.weight", "temperature", "matching_head.weight")
    )


def test_losses_counts_and_measures(alone, apart):
    for found in apart:
        for name, value in alone.items():
            if not name.startswith("gradient/"):
                assert torch.allclose(found[name], value, **EXACT), name


def test_every_gradient(alone, apart):
    names = [name for name in alone if name.startswith("gradient/")]
    assert len(names) > 50
    for found in apart:
        assert found.keys() == alone.keys()
        for name in names:
            assert torch.allclose(found[name], alone[name], **EXACT), name
