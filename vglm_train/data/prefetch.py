"""Processes that read ahead, and what signals mean to them."""

import signal
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from vglm_train.signals import deferred_signals

GRACE = 60  # seconds


def read_ahead(
    items: Dataset[Any],
    indices: Iterable[int],
    workers: int,
    pin: bool = False,
    collate: Callable[[Any], Any] | None = None,
) -> DataLoader[Any]:
    """items[index] for each of `indices`, in order, read by `workers` processes (0: this one).

    `collate`: done to each item in the worker; none: torch's, by which arrays become tensors.
    """
    return _Loader(
        items,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        pin_memory=pin,
        collate_fn=collate,
        worker_init_fn=_leave_signals_to_the_run,
        generator=torch.Generator(),  # else torch draws a seed for the workers from the global generator
    )


class _Loader(DataLoader[Any]):
    def __init__(self, *args: Any, **options: Any) -> None:
        with warnings.catch_warnings():  # more workers than cores: reports tell whether the run waits for data
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            super().__init__(*args, **options)

    def __iter__(self) -> Any:
        with deferred_signals():  # it forks
            return super().__iter__()


def _leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C and a scheduler's warning reach workers too; the run finishes its step first, then ends them itself.

    A worker that got SIGTERM and still runs after GRACE seconds ends by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):  # not on Windows, which has no alarms either
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
