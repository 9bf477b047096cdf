"""Meter: exact means over units, over ranks, and over steps."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp

from vglm_train.distributed import Ranks, start, stop
from vglm_train.log.meter import CAPACITY, KEPT, Meter


def test_means_are_over_units_not_over_calls():
    meter = Meter(Ranks())
    meter.add("train/loss_itg", torch.tensor(30.0), torch.tensor(10))
    meter.add("train/loss_itg", torch.tensor(1.0), 2)
    meter.add("train/itm_accuracy", 3, 4)
    meter.total("data/damaged", 2)
    meter.total("data/damaged", torch.tensor(1))
    meter.last("train/lr", 1e-4)
    meter.last("train/lr", 2e-4)
    meter.last("train/temperature", torch.tensor([0.07]))
    assert meter.row() == {
        "train/itm_accuracy": 0.75,
        "train/loss_itg": 31.0 / 12,
        "data/damaged": 3.0,
        "train/lr": 2e-4,
        "train/temperature": pytest.approx(0.07),
    }
    assert meter.row() == {}, "a row starts afresh"


def test_a_mean_over_nothing_is_left_out():
    meter = Meter(Ranks())
    meter.add("train/loss_itm", torch.tensor(0.0), torch.tensor(0))
    meter.total("data/damaged", 0)
    assert meter.row() == {"data/damaged": 0.0}


def test_values_are_taken_when_added():
    meter = Meter(Ranks())
    temperature = torch.nn.Parameter(torch.tensor([0.5]))
    meter.last("train/temperature", temperature)
    meter.add("train/loss", temperature[0] * 2, 1)
    with torch.no_grad():
        temperature.fill_(9.0)
    assert meter.row() == {"train/loss": 1.0, "train/temperature": 0.5}


def test_small_additions_to_a_large_sum_are_kept():
    meter = Meter(Ranks())
    meter.add("train/loss", torch.tensor(1e8), 1)
    for _ in range(100):
        meter.add("train/loss", torch.tensor(0.25), 0)
    assert meter.row()["train/loss"] == 1e8 + 25


def test_too_many_names_are_refused():
    meter = Meter(Ranks())
    for index in range(CAPACITY + 1):
        meter.total(f"data/{index}", 1)
    with pytest.raises(AssertionError, match="at most"):
        meter.row()


def test_two_ranks_agree_on_the_global_mean_and_notice_different_names():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, args=(port,), nprocs=2)


def _rank(rank: int, port: int) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(port), DS_ACCELERATOR="cpu")
    ranks = start("gloo")
    meter = Meter(ranks)
    meter.add("train/loss_itg", torch.tensor([10.0, 2.0][rank]), [4, 1][rank])
    meter.total("data/damaged", rank + 1)
    meter.last("train/lr", 0.5)
    assert meter.row() == {"train/loss_itg": 12 / 5, "data/damaged": 3.0, "train/lr": 0.5}
    meter.total("data/damaged" if rank else "data/other", 1)
    with pytest.raises(AssertionError, match="ranks disagree"):
        meter.row()
    meter.total("train/x", 1)
    if rank:
        meter.total("train/y", 1)
    with pytest.raises(AssertionError, match="ranks disagree"):
        meter.row()
    stop()


def test_many_values_are_summed_exactly_and_do_not_pile_up():
    """Of any dtype, some from the host, and more than are kept apart; whole numbers in fp64 have one sum."""
    made = Meter(Ranks())
    for number in range(1000):
        made.add("mean", torch.tensor(float(number)), 2 if number % 3 else torch.tensor(2))
        made.total("total", number if number % 2 else torch.tensor(number, dtype=torch.float64))
        if number % 5 == 0:
            made.total("seldom", torch.tensor(2**24 + number))  # which fp32 could not hold
    assert max(map(len, [*made._sums.values(), *made._counts.values()])) <= KEPT
    row = made.row()
    assert row == {"mean": 499500 / 2000, "total": 499500.0, "seldom": 200 * 2**24 + sum(range(0, 1000, 5))}


def test_a_last_value_that_changes_later_was_taken_as_it_was():
    made, value = Meter(Ranks()), torch.tensor(1.0)
    made.last("value", value)
    value += 1
    assert made.row() == {"value": 1.0}
