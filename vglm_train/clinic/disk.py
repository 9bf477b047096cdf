"""Whether what a step makes has room on the disk."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from vglm_train.errors import UserError

LEFT = 2**28  # bytes that stay free beside what is made
BLOCK = 512  # bytes of a block that a file's status counts


def check_disk(out: Path, needed: float, what: str, made: Path, anew: float = 0) -> None:
    """UserError where `needed` bytes have no room in `out`. What an earlier start has left in the folder `made` is part
    of them: the step goes on with it, or deletes it first. `anew`: of these bytes, those that are written before
    anything of an earlier start is deleted."""
    free, held = shutil.disk_usage(out).free, min(taken(made), needed - anew)
    if free + held < needed + LEFT:
        before = f", beside {held / 2**30:.1f} GiB of an earlier start" if held else ""
        raise UserError(
            f"--out {out}: {what} may take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free there"
            f"{before}; make room, or give a folder on another disk"
        )


def taken(folder: Path) -> int:
    """Bytes of the disk that its files hold; 0 where there is no such folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it went away
                total += os.lstat(os.path.join(place, name)).st_blocks * BLOCK
    return total
