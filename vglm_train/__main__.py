"""The command `vglm`, and `python -m vglm_train`: `vglm NAME ...` runs one of the commands below."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from vglm_train.command import called_as
from vglm_train.progress import STYLES, VARIABLE
from vglm_train.version import __version__

COMMANDS = {
    "train": ("vglm_train.train", "train from a YAML file"),
    "elastic": ("vglm_train.elastic", "train on machines that come and go"),
    "clinic": ("vglm_train.clinic.__main__", "from a hospital's folder and reports to a verdict"),
    "data": ("vglm_train.data.__main__", "make, check, look at and clean data"),
    "chat": ("vglm_train.chat.__main__", "talk to a model in the terminal, or about many pictures with --batch"),
    "web": ("vglm_train.web.__main__", "talk to a model in the browser"),
    "serve": ("vglm_train.serve.__main__", "answer over HTTP, as OpenAI's API and as VisualGLM's"),
    "evaluate": ("vglm_train.evaluate.__main__", "score a bundle on held-out data"),
    "compare": ("vglm_train.evaluate.compare.__main__", "two results of evaluate: is one model better?"),
    "findings": ("vglm_train.evaluate.findings.__main__", "try a table of findings on texts, and measure it"),
    "checkpoint": ("vglm_train.checkpoint.__main__", "weights in and out"),
    "report": ("vglm_train.report.__main__", "curves and verdicts of runs"),
    "workspace": ("vglm_train.report.workspace", "the W&B pages of a project: panels for each stage, and to compare"),
    "benchmark": ("vglm_train.benchmark", "measure this machine with the project's own cases"),
    "schema": ("vglm_train.schema", "the configuration as a JSON schema, for editors"),
    "env": ("vglm_train.env", "what this machine has"),
}
HELP, VERSION = ("-h", "--help", "help"), ("-V", "--version")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names. Exit status: the command's; 2 for one that does not exist."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--progress"]:
        if arguments[1:2] and arguments[1] in STYLES:
            os.environ[VARIABLE] = arguments[1]  # of this process and those that it starts
            del arguments[:2]
        else:
            print(f"error: --progress: give one of {', '.join(STYLES)}, before the command", file=sys.stderr)
            return 2
    name = arguments[0] if arguments else "help"
    if name in HELP:
        print(_overview())
        return 0
    if name in VERSION:
        print(f"vglm_train {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}; the commands are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    module = import_module(COMMANDS[name][0])  # only then: the others' imports would take seconds
    with called_as(f"vglm {name}"):
        return int(module.main(arguments[1:]))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vglm [--progress bar|json|off] COMMAND ...",
            "",
            *lines,
            "",
            "vglm COMMAND --help says more. --progress: how long commands show how far they are.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
