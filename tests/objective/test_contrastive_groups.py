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


@pytest.fixture(scope="module")
def at_once() -> dict[str, Tensor]:
    return case.at_once(case.built(Ranks()), case.micro_batches(case.whole_batch(), Ranks()))


def compare(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].double(), value.double(), **EXACT, msg=lambda m, k=name: f"{k}: {m}")


def test_the_case_is_worth_testing():
    batches = case.micro_batches(case.whole_batch(), Ranks())
    valid = [int(batch.valid.sum()) for batch in batches]
    assert len(batches) == 16
    assert 0 in valid
    assert len(set(valid)) > 2, "uneven numbers of valid rows"
    first, last = (set(batches[n].image_ids[batches[n].valid].tolist()) for n in (0, -1))
    assert first & last, "a picture in two micro-batches"


def test_one_rank(at_once):
    batches = case.micro_batches(case.whole_batch(), Ranks())
    compare(case.by_groups(case.built(Ranks()), batches, Ranks()), at_once)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_ranks(at_once, world, tmp_path):
    script = HERE / "group_ranks.py"
    for found in two_ranks.launch(tmp_path, world, "gloo", script=script, DS_ACCELERATOR="cpu"):
        compare(found, at_once)


def small(rows: int | None, micro: int, **losses: float) -> dict[str, Tensor]:
    """64 rows without dropout, whose masks go by micro-batch."""
    batches = case.micro_batches(case.whole_batch(64), Ranks(), micro)
    return case.by_groups(case.built(Ranks(), rows, dropout=0.0, **losses), batches, Ranks())


def test_a_group_is_as_if_all_its_rows_ran_at_once():
    compare(small(64, 8), small(None, 64))


def test_a_step_of_two_groups():
    compare(small(32, 8), small(None, 32))


@pytest.mark.parametrize("name", case.LOSSES)
def test_a_loss_of_weight_zero_is_not_computed(name):
    found = small(64, 16, **{name: 0.0})
    assert f"loss/{name}" not in found
    compare(found, small(None, 64, **{name: 0.0}))


def test_without_itc_and_itm_there_is_nothing_to_compare(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("gathered for nothing")

    monkeypatch.setattr("vglm_train.objective.alignment.Group", refuse)
    found = small(64, 16, itc=0.0, itm=0.0)
    assert {name for name in found if name.startswith("loss/")} == {"loss/itg"}


def test_what_a_step_that_failed_left_behind_is_forgotten():
    objective = case.built(Ranks(), 64)
    batches = case.micro_batches(case.whole_batch(64), Ranks(), 16)
    objective.prepare(batches)
    objective(batches[0])
    first = case.by_groups(objective, batches, Ranks())
    compare(first, case.by_groups(case.built(Ranks(), 64), batches, Ranks()))


@pytest.mark.parametrize("recompute", [False, True])
def test_both_passes_have_the_same_dropout(recompute, monkeypatch):
    """The gradient is exact only if the second pass embeds what the first did, bit by bit."""
    objective = case.built(Ranks(), 64)
    model, seen = objective.model, []
    model.recompute(recompute)
    for name in ("image_embeds", "text_embeds"):
        embed = getattr(model, name)
        monkeypatch.setattr(model, name, lambda x, embed=embed: seen.append(embed(x)) or seen[-1])
    batches = case.micro_batches(case.whole_batch(64), Ranks(), 16)
    objective.prepare(batches)
    for batch in batches:
        sum(objective(batch).sums.values()).backward()
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(first) == 2 * len(batches)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    model.zero_grad()
    model.eval()
    assert not torch.equal(model.image_embeds(model.qformer.queries(model.image_keys(model.encode_image(
        batches[0].pixels)))[0]), first[0])  # fmt: skip
