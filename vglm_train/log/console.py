"""What a person reads while a run goes on: the project's logger, and a row of metrics as one line.

Rank 0 logs everything, the other ranks only warnings. All of it also goes to log.txt.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from vglm_train.distributed import Ranks
from vglm_train.log.jsonl import Row
from vglm_train.progress import duration

LOGGER = "vglm_train"
TERMS = ("itc", "itm", "itg", "lm")
# endings of scores that only add detail to another score
DETAILS = (
    "_r5", "_r10", "_bleu1", "_bleu2", "_bleu3", "_corpus", "_rouge_1", "_rouge_2", "_char", "_low", "_high", "_images",
    "_questions",
)  # fmt: skip


def setup(ranks: Ranks, folder: Path | None = None) -> logging.Logger:
    """Configure the project's logger: stderr, and `folder`/log.txt (appended to). May be called again.

    Rank 0 makes the folder. The others, which only warn, write to log.txt if they can see the folder.
    """
    logger = logging.getLogger(LOGGER)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False  # libraries configure the root logger as they like
    logger.setLevel(logging.INFO if ranks.main else logging.WARNING)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if ranks.main and folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if folder is not None and folder.is_dir():
        handlers.append(logging.FileHandler(folder / "log.txt", encoding="utf-8"))
    rank = "" if ranks.main else f"[rank {ranks.rank}] "
    for handler in handlers:
        handler.setFormatter(_Format(f"%(asctime)s {rank}%(level)s%(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    return logger


class _Format(logging.Formatter):
    """Names the level from warnings on only; information needs no label."""

    def format(self, record: logging.LogRecord) -> str:
        record.level = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        return super().format(record)


class Progress:
    """How far a run is, and when it will end at the pace since this process began."""

    def __init__(self, total_steps: int, first_step: int, clock: Callable[[], float]) -> None:
        self.total_steps, self.clock = total_steps, clock
        self._first, self._start, self._settled = first_step, clock(), False

    def seconds_left(self, step: int) -> float | None:
        """None until a step was taken. The start-up before the first row counts only towards the first answer."""
        if step <= self._first:
            return None
        pace = (self.clock() - self._start) / (step - self._first)
        if not self._settled:
            self._first, self._start, self._settled = step, self.clock(), True
        return pace * max(0, self.total_steps - step)


def describe(step: int, row: Row, progress: Progress) -> str:
    """`step 120/2500 (4.8 %)  loss 8.123 = itc 3.21 + ...  ETA 1 h 02 min`, or the scores of an evaluation."""
    head = f"step {step}/{progress.total_steps} ({100 * step / max(1, progress.total_steps):.1f} %)"
    if row and all(name.startswith("eval/") for name in row):
        return f"{head}  evaluation: " + "  ".join(f"{n.removeprefix('eval/')} {v:.4g}" for n, v in _headlines(row))
    left = progress.seconds_left(step)
    parts = [head, _losses(row), *_measures(row), "" if left is None else f"ETA {duration(left)}"]
    return "  ".join(part for part in parts if part)


def _headlines(row: Row) -> list[tuple[str, float]]:
    """Of an evaluation's many scores, one of each kind; all are in metrics.jsonl."""
    return [(n, v) for n, v in sorted(row.items()) if "shuffled" not in n and not n.endswith(DETAILS)]


def _losses(row: Row) -> str:
    terms = [f"{term} {row[f'train/loss_{term}']:.4f}" for term in TERMS if f"train/loss_{term}" in row]
    total = f"loss {row['train/loss']:.4f}" if "train/loss" in row else ""
    return " = ".join(part for part in (total, " + ".join(terms)) if part)


def _measures(row: Row) -> list[str]:
    shown = (
        ("train/itc_accuracy", "itc right {:.0%}"),
        ("train/itm_accuracy", "itm right {:.0%}"),
        ("train/grad_norm", "grad {:.3g}"),
        ("train/lr", "lr {:.2e}"),
        ("perf/samples_per_second", "{:.4g} samples/s"),
        ("perf/data_wait_fraction", "data wait {:.0%}"),
        ("perf/mfu", "mfu {:.0%}"),
        ("perf/memory_gib", "{:.1f} GiB"),
    )
    parts = [text.format(row[name]) for name, text in shown if name in row]
    damaged = row.get("data/damaged", 0)
    return [*parts, f"{damaged:.0f} damaged samples"] if damaged else parts
