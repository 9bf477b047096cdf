"""`vglm compare A.json B.json`: is B better than A? Two results of `vglm evaluate`, question by question."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vglm_train.command import program, run_command
from vglm_train.errors import UserError
from vglm_train.evaluate.compare.differences import compare
from vglm_train.evaluate.compare.page import NOTES, Comparison, render_page, text_lines
from vglm_train.evaluate.compare.read import check_comparable, left_out, read_result
from vglm_train.evaluate.result import Result, free, write
from vglm_train.folders import make_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 2 for results that cannot be compared, 130 if stopped."""
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.evaluate.compare"),
        description="Compare two results of vglm evaluate over the same questions: each metric's difference with its "
        "95 %% paired interval, and whether B is better.",
        allow_abbrev=False,
    )
    parser.add_argument("first", type=Path, metavar="A.json", help="a result of vglm evaluate")
    parser.add_argument("second", type=Path, metavar="B.json", help="another one of the same questions")
    parser.add_argument(
        "--out", type=Path, help="JSON file to write, not there yet (default: A-against-B.json beside B)"
    )
    args = parser.parse_args(argv)
    return run_command(lambda: _compare(args.first, args.second, args.out))


def _compare(first: Path, second: Path, out: Path | None) -> int:
    if out is not None and out.suffix != ".json":
        raise UserError(f"--out {out}: name a file that ends with .json; its page gets the same name with .html")
    if out is not None and (out.exists() or out.with_suffix(".html").exists()):
        raise UserError(f"--out {out}: it or its page exists already; give another name, or move it away")
    path = out or free(second.with_name(f"{first.stem}-against-{second.stem}.json"))
    make_folder(f"--out {path}", path.parent)
    results = read_result(first), read_result(second)
    differs = check_comparable(*results)
    missing = [f"{name}*: {why}" for name, why in left_out(*results).items()]
    same = results[0].report == results[1].report
    shown = Comparison(str(first), str(second), results[0].named, compare(*results), differs, missing, same)
    report = {
        "first": str(first), "second": str(second), "task": shown.task, "intervals": NOTES["en"], "differs": differs,
        "left_out": missing, "parts": [asdict(part) for part in shown.parts],
    }  # fmt: skip
    lines = list(text_lines(shown))
    written = write(Result(report, lines, render_page(shown)), path)
    print("\n".join([*lines, *map(str, written)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
