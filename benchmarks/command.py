"""`vglm benchmark`: measure this machine with the project's own cases."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.cases import CASES, choose
from benchmarks.result_file import Results
from benchmarks.runner import Options, run
from benchmarks.table import markdown
from vglm_train.command import program, run_command
from vglm_train.errors import UserError
from vglm_train.signals import status_of

PLACES = ("bundle", "photos", "table", "work")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, also where cases were left out; 1 if one failed; 2 for a mistake; 128 + signal if stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = parse(program("vglm_train.benchmark"), words)
    if args.show:
        return run_command(lambda: _show(args.show))
    return run_command(lambda: _list(args) if args.list else _measure(args))


def _show(path: Path) -> int:
    print(markdown(Results.read(path)))
    return 0


def _list(args: argparse.Namespace) -> int:
    for case in _chosen(args):
        need = f"{case.gib:4.0f} GiB" if case.gib else "  no GPU"
        print(f"{case.name:34} {need}  about {case.seconds:3} s  {case.what}")
    return 0


def _measure(args: argparse.Namespace) -> int:
    cases = _chosen(args)
    if args.out.exists():
        raise UserError(f"--out {args.out}: is there already; move it away, or give another name")
    places = {name: getattr(args, name) for name in PLACES}
    for name, place in places.items():
        if place is not None and not place.exists():
            raise UserError(f"--{name} {place}: is not there")
    command = called(args)
    try:
        results = run(cases, command, args.out, Options(args.quick, places, args.limit), partial(print, flush=True))
    except KeyboardInterrupt as stop:
        kept = f"; what was measured is in {args.out}" if args.out.exists() else ""
        print(f"stopped{kept}", file=sys.stderr)
        return status_of(stop)
    print(f"\n{markdown(results)}\n\nwritten to {args.out}")
    return int(any(row.problem and row.name != "left out" for row in results.rows))


def called(args: argparse.Namespace) -> str:
    """The command as the file notes it: files are passed on, so folders of this machine are left out."""
    words = ["vglm", "benchmark", *args.case, *(["--quick"] if args.quick else [])]
    words += [] if args.limit is None else ["--limit", f"{args.limit:g}"]
    for name in PLACES:
        words += [f"--{name}", name.upper()] if getattr(args, name) is not None else []
    return shlex.join(words)


def _chosen(args: argparse.Namespace) -> list:
    try:
        return choose(args.case)
    except KeyError as error:
        groups = dict.fromkeys(name.partition("/")[0] for name in CASES)
        raise UserError(f"there is no case {error}; --list shows them all, of {', '.join(groups)}") from None


def parse(own: str, words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=own, description="Measure this machine with the project's own cases, and write the numbers as JSON."
    )
    parser.add_argument("case", nargs="*", metavar="CASE", help="a case or a group such as stage2; none: all")
    parser.add_argument("--list", action="store_true", help="show the cases, what they need and take, and end")
    parser.add_argument("--show", type=Path, metavar="FILE", help="show a file that was written, as a table, and end")
    parser.add_argument(
        "--out", type=Path, default=Path("benchmark.json"), help="written anew after each case (default %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny shapes on the CPU, to try it; without a GPU always")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="run nothing after so long")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="a bundle with a language model, for serve_load")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="JPEGs, for stream")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="JSON of img, prompt and label, for finetune/lora-table"
    )
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="47 GiB of disk, for convert")
    return parser.parse_args(words)
