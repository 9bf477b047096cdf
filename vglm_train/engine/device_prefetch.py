"""Batches on the device. Each is copied there while the step before it runs."""

from collections import deque
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
        self._ahead: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()  # around reading, not yet told of

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._copying is None:
            return next(self._batches).to(self._device)
        if self._following is None:
            self._following = self._send(self._copying)
        following, self._following = self._following, None
        if isinstance(following, Exception):
            raise following
        return _received(*following)

    def look_ahead(self) -> None:
        """Read the batch that follows, if it was not read yet, and begin to copy it. For when the device is busy.

        What goes wrong, and that there is none, is raised when the batch is asked for.
        """
        if self._copying is None or self._following is not None:
            return
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        self._following = self._send(self._copying)
        after.record()
        self._ahead.append((before, after))

    def idle_seconds(self) -> float:
        """For how long the device had nothing to do while `look_ahead` was reading. Without waiting for the device.

        Each look ahead is counted once, when the device is past it.
        """
        total = 0.0
        while self._ahead and self._ahead[0][1].query():
            before, after = self._ahead.popleft()
            total += before.elapsed_time(after) / 1000
        return total

    def _send(self, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event] | Exception:
        """The next batch and when it has been copied, or why there is none."""
        try:
            batch = next(self._batches)
            with torch.cuda.stream(stream):
                return batch.to(self._device), stream.record_event()
        except Exception as error:
            return error


def _received(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Let the current stream use a batch: its memory is not reused before that stream is done with it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(copied)
    batch.keep_for(stream)
    return batch
