"""A watch over the training loop: names the ranks that do not arrive and what each does, then ends a run that hangs.

RUN/stalls/step-00000012/rank-3.txt   what a rank did for too long, one line, then the stacks of its threads

Each rank looks at itself only. Ranks tell each other through these files: a rank that is frozen, or whose machine is
gone, writes none. Nothing of it runs in the training loop but an assignment.
"""

import faulthandler
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Self

from vglm_train.distributed import Ranks
from vglm_train.log import console

STATUS = 1  # as of a run that lost a process: a launcher may start it again
FOLDER = "stalls"
LOOKS = 1.0  # seconds between two looks at most
PATIENCE = 10.0  # seconds at most in which the other ranks write their files too
PACKAGE = Path(__file__).resolve().parents[1]
log = logging.getLogger(console.LOGGER)


class Watch:
    """A context around the training loop, of one rank.

    After `limit` seconds in which `note` was not called, every rank writes its file, and the lowest that can tells what
    all of them do. After as long again the process ends with STATUS. None: never.
    A process that torchrun or `vglm elastic` started also asks itself to stop when its launcher has died.
    """

    def __init__(self, folder: Path, ranks: Ranks, limit: float | None) -> None:
        self.folder, self.ranks, self.limit = folder / FOLDER, ranks, limit
        self._now: tuple[str, int, float] | None = None
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def note(self, doing: str | None, step: int) -> None:
        """What this rank does from now on, in `step`; None: something whose length has no limit."""
        self._now = None if doing is None else (doing, step, time.monotonic())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        told = None
        while not self._over.wait(min(LOOKS, (self.limit or LOOKS) / 10)):
            if self._launcher not in (None, os.getppid()):
                self._launcher = None
                os.kill(os.getpid(), signal.SIGTERM)  # the step is finished and saved, and the other ranks know
            now = self._now
            if now is None or self.limit is None:
                continue
            waited = time.monotonic() - now[2]
            if waited > self.limit and told is not now:
                told = now
                self._tell(now)
            if waited > 2 * self.limit:
                self._end(now)

    def _tell(self, now: tuple[str, int, float]) -> None:
        """Write this rank's file, wait for those of the others, and tell if this is the lowest rank that wrote one."""
        assert self.limit is not None
        folder, started = self.folder / f"step-{now[1]:08d}", time.time()
        self._write(folder / f"rank-{self.ranks.rank}.txt", now)
        if self._over.wait(min(PATIENCE, self.limit / 2)):
            return
        lines = _read(self.folder, newer_than=started - self.limit)
        if min(lines, default=self.ranks.rank) == self.ranks.rank and self._now is now:
            self._say(f"step {now[1]} has stood still for {self.limit:g} s. What the ranks do:", lines)

    def _say(self, head: str, lines: dict[int, str]) -> None:
        assert self.limit is not None
        silent = [rank for rank in range(self.ranks.world) if rank not in lines]
        by_line: dict[str, list[int]] = {}
        for rank, line in lines.items():
            by_line.setdefault(line, []).append(rank)
        text = [head]
        text += [f"  {_ranks(silent)}: no sign; the process or its machine does not answer"] if silent else []
        # those that wait for others last
        for line, ranks in sorted(by_line.items(), key=lambda each: ("other ranks" in each[0], each[1])):
            text.append(f"  {_ranks(ranks)}: {line}")
        text.append(f"Their stacks are in {self.folder}. The run ends if nothing moves for another {self.limit:g} s.")
        log.error("%s", "\n".join(text))

    def _write(self, path: Path, now: tuple[str, int, float]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8") as file:
                line = f"{now[0]}{_place(sys._current_frames().get(threading.main_thread().ident or 0))}"
                file.write(f"{line} (on {socket.gethostname()})\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:  # the disk may be what hangs
            log.warning("%s cannot be written (%s)", path, error)

    def _end(self, now: tuple[str, int, float]) -> None:
        log.error("step %d: %s for more than %g s: this process ends", now[1], now[0], 2 * (self.limit or 0))
        for handler in log.handlers:
            handler.flush()
        os._exit(STATUS)  # the main thread hangs, perhaps in a driver: nothing else ends it


def _place(frame: FrameType | None) -> str:
    """Where a thread is, for the middle of a line: whether it waits for others; its innermost frame of this package."""
    waits, where = False, ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        waits |= "torch/distributed/" in path.as_posix() or "deepspeed/comm/" in path.as_posix()
        if not where and path.is_relative_to(PACKAGE) and path.name != "distributed.py":
            where = f", at {path.relative_to(PACKAGE.parent).as_posix()}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return f"{', waiting for other ranks' if waits else ''}{where}"


def _read(folder: Path, newer_than: float) -> dict[int, str]:
    """Rank -> the first line of its newest file. Files of an earlier start are passed over.

    In the folders of all steps: a rank that reads ahead waits in one step, and the others for it in the next.
    """
    found = {}
    for written, path in sorted((path.stat().st_mtime, path) for path in folder.glob("step-*/rank-*.txt")):
        number = re.fullmatch(r"rank-(\d+)", path.stem)
        if number and written > newer_than:
            found[int(number[1])] = path.read_text("utf-8", errors="replace").partition("\n")[0]
    return dict(sorted(found.items()))


def _ranks(numbers: Iterable[int]) -> str:
    """`rank 3`, `ranks 0, 2`; many are cut short."""
    known = list(numbers)
    named = ", ".join(map(str, known[:16])) + (f" and {len(known) - 16} more" if len(known) > 16 else "")
    return f"rank{'s' * (len(known) > 1)} {named}"
