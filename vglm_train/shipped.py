"""Where `configs/` and `data_tools/` are: beside the package in a checkout, inside it in a wheel (see setup.py)."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSIDE = PACKAGE / "_shipped"


def shipped_folder(name: str) -> Path:
    """The folder `name` that belongs to this version of the package."""
    inside = INSIDE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
