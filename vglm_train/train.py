"""The command that trains: parse, load, check, run. `train.py` at the root calls `main`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from vglm_train.command import program
from vglm_train.errors import LostProcess, UserError, explain_dead_processes, ignore_broken_pipe
from vglm_train.log.startup import Startup
from vglm_train.signals import starts_again, status_of

if TYPE_CHECKING:
    from vglm_train.config.run import Config


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.train"), description="Train a Q-Former from one YAML file.", allow_abbrev=False
    )
    parser.add_argument("config", nargs="?", help="YAML file of the run, or a preset's name")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change single values of it")
    parser.add_argument("--list", action="store_true", help="list the presets, and stop")
    parser.add_argument("--check", action="store_true", help="validate, print what would happen, and stop")
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="continue although data or weights are no longer those of the checkpoint; data is then begun anew",
    )
    parser.add_argument(
        "--world", type=int, help="with --check: number of processes to plan for (default: this start's)"
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # older deepspeed launchers pass it
    options = parser.parse_intermixed_args(arguments)
    if options.config is None and not options.list:
        parser.error("give the YAML file of a run or the name of a preset; --list names them")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, validate, train. Returns the exit status: 0 done, 1 another process ended, 2 a mistake to mend,
    128 + signal if asked to stop.
    """
    options = parse(arguments)
    if options.list:
        return _list()
    world = options.world or int(os.environ.get("WORLD_SIZE", "1"))
    try:
        return _start(options, world)
    except KeyboardInterrupt as stop:
        if os.environ.get("RANK", "0") == "0":
            print("stopped; the same command goes on from what is saved", file=sys.stderr)
        return status_of(stop)


def _list() -> int:
    from vglm_train.config.presets import describe_presets

    with ignore_broken_pipe():
        print("\n".join(describe_presets()))
    return 0


def _start(options: argparse.Namespace, world: int) -> int:
    """The slow imports happen from here on, so that `main` handles a Ctrl-C while they run."""
    from vglm_train.config.check import check
    from vglm_train.config.load import errors_with_location, load
    from vglm_train.config.presets import find_config

    try:
        found = find_config(options.config)
        options.config = found.path
        if found.note and os.environ.get("RANK", "0") == "0":
            print(found.note, file=sys.stderr)
        with explain_dead_processes(), errors_with_location(options.config, options.overrides):
            config = load(options.config, options.overrides)
            check(config, world)
            return _describe(config, world, options) if options.check else _run(config, options)
    except UserError as error:
        return _print_error(error)


def _print_error(error: UserError) -> int:
    """Print a mistake once for all ranks: the launcher ends the others while they wait here."""
    lost = isinstance(error, LostProcess)
    first = os.environ.get("RANK", "0") == "0"
    if lost:  # a rank that lost another knows least
        time.sleep(5 if starts_again() else 20)
    elif not first:
        time.sleep(10)
    print(f"error: {error}", file=sys.stderr)
    return 1 if lost else 2


def _describe(config: "Config", world: int, options: argparse.Namespace) -> int:
    from vglm_train.describe import describe

    text = describe(config, world, options.accept_changes)
    with ignore_broken_pipe():
        print(text)
    return 0


def _run(config: "Config", options: argparse.Namespace) -> int:
    startup = Startup()
    if sys.platform == "win32":
        raise UserError(
            "training does not run on Windows, which lacks what DeepSpeed and its processes need: train in WSL 2 "
            "(wsl --install); chatting, serving and evaluating work here."
        )
    if find_spec("deepspeed") is None:
        raise UserError('training needs deepspeed, which is not installed: pip install "vglm_train[train]"')
    from vglm_train.run import run

    startup.reached("imports")
    return run(config, options.accept_changes, startup)


if __name__ == "__main__":
    sys.exit(main())
