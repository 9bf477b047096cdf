"""`vglm benchmark`, and `python -m vglm_train.benchmark`: the folder `benchmarks/`, run on this machine."""

import sys
from collections.abc import Sequence
from importlib import import_module

from vglm_train.shipped import make_importable


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: that of `benchmarks/command.py`."""
    make_importable("benchmarks")
    return int(import_module("benchmarks.command").main(argv))


if __name__ == "__main__":
    sys.exit(main())
