"""What a card gives to collectives is counted, however the call names it."""

import pytest
import torch
import torch.distributed as dist

from benchmarks import watched_run
from benchmarks.watched_run import COUNTED, Bytes


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """A group of one process, whose collectives are counted."""
    for name in COUNTED:
        if hasattr(dist, name):
            monkeypatch.setattr(dist, name, getattr(dist, name))  # given back at the end
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield Bytes()
    dist.destroy_process_group()


def test_calls_by_place_and_by_name_count_alike(counted):
    """DeepSpeed gives all tensors by name."""
    one, out = torch.ones(10), torch.empty(10)
    calls = [
        lambda: dist.all_reduce(one),
        lambda: dist.all_reduce(tensor=one),
        lambda: dist.reduce(tensor=one, dst=0),
        lambda: dist.all_gather_into_tensor(out, one),
        lambda: dist.all_gather_into_tensor(output_tensor=out, input_tensor=one),
        lambda: dist.all_gather(tensor_list=[out], tensor=one),
        lambda: dist.broadcast(tensor=one, src=0),
    ]
    for number, call in enumerate(calls, 1):
        call()
        assert counted.total == number * one.nbytes


def test_spans_that_overlap_count_once():
    assert watched_run.union([(0, 2), (1, 3), (5, 6), (5, 5.5)]) == 4
