"""Standard logging that knows its rank: rank 0 speaks, the others from warnings on; all of it goes to log.txt."""

import logging
import sys
from pathlib import Path

from vglm_train.distributed import Ranks

LOGGER = "vglm_train"


def setup(ranks: Ranks, folder: Path | None = None) -> logging.Logger:
    """Configure the project's logger: stderr, and `folder`/log.txt (appended to). May be called again.

    Rank 0 makes the folder; the others, which only warn, write there if they see it.
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
    who = "" if ranks.main else f"[rank {ranks.rank}] "
    for handler in handlers:
        handler.setFormatter(_Format(f"%(asctime)s {who}%(level)s%(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    return logger


class _Format(logging.Formatter):
    """Names the level from warnings on only; information needs no label."""

    def format(self, record: logging.LogRecord) -> str:
        record.level = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
        return super().format(record)
