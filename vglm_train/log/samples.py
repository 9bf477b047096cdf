"""samples-RANK.jsonl: which samples each step read, one line a step. Proof of what a run saw, over all its restarts."""

import json
from collections.abc import Sequence
from pathlib import Path

from vglm_train.log.jsonl import cut_back


class SampleLog:
    """The file of one rank; every line is on its way to the disk before the next step begins."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._file = (folder / f"samples-{rank}.jsonl").open("ab", buffering=0)

    def write(self, step: int, keys: Sequence[str]) -> None:
        """`keys`: SOURCE/SHARD/KEY of each sample that this rank read in `step`, damaged ones too."""
        line = json.dumps({"step": step, "keys": list(keys)}, ensure_ascii=False) + "\n"
        self._file.write(line.encode("utf-8", "surrogateescape"))


def forget_samples(folder: Path, step: int) -> None:
    """What any rank read after `step` will be read again: drop it. For one process, before the others write."""
    for path in folder.glob("samples-*.jsonl"):
        cut_back(path, step)
