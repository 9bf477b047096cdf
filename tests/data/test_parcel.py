"""A batch on its way from a loader's process."""

from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
import tiny
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vglm_train.batch import Batch, PromptBatch
from vglm_train.data.parcel import ALIGNED, pack
from vglm_train.data.prefetch import read_ahead
from vglm_train.errors import UserError


def prompts() -> PromptBatch:
    """Tensors of several types and ranks, one without elements, one that is expanded, and None."""
    ids = torch.arange(12).view(3, 4)
    return PromptBatch(
        pixels=torch.empty(0, dtype=torch.uint8), features=torch.arange(30).view(3, 2, 5).half(),
        valid=torch.tensor([True]).expand(3), first_row=7, keys=("a", "b", "c"), damaged={"torn": 1},
        input_ids=ids.T.contiguous().T, attention_mask=ids > 3, visual_mask=ids > 9, labels=ids,
        targets=torch.arange(0),
    )  # fmt: skip


def pairs() -> Batch:
    """Pictures as the turbo decoder leaves them."""
    batch = tiny.batch(3, 4)
    return replace(batch, pixels=batch.pixels.contiguous(memory_format=torch.channels_last))


def assert_same(found: Batch, wanted: Batch) -> None:
    assert type(found) is type(wanted)
    for field in fields(wanted):
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(other, Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        else:
            assert one == other, field.name


@pytest.mark.parametrize("made", [prompts, pairs])
def test_a_batch_comes_out_as_it_went_in(made) -> None:
    parcel = pack(made())
    assert_same(parcel.batch(), made())
    assert all(place.start % ALIGNED == 0 for place in parcel.places.values())
    assert {getattr(parcel.batch(), name).untyped_storage().data_ptr() for name in parcel.places} <= {
        parcel.memory.untyped_storage().data_ptr(),
        0,
    }


def test_pictures_lie_as_they_lay() -> None:
    assert pack(pairs()).batch().pixels.is_contiguous(memory_format=torch.channels_last)
    assert pack(tiny.batch(3, 4)).batch().pixels.is_contiguous()


def test_an_error_stays_what_it_is() -> None:
    error = UserError("shard torn")
    assert pack(error) is error


class _Batches(Dataset[Batch]):
    def __getitem__(self, index: int) -> Batch:
        return pairs() if index % 2 else prompts()


@pytest.mark.parametrize("workers", [0, 2])
def test_it_comes_from_other_processes(workers: int) -> None:
    """In one piece: their memory is shared before it is handed over."""
    items: Iterator = iter(read_ahead(_Batches(), range(6), workers, collate=pack))
    for index, parcel in enumerate(items):
        assert parcel.memory.is_shared() == bool(workers)
        assert_same(parcel.batch(), pairs() if index % 2 else prompts())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU; not tested here")
def test_pinned_it_is_copied_to_a_gpu() -> None:
    batch = pack(pairs()).pin_memory().batch()
    assert batch.pixels.is_pinned()
    assert_same(batch.to(torch.device("cuda")).to(torch.device("cpu")), pairs())
