"""python -m vglm_train.report RUN [RUN ...] [--out DIR | --watch] [--language zh|en]"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vglm_train.command import program, run_command
from vglm_train.files import write_text
from vglm_train.folders import make_folder
from vglm_train.log.health_words import explained, line
from vglm_train.log.tongues import Tongue, of_computer
from vglm_train.report.page import render_page
from vglm_train.report.runs import read_runs
from vglm_train.report.verdict import assess_run
from vglm_train.report.watched import notes_of

SIGNS = {"ok": "+", "warn": "!", "fact": " "}


def report(folders: list[Path], out: Path | None, language: Tongue = "en") -> Path:
    """Write curves.png and report.html, print the verdicts, and return the page's path.

    UserError if a folder is not a run, or `out` cannot be written.
    """
    from vglm_train.report.curves import draw_curves  # needs an extra, so where a UserError has a reader

    runs = read_runs(folders)
    out = out or (runs[0].folder / "report" if len(runs) == 1 else Path("report"))
    make_folder(f"--out {out}", out)
    health = [notes_of(run.folder) for run in runs]
    verdicts = [assess_run(run) for run in runs]
    draw_curves(runs, out / "curves.png", language)
    path = out / "report.html"
    write_text(path, render_page(runs, health, verdicts, out / "curves.png", language))
    for run, notes, sentences in zip(runs, health, verdicts):
        print(f"{run.label}: {line(notes, language)}")
        for words in explained(notes, language):
            print(f"  > {words.short}: {' '.join(filter(None, (words.means, words.to_try)))}")
        for sentence in sentences:
            print(f"  {SIGNS[sentence.kind]} {sentence.text.of(language)}")
    print(path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.report"),
        description="Draw the curves of runs beside a published one, and say in words whether the loss is normal.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder: it holds metrics.jsonl")
    parser.add_argument("--out", type=Path, help="where to write (default: RUN/report, or ./report for several)")
    parser.add_argument(
        "--watch", action="store_true", help="serve a live page on 127.0.0.1; RUN may be a folder that holds runs"
    )
    parser.add_argument("--port", type=int, default=7870, help="of the live page (default 7870; 0: any that is free)")
    parser.add_argument(
        "--language",
        choices=("zh", "en"),
        help="of the report (default: as the computer is set up); the live page follows the browser",
    )
    args = parser.parse_args(arguments)
    if args.watch and args.out:
        parser.error("--watch writes nothing, so it takes no --out")

    def show() -> int:
        if args.watch:
            from vglm_train.report.live import watch  # needs no extra

            watch(args.runs, args.port)
        else:
            report(args.runs, args.out, args.language or of_computer())
        return 0

    return run_command(show)


if __name__ == "__main__":
    sys.exit(main())
