"""The folder of a run: which run it belongs to, and whether this start continues it.

config.yaml   resolved configuration        metrics.jsonl  one object a log step
checkpoints/  see checkpoint/resume.py      bundle/        portable result, see checkpoint/bundle/read.py
log.txt       what the console said         wandb/         W&B's own files
lock          held while a process trains here
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import zip_longest
from pathlib import Path

from vglm_train.checkpoint.resume import Checkpoints
from vglm_train.config.load import dump, load, show
from vglm_train.config.run import Config
from vglm_train.data.features.identity import holds_older
from vglm_train.distributed import Ranks
from vglm_train.errors import LostProcess, UserError
from vglm_train.files import lock, write_text
from vglm_train.folders import check_folder, make_folder
from vglm_train.log.jsonl import METRICS
from vglm_train.model.vision.base import KERNELS
from vglm_train.signals import starts_again

# What a run may change half-way: none of it moves the loss of a step that is still to come, but for the length, which
# moves the schedule, and for what ITC compares, of which `Changes` tells.
FREE = ("run.length", "run.folder", "log", "evaluate", "checkpoint", "engine", "objective.itc.batch", "data.workers",
        "data.max_damaged", "data.features.folder", "data.features.limit_gib", "data.cache")  # fmt: skip
OF_A_MACHINE = ("data.workers", "data.cache")  # what processes of one start may have different values of
PATIENCE = 90  # seconds for rank 0 of the start before, perhaps on a lost machine, to give the folder up
NOTHING = object()  # in place of an entry that a shorter list does not have


class RunFolder:
    """Paths of one run."""

    def __init__(self, config: Config) -> None:
        self.path = Path(config.run.folder or Path("runs") / config.run.name)
        self.bundle = self.path / "bundle"
        self.config_file = self.path / "config.yaml"

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.path / "checkpoints")

    def settled(self, config: Config) -> Config:
        """`config` with the decoder of pictures that null stands for: the one that this run was begun with, or, of a
        new run, pillow if data.features.folder holds features that it made, else turbo. Before `check`."""
        asked, features = config.data.image.decoder, config.data.features
        if self._is_begun():
            began = load(self.config_file).data.image.decoder
            decoder = began if asked is None or (asked, began) == ("pillow", None) else asked
        elif asked is None and features is not None and holds_older(Path(features.folder), KERNELS):
            decoder = "pillow"
        else:
            decoder = asked or "turbo"
        return replace(config, data=replace(config.data, image=replace(config.data.image, decoder=decoder)))

    def check(self, config: Config) -> Path | None:
        """The checkpoint to continue from, or None for a new run.

        Raises UserError if the folder holds something else, or the same run with another model, data or objective.
        """
        if os.environ.get("RANK", "0") == "0":  # who writes
            check_folder(f"run.folder {self.path}", self.path)
        if not self.path.exists():
            return None
        if not any(self.path.iterdir()):
            return None
        if not self.config_file.exists():
            raise UserError(
                f"{self.path} is not empty and holds no config.yaml, so it is not a run of this program. "
                "Give another run.folder, or empty it."
            )
        newest = self.checkpoints.latest()
        if not self._is_begun():
            return None
        changed = list(_changes(load(self.config_file), config, "", FREE))
        if changed:
            moved = any(key.endswith((".weights", ".vision.config")) for key, _, _ in changed)
            raise UserError(
                f"{self.path} holds another run. Changed since it was started:\n"
                + "\n".join(f"  {key}: {before} there, {now} here" for key, before, now in changed[:8])
                + (f"\n  and {len(changed) - 8} more" if len(changed) > 8 else "")
                + "\nUse the old values to continue it, or another run.name or run.folder for a new run."
                + (" Weights that only moved: make a link to them at the old path." if moved else "")
            )
        return newest

    def agreed(self, newest: Path | None, config: Config, ranks: Ranks) -> Path | None:
        """The checkpoint that all processes continue from. newest: this one's.

        UserError where the processes differ, in that or in what they were told to do.
        """
        first, *others = ranks.gather_objects(config)
        for number, each in enumerate(others, 1):
            if changed := list(_changes(first, each, "", OF_A_MACHINE)):
                told = (f"  {key}: {one} in process 0, {other} in process {number}" for key, one, other in changed[:8])
                raise UserError(
                    "the processes of this start were told different things:\n"
                    + "\n".join(told)
                    + "\nStart it with the same words and the same file on every machine. If two runs met by chance, "
                    "give each an --id (vglm elastic) or a port of its own."
                )
        for pause in (5.0, 0.0):  # seconds; a process that the launcher has lost may be writing its last one
            seen = [each or "none" for each in ranks.gather_objects(newest and newest.name)]
            if len(set(seen)) == 1:
                return newest
            time.sleep(pause)
            newest = self.checkpoints.latest()
        other = next(rank for rank, each in enumerate(seen) if each != seen[0])
        raise UserError(
            f"{self.path}: process 0 sees {seen[0]} as the newest checkpoint of the run, process {other} sees "
            f"{seen[other]}. The run folder must be one folder that all machines share."
        )

    def start_words(self, newest: Path | None) -> str:
        """Where a start begins, for a person; `newest`: as `check` returned it. Before `claim`."""
        if newest is not None:
            return f"continues from {newest.name}"
        if self._nothing_done():
            return "a new run"
        return "no checkpoint is in it, so the run begins anew at step 0"

    def changed_settings(self, config: Config) -> list[str]:
        """What a run may change half-way, and has changed since the last start, as lines. Before `claim`."""
        return [f"{key}: {old} before, {new} now" for key, old, new in _changes(load(self.config_file), config, "", ())]

    def claim(self, config: Config) -> None:
        """Create the folder, lock it and write the resolved configuration. Rank 0 only, after `check`.

        Raises UserError if it cannot be written, or another process is training in it.
        """
        make_folder(f"run.folder {self.path}", self.path)
        try:
            self._lock()
            write_text(self.config_file, dump(config))
        except OSError as error:
            raise UserError(f"run.folder {self.path}: {error.strerror}. Make it writable, or give another.") from error

    def _is_begun(self) -> bool:
        """Whether a run of this program has done something in the folder."""
        if not self.config_file.exists():
            return False
        return self.checkpoints.latest() is not None or not self._nothing_done()

    def _nothing_done(self) -> bool:
        """Without a checkpoint: a start that failed before its first row left this, so nothing is lost or continued."""
        metrics = self.path / METRICS
        logged = metrics.exists() and metrics.stat().st_size
        return not logged and not self.bundle.exists()

    def _lock(self) -> None:
        """Until this process ends, however it ends. Two runs in one folder, say after only a launcher was killed,
        would write each other's files."""
        file = (self.path / "lock").open("a+")
        end = time.monotonic() + (PATIENCE if starts_again() else 0)
        while lock(file, of_process=True) is False:  # of this process alone: loader workers may outlive it
            if time.monotonic() < end:
                time.sleep(0.5)
                continue
            file.seek(0)
            # of a machine that the others cannot reach, it ends by itself: then another start is worth trying
            raise (LostProcess if starts_again() else UserError)(
                f"{self.path}: another process is training here ({file.read().strip()}). "
                "Wait until it ends, stop it, or give another run.folder."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._locked = file  # closing it would unlock


def _changes(before: object, now: object, key: str, free: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(key, old, new) for every leaf that differs, but those below `free`, in words. Entries of lists by number."""
    if key in free or before == now:
        return
    if is_dataclass(before) and is_dataclass(now) and not isinstance(now, type):
        for field in fields(now):
            name = f"{key}.{field.name}" if key else field.name
            yield from _changes(getattr(before, field.name), getattr(now, field.name), name, free)
    elif isinstance(before, tuple) and isinstance(now, tuple) and all(map(is_dataclass, (*before, *now))):
        for number, (old, new) in enumerate(zip_longest(before, now, fillvalue=NOTHING)):
            yield from _changes(old, new, f"{key}.{number}", free)
    else:
        old, new = ("nothing" if value is NOTHING else show(value) for value in (before, now))
        yield key, old, new
