"""Batches on the device. Each is copied there while the step before it is computed."""

from collections.abc import Generator, Iterator

import torch

from vglm_train.batch import Batch


def prefetch(batches: Iterator[Batch], device: torch.device) -> Generator[Batch]:
    """The same batches on `device`. On a GPU it reads one batch in advance and copies it on a stream of its own.

    Stored features of 100 images are 72 MB: 3 ms of an 80 ms step, if the step has to wait for them.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    copying = torch.cuda.Stream(device)
    ready: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            copied = batch.to(device), copying.record_event()
        if ready is not None:
            yield _received(*ready)
        ready = copied
    if ready is not None:
        yield _received(*ready)


def _received(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Let the current stream use a batch: its memory is not reused before that stream is done with it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(copied)
    batch.keep_for(stream)
    return batch
