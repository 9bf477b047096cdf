"""Two gloo ranks compute what one process computes: all losses and every gradient, to 1e-5."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vglm_train.distributed import Ranks

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import two_ranks  # noqa: E402


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> list[dict[str, Tensor]]:
    """What each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)]),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, str(HERE / "two_ranks.py"), str(folder)]
    ranks = [
        subprocess.Popen(command, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE)
        for r in range(2)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


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
                assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-5), name


def test_every_gradient(alone, apart):
    names = [name for name in alone if name.startswith("gradient/")]
    assert len(names) > 50
    for found in apart:
        assert found.keys() == alone.keys()
        for name in names:
            assert torch.allclose(found[name], alone[name], rtol=1e-5, atol=1e-5), name
