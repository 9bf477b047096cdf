"""A step whose status 1 says that it found something, as a process of its own: `python -m vglm_train.clinic.told`.

Python ends a process that crashed with 1 as well. Here a command that asks to end with 1 ends with FOUND, so 1 is a
crash.
"""

import sys
from runpy import run_module

FOUND = 3


def main() -> None:
    """`python -m vglm_train` with this process's arguments, and FOUND in place of the status 1."""
    try:
        run_module("vglm_train", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        sys.exit(FOUND if end.code == 1 else end.code)


if __name__ == "__main__":
    main()
