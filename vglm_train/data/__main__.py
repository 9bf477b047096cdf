"""`vglm data NAME ...`, and `python -m vglm_train.data NAME ...`: the commands of the folder `data_tools/`."""

import ast
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from vglm_train.command import called_as, program, run_command
from vglm_train.shipped import make_importable, shipped_folder

PACKAGE = "data_tools"
HELP = ("-h", "--help", "help")


def commands() -> dict[str, str]:
    """Name -> what it does, the first line of its text."""
    files = sorted(shipped_folder(PACKAGE).glob("*/__main__.py"))
    return {file.parent.name: _first_line(file) for file in files}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names. Exit status: the command's; 2 for one that does not exist."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    own, known = program("vglm_train.data"), commands()
    name = arguments[0] if arguments else "help"
    if name in HELP:
        width = max(map(len, known))
        lines = [f"  {each:<{width}}  {what}" for each, what in known.items()]
        print("\n".join([f"usage: {own} COMMAND ...", "", *lines, "", f"{own} COMMAND --help says more."]))
        return 0
    if name not in known:
        print(f"error: there is no command {name!r}; the commands of {own} are {', '.join(known)}.", file=sys.stderr)
        return 2
    make_importable(PACKAGE)
    module = import_module(f"{PACKAGE}.{name}.__main__")
    with called_as(f"{own} {name}"):
        return run_command(partial(module.main, arguments[1:]))


def _first_line(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return text.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
