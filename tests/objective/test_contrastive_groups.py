"""ITC over 512 rows by micro-batches of 32, dropout on, is what one graph over all of them gives."""

import sys
from pathlib import Path

import pytest
import torch
from precision import EXACT
from torch import Tensor

from vglm_train.distributed import Ranks

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import group_ranks as case  # noqa: E402
import two_ranks  # noqa: E402


@pytest.fixture(scope="module", params=["fp64", "fp32"])
def precision(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def at_once(precision: str) -> dict[str, Tensor]:
    return case.at_once(case.built(Ranks()), case.micro_batches(case.whole_batch(), Ranks()), precision)


def compare(found: dict[str, Tensor], wanted: dict[str, Tensor], precision: str) -> None:
    """In fp32 to 1e-5 of the largest element: some gradients, of biases of keys, are zero but for rounding."""
    assert found.keys() == wanted.keys()
    floor = 1e-3 * max(float(v.abs().max()) for k, v in wanted.items() if k.startswith("gradient/"))
    worst = {}
    for name, value in wanted.items():
        if precision == "fp64":
            torch.testing.assert_close(found[name].double(), value.double(), **EXACT, msg=lambda m, k=name: f"{k}: {m}")
        else:
            worst[name] = float((found[name] - value).abs().max()) / max(float(value.abs().max()), floor)
    print(sorted(worst.items(), key=lambda x: -x[1])[:5])
    assert all(value < 1e-5 for value in worst.values()), worst


def test_the_case_is_worth_testing():
    batches = case.micro_batches(case.whole_batch(), Ranks())
    valid = [int(batch.valid.sum()) for batch in batches]
    assert len(batches) == 16
    assert 0 in valid
    assert len(set(valid)) > 2, "uneven numbers of valid rows"
    first, last = (set(batches[n].image_ids[batches[n].valid].tolist()) for n in (0, -1))
    assert first & last, "a picture in two micro-batches"


def test_one_rank(at_once, precision):
    batches = case.micro_batches(case.whole_batch(), Ranks())
    compare(case.by_groups(case.built(Ranks()), batches, Ranks(), precision), at_once, precision)


@pytest.mark.parametrize("world", [2, 4])
def test_several_ranks(at_once, precision, world, tmp_path):
    script = HERE / "group_ranks.py"
    for found in two_ranks.launch(tmp_path, world, "gloo", precision, script=script, DS_ACCELERATOR="cpu"):
        compare(found, at_once, precision)
