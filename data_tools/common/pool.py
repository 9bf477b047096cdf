"""Work spread over processes that die with the one that started them."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from vglm_train.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def spread(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int, preload: str
) -> Iterator[tuple[Job, Result]]:
    """(job, result) as they finish, in any order; in this process when one worker is enough.

    `work` must be a function of a module beside the command's `__main__`, because a function in `__main__` cannot be
    sent to another process. `preload` names that module, which the workers share already imported.
    A killed parent takes its workers along, so that a restart never meets a leftover writer.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from ((job, work(job)) for job in jobs)
        return
    forkserver = "forkserver" in multiprocessing.get_all_start_methods()  # not on Windows
    context: Any = multiprocessing.get_context("forkserver" if forkserver else "spawn")
    if forkserver:
        context.set_forkserver_preload([preload])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process died, most often for want of memory: run it again with fewer --workers"
            ) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
