"""OUT/clinic.json: what the first start was given, and which steps are done. It names no file of the hospital."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vglm_train.clinic.plan import Options, Step
from vglm_train.config.data import Fields, Source
from vglm_train.data.tables.leaks import Picture, named_pictures
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError
from vglm_train.files import lock, sha256, write_json
from vglm_train.fingerprint import bundle_fingerprint

FILE, LOCK, OWN = "clinic.json", "clinic.lock", "clinic."
# option -> the first step that uses it, and the one after whose beginning it can no longer be changed
FREE = {
    "--field": ("look", "convert"),
    "--study-field": ("look", "convert"),
    "options of the conversion": ("look", "convert"),
    "--test": ("split", "leaks"),
    "--val": ("split", "leaks"),
    "--preset": ("recipe", "train"),
    "overrides": ("recipe", "train"),
}
ANEW = "Put it back as it was to go on. To start anew, give another --out, or delete {}."


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the result depends on, by name in words, and how much the pictures take."""

    values: Mapping[str, str]
    bytes: int

    @classmethod
    def gather(cls, options: Options, fields: Fields) -> "Inputs":
        """UserError where the table cannot be read or none of its rows can be used. `fields`: of the table."""
        pictures = [] if options.studies else _named(options, fields)
        pictures = pictures or _all(options.folder)
        total = sum(picture.size for picture in pictures)
        asked = {
            "--preset": options.preset or "chosen",
            "--test": f"{options.test:g}",
            "--val": f"{options.val:g}",
            "--field": " ".join(options.fields) or "none",
            "--study-field": options.study_field or "none",
            "options of the conversion": " ".join(options.convert) or "none",
            "overrides": " ".join(options.overrides) or "none",
            "--base": str(options.base),
        }
        values = {
            "the table of reports": f"content {sha256(options.reports)[:12]}",
            "the pictures": f"{len(pictures)} files of {total} bytes, {_digest(options.folder, pictures)}",
            "the base": f"content {bundle_fingerprint(options.base)[-12:]}",
            **asked,
        }
        return cls(values, total)


class State:
    """The file, read and written."""

    def __init__(self, out: Path) -> None:
        """UserError where OUT holds something else."""
        self.path = out / FILE
        self.inputs: dict[str, str] = {}
        self.done: dict[str, dict[str, Any]] = {}
        self.spent: dict[str, float] = {}  # seconds of starts that did not finish a step, by its name
        if self.path.exists():
            try:
                held = json.loads(self.path.read_text("utf-8"))
                self.inputs, self.done = held["inputs"], held["done"]
                self.spent = held.get("spent", {})
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{self.path}: was not written by vglm clinic; give another --out") from None
        elif out.exists() and (others := sorted(path.name for path in out.iterdir() if not path.name.startswith(OWN))):
            raise UserError(f"--out {out}: holds {others[0]}, which vglm clinic has not made; give a new folder")

    def compare(self, now: Mapping[str, str], trains: bool) -> None:
        """Keep what the first start was given; UserError where a later one is given something else.

        An option may be mended until what it decides is used: `trains` says whether training has begun.
        """
        names = dict.fromkeys((*self.inputs, *now))
        changed = [name for name in names if self.inputs and self.inputs.get(name) != now.get(name)]
        if not changed or all(name in FREE and not self._used(FREE[name][1], trains) for name in changed):
            for first in (FREE[name][0] for name in changed):
                self.done = dict(list(self.done.items())[: list((*self.done, first)).index(first)])
            self.spent = {} if changed else self.spent
            self.inputs = dict(now)
            self._write()
            return
        lines = [f"  {name}: {self.inputs.get(name, 'none')} before, {now.get(name, 'none')} now" for name in changed]
        begun = f"{self.path.parent} was begun with other inputs:"
        raise UserError("\n".join([begun, *lines, ANEW.format(self.path.parent)]))

    def _used(self, step: str, trains: bool) -> bool:
        return trains if step == "train" else step in self.done

    def is_done(self, step: Step) -> bool:
        """Whether a start has finished it, and what it made is there."""
        return step.name in self.done and all(path.exists() for path in step.makes)

    def finish(self, step: Step, seconds: float, **what: Any) -> None:
        """Keep that it is done. `seconds`: that this start took; those of earlier ones are added."""
        self.done[step.name] = {**what, "seconds": round(seconds + self.spent.pop(step.name, 0.0), 1)}
        self._write()

    def spend(self, step: Step, seconds: float) -> None:
        """Keep that a start took so long, and did not finish it."""
        self.spent[step.name] = round(self.spent.get(step.name, 0.0) + seconds, 1)
        self._write()

    def seconds(self, name: str | None = None) -> float:
        """That a finished step took; None: all of them."""
        return sum(float(what.get("seconds", 0)) for each, what in self.done.items() if name in (None, each))

    def _write(self) -> None:
        write_json(self.path, {"inputs": self.inputs, "done": self.done, "spent": self.spent})


@contextmanager
def owned(out: Path) -> Iterator[int]:
    """Hold the folder; the descriptor is for the steps' processes, which hold it as well.

    UserError where another start, or a step that outlived one, is at work there.
    """
    with open(out / LOCK, "w") as file:
        if lock(file) is False:
            raise UserError(
                f"{out}: another vglm clinic, or a step of one that was killed, is at work; wait or stop it"
            )
        yield file.fileno()


def _named(options: Options, fields: Fields) -> list[Picture]:
    """The pictures that the table's rows name."""
    table = Table(Source(name="reports", table=str(options.reports), images=str(options.folder), fields=fields))
    return named_pictures([(table, np.arange(len(table.index)))])


def _all(folder: Path) -> list[Picture]:
    """Every file below the folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [Picture(path.resolve(), path.stat().st_size, path.name) for path in files]


def _digest(folder: Path, pictures: list[Picture]) -> str:
    """Of names, sizes and times of change. It tells nothing of what stands in a name."""
    digest = hashlib.sha256()
    for picture in sorted(pictures, key=lambda each: str(each.file)):
        if isinstance(picture.file, int):
            digest.update(f"{picture.file} {picture.size}\n".encode())
        else:
            name, time = os.path.relpath(picture.file, folder), picture.file.stat().st_mtime_ns
            digest.update(f"{name} {picture.size} {time}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:12]
