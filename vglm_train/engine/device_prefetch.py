"""Batches on the device. Each is copied there while the step before it runs."""

from collections.abc import Iterator

import torch

from vglm_train.batch import Batch


class DevicePrefetch:
    """The same batches on `device`. On a GPU one batch is read in advance and copied on a stream of its own.

    Stored features of 100 images are 72 MB: 3 ms of an 80 ms step, if the step has to wait for them.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._following: tuple[Batch, torch.cuda.Event] | Exception | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._copying is None:
            return next(self._batches).to(self._device)
        self.look_ahead()
        following, self._following = self._following, None
        if isinstance(following, Exception):
            raise following
        assert following is not None
        return _received(*following)

    def look_ahead(self) -> None:
        """Read the batch that follows, if it was not read yet, and begin to copy it. For when the device is busy.

        What goes wrong, and that there is none, is raised when the batch is asked for.
        """
        if self._copying is None or self._following is not None:
            return
        try:
            batch = next(self._batches)
            with torch.cuda.stream(self._copying):
                self._following = batch.to(self._device), self._copying.record_event()
        except Exception as error:
            self._following = error


def _received(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Let the current stream use a batch: its memory is not reused before that stream is done with it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(copied)
    batch.keep_for(stream)
    return batch
