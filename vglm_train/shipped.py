"""Where `configs/`, `data_tools/` and `benchmarks/` are.

Beside the package in a checkout, inside it in a wheel (see setup.py).
"""

import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSIDE = PACKAGE / "_shipped"


def shipped_folder(name: str) -> Path:
    """The folder `name` that belongs to this version of the package."""
    inside = INSIDE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def make_importable(name: str) -> None:
    """The folder by its one name in this process and in those that it starts, but in no other of the environment."""
    folder = str(shipped_folder(name).parent)
    if folder in sys.path:
        return
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
