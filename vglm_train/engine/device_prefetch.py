"""Batches on the device. Each is copied there while the step before it runs."""

from collections.abc import Iterator

import torch

from vglm_train.batch import Batch


class DevicePrefetch:
    """The same batches on `device`. On a GPU it reads one batch in advance and copies it on a stream of its own.

    Stored features of 100 images are 72 MB: 3 ms of an 80 ms step, if the step has to wait for them.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._following: tuple[Batch, torch.cuda.Event] | None = None
        self._begun = False

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._copying is None:
            return next(self._batches).to(self._device)
        if not self._begun:
            self._following, self._begun = self._send(self._copying), True
        current = self._following
        if current is None:
            raise StopIteration
        self._following = self._send(self._copying)
        return _received(*current)

    def _send(self, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event] | None:
        """The next batch and when it has been copied; None after the last."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            return batch.to(self._device), stream.record_event()


def _received(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Let the current stream use a batch: its memory is not reused before that stream is done with it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(copied)
    batch.keep_for(stream)
    return batch
