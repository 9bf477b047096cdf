"""Batches on the device: the same ones in the same order, however long the device takes."""

import pytest
import tiny
import torch

from vglm_train.data.parcel import pack
from vglm_train.engine.device_prefetch import DevicePrefetch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


@pytest.mark.parametrize("device", DEVICES)
def test_same_batches_in_order(device: str) -> None:
    made = [tiny.batch(8 * number, 8) for number in range(20)]
    host = (pack(batch).pin_memory().batch() if device == "cuda" else batch for batch in made)
    load = torch.randn(2000, 2000, device=device)
    found = []
    for batch in DevicePrefetch(host, torch.device(device)):
        if device == "cuda":
            load = load @ load / 2000  # the device is behind, and memory of batches that were let go is wanted again
        found.append((batch.pixels.float().sum(), batch.text_ids.clone(), batch.first_row))
    assert len(found) == len(made)
    for (total, ids, first), batch in zip(found, made):
        assert total == batch.pixels.float().sum()
        assert torch.equal(ids.cpu(), batch.text_ids)
        assert first == batch.first_row


def numbered(read: list[int], most: int = 100):
    """Batches that note that they were read; an error after `most`."""
    while len(read) < most:
        read.append(len(read))
        yield tiny.batch(8 * read[-1], 8)
    raise OSError("a shard is gone")


@pytest.mark.parametrize("device", DEVICES)
def test_at_most_one_more_is_read(device: str) -> None:
    read: list[int] = []
    batches = DevicePrefetch(numbered(read), torch.device(device))
    for number in range(3):
        assert next(batches).first_row == 8 * number
        batches.look_ahead()
        batches.look_ahead()  # it was read already
        assert len(read) == number + 1 + (device == "cuda")


@pytest.mark.parametrize("device", DEVICES)
def test_what_goes_wrong_ahead_is_raised_when_the_batch_is_asked_for(device: str) -> None:
    batches = DevicePrefetch(numbered([], most=2), torch.device(device))
    assert next(batches).first_row == 0
    batches.look_ahead()
    assert next(batches).first_row == 8
    batches.look_ahead()
    with pytest.raises(OSError, match="a shard is gone"):
        next(batches)
