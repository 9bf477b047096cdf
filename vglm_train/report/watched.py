"""Runs that are looked at while they go on: what was logged, and their state."""

import os
import re
import socket
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vglm_train.errors import UserError
from vglm_train.files import is_locked
from vglm_train.log.health import Health
from vglm_train.log.health_words import ENDED, Note
from vglm_train.log.jsonl import METRICS, parse_row
from vglm_train.log.run_info import FACTS, RunInfo

LOCK, BUNDLE, LOG = "lock", "bundle", "log.txt"  # of a run folder
HOLDER = re.compile(r"process (\d+) on (.+)")
TAIL = 4000  # bytes of log.txt that hold its last lines
LONGEST = 200  # letters of its last line that are shown
SILENT = 600.0  # seconds without a row that are worth a word
DEEPEST = 3  # folders below the one that is watched


class WatchedRun:
    """One run folder. `refresh` reads what has been added; a file that was cut back (a resume) is read anew."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._lock = threading.Lock()
        self._seen: tuple[Any, ...] = ()  # what tells that the files are those that were read
        self._begin()

    def _begin(self) -> None:
        self.offset, self._noted = 0, -1
        self._health_notes: list[Note] = []
        self.info = RunInfo.read(self.folder)
        self.health = Health(self.info)

    def refresh(self) -> None:
        """Read on to the last complete line."""
        with self._lock:
            facts = _stamp(self.folder / FACTS)
            try:
                file = (self.folder / METRICS).open("rb")
            except OSError:
                return
            with file:
                size, inode = os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_ino
                if (facts, inode) != self._seen or size < self.offset:
                    self._seen = (facts, inode)
                    self._begin()
                file.seek(self.offset)
                for line in file:
                    if not line.endswith(b"\n"):  # it is being written
                        break
                    self.offset += len(line)
                    if row := parse_row(line):
                        self.health.add(*row)

    @property
    def version(self) -> str:
        """Changes with what was read and with the process."""
        notes = " ".join(note.code for note in self.state())
        return f"{self._seen} {self.offset} {notes}"

    def state(self) -> list[Note]:
        """What the process does: nothing to say while it runs."""
        step = self.health.history.last_step
        total = self.info.total_steps if self.info else 0
        alive = self._is_alive()
        silent = time.time() - (_stamp(self.folder / METRICS) or time.time())
        ended = alive is False or (alive is None and (step >= total or silent > SILENT))
        if (self.folder / BUNDLE).is_dir() and ended:  # else it goes on after an earlier end
            return [Note("complete", "ok")]
        if not alive and "stopped at step" in self._last_words():
            return [Note("stopped", "fact", {"step": step})]
        if alive is False:
            last = self._last_words().rpartition("\n")[2][:LONGEST] or "-"
            values = {"step": step, "steps": total or "?", "checkpoint": self._checkpoint(), "last": last}
            return [Note("killed" if values["checkpoint"] else "killed_early", "bad", values)]
        return [Note("silent", "warn", {"seconds": silent})] if silent > SILENT else []

    def notes(self) -> list[Note]:
        """State and health. Of a run that has ended, only what was wrong."""
        state = self.state()
        over = {note.code for note in state} & ENDED
        with self._lock:
            if self._noted != self.offset:
                self._noted, self._health_notes = self.offset, self.health.notes()
            notes = self._health_notes
        return [*state, *(note for note in notes if not over or note.kind in ("warn", "bad"))]

    def _is_alive(self) -> bool | None:
        """Whether the process that trains here lives; None where that cannot be known, as on another machine."""
        try:
            holder = HOLDER.match((self.folder / LOCK).read_text("utf-8"))
        except (OSError, UnicodeError):
            return None
        if holder is None or holder[2].strip() != socket.gethostname() or os.name == "nt":
            return None
        if is_locked(self.folder / LOCK):  # also by a process of another container, whose number says nothing here
            return True
        try:
            os.kill(int(holder[1]), 0)
        except ProcessLookupError:
            return False
        except OSError:  # another person's
            pass
        # a process, or a thread, of today may have the number of one that has ended
        return int(holder[1]) == os.getpid() or is_locked(self.folder / LOCK) is not False

    def _last_words(self) -> str:
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-3:])

    def _checkpoint(self) -> int:
        """The step of the newest one; 0: there is none."""
        try:
            name = (self.folder / "checkpoints" / "latest").read_text("utf-8").strip()
        except OSError:
            return 0
        digits = name.removeprefix("step-")
        return int(digits) if digits.isdecimal() else 0

    def points(self, name: str, first: float | None, last: float | None, most: int) -> list[list[float]]:
        """Steps and values of a metric within [first, last], at most about `most`: of more, the least and the greatest
        of each part, so that no peak is lost."""
        steps, values = self.health.history.series(name)
        begin = 0 if first is None else max(0, bisect_left(steps, first) - 1)
        end = len(values) if last is None else min(len(values), bisect_right(steps, last) + 1)
        return thin(np.array(steps[begin:end]), np.array(values[begin:end]), most)


def notes_of(folder: Path) -> list[Note]:
    """How the run in a folder is now."""
    run = WatchedRun(folder, folder.name)
    run.refresh()
    return run.notes()


def thin(steps: np.ndarray, values: np.ndarray, most: int) -> list[list[float]]:
    """[steps, values] with the least and the greatest value of each of `most` / 2 parts, in their order."""
    if len(steps) > most:
        size = -(-len(steps) // (most // 2))
        whole = len(steps) // size * size
        parts = values[:whole].reshape(-1, size)
        starts = np.arange(0, whole, size)
        picked = np.concatenate([starts + parts.argmin(1), starts + parts.argmax(1), [0, len(steps) - 1]])
        if whole < len(steps):
            picked = np.concatenate([picked, [whole + values[whole:].argmin(), whole + values[whole:].argmax()]])
        picked = np.unique(picked)
        steps, values = steps[picked], values[picked]
    return [steps.tolist(), [float(f"{value:.6g}") for value in values]]


class Watched:
    """The runs of folders: each is a run, or holds runs. New ones are found at each look."""

    def __init__(self, folders: list[Path]) -> None:
        """UserError for what is no folder."""
        self.folders = [folder.resolve() for folder in folders]
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"{folder} is not a folder. Give the folder of a run, or one that holds runs.")
        self._runs: dict[Path, WatchedRun] = {}
        self._lock = threading.Lock()

    def runs(self) -> list[WatchedRun]:
        """All of them as they are now, the one that was written last first."""
        with self._lock:
            for folder in self.folders:
                for found in _run_folders(folder):
                    name = found.name if found == folder else found.relative_to(folder).as_posix()
                    self._runs.setdefault(found, WatchedRun(found, name))
            runs = [run for run in self._runs.values() if run.folder.is_dir()]
        for run in runs:
            run.refresh()
        return sorted(runs, key=lambda run: -(_stamp(run.folder / METRICS) or 0))


def _run_folders(folder: Path, depth: int = 0) -> Iterator[Path]:
    """A run folder, or those below a folder that is none."""
    if (folder / METRICS).is_file() or (folder / FACTS).is_file():
        yield folder
        return
    if depth >= DEEPEST:
        return
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return
    for path in below:
        yield from _run_folders(path, depth + 1)


def _stamp(path: Path) -> float | None:
    """When a file was written; None if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None
