"""From a hospital's folder and its reports to a verdict.

    vglm clinic FOLDER --reports reports.csv --base BUNDLE --out made

Looks through the table, converts the pictures (DICOM, PNG, JPEG), splits by patient, looks for what both sides share,
chooses a recipe by the memory of the card, checks it, trains, and scores patients that were kept out. Each step prints
the command that does it alone. Killed at any moment, the same command goes on and ends in the same result. All that is
made lies in --out; FOLDER is only read. `vglm clinic recipe DATA --base BUNDLE` only chooses the recipe.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vglm_train.clinic import recipe
from vglm_train.clinic.disk import check_disk
from vglm_train.clinic.plan import Options, plan, titles
from vglm_train.clinic.recipe import Recipe
from vglm_train.clinic.runner import Stopped, run, shown
from vglm_train.clinic.state import Inputs, State, owned
from vglm_train.clinic.studies import find_studies
from vglm_train.clinic.verdict import read_verdict, write_page
from vglm_train.command import AGAIN, program, run_command
from vglm_train.config.data import Fields
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError
from vglm_train.folders import make_folder

CONVERT = ("--views", "--report-part", "--earlier", "--window", "--frame", "--salt")  # options that are passed on
GROWTH = 1.5  # a PNG of a DICOM that is well compressed is larger
CHECKPOINTS = 3  # the newest, the best, and the one that is being written


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 whatever the verdict, 2 for a mistake to mend, 128 + signal if stopped."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["recipe"]:
        return recipe.main(arguments[1:])
    return run_command(partial(_clinic, _parse(arguments)))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.clinic"), description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("folder", type=Path, help="folder that the table's paths of pictures start from; it is only read")
    add("overrides", nargs="*", metavar="section.key=value", help="change single values of the training")
    add("--reports", type=Path, required=True, help="table of pictures and reports, or of questions and answers")
    add("--base", type=Path, required=True, help="bundle to fine-tune, of stage generate")
    add("--out", type=Path, required=True, help="folder for all that is made")
    add("--preset", help="train with this preset or YAML file (default: chosen by the memory of the card)")
    add("--test", type=float, default=0.25, help="share of the patients for the verdict alone (default 0.25)")
    add("--val", type=float, default=0.1, help="share of the patients that choose the best step (default 0.1)")
    add("--field", action="append", default=[], metavar="WHAT=KEY", help="as of vglm data convert; repeatable")
    add("--study-field", metavar="COLUMN", help="as of vglm data convert, for a table that names studies, not pictures")
    for option in CONVERT:
        add(option, help="as of vglm data convert")
    return parser.parse_intermixed_args(arguments)


def _options(args: argparse.Namespace) -> Options:
    """UserError for what is not there, and where OUT would be written into the hospital's folder."""
    folder, reports, base, out = (Path(os.path.abspath(p)) for p in (args.folder, args.reports, args.base, args.out))
    if not folder.is_dir():
        raise UserError(f"{args.folder}: is no folder; give the one that the table's paths of pictures start from")
    if not reports.is_file():
        inside = folder / args.reports
        if not inside.is_file():
            raise UserError(f"--reports {args.reports}: no such file, neither here nor in {args.folder}")
        reports = inside
    if not (base / "bundle.json").is_file():
        raise UserError(f"--base {args.base}: holds no bundle.json; give a bundle, such as RUN/bundle of a stage two")
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"--out {args.out}: lies in {args.folder}, which is only read; give a folder elsewhere")
    for word in args.overrides:
        if "=" not in word:
            raise UserError(f"{word}: give section.key=value, or one folder alone")
    given = {option: getattr(args, option.removeprefix("--").replace("-", "_")) for option in CONVERT}
    if args.salt is not None:
        given["--salt"] = os.path.abspath(args.salt)
    convert = tuple(f"{option}={value}" for option, value in given.items() if value is not None)
    return Options(
        folder, reports, base, out, args.preset, args.test, args.val, tuple(args.field), args.study_field, convert,
        tuple(args.overrides),
    )  # fmt: skip


def _fields(texts: Sequence[str]) -> Fields:
    pairs = dict(text.partition("=")[::2] for text in texts)
    try:
        return Fields(**pairs)
    except (FieldError, TypeError) as error:
        raise UserError(f"--field: give WHAT=KEY, as in --field answer=findings ({error})") from None


def _clinic(args: argparse.Namespace) -> int:
    if sys.platform == "win32":
        raise UserError("training does not run on Windows: use WSL 2 (wsl --install), or another machine")
    options = _options(args)
    state = State(options.out)
    make_folder(f"--out {args.out}", options.out)
    with owned(options.out) as held:
        fields = _fields(options.fields)
        options = find_studies(options, fields)
        inputs = Inputs.gather(options, fields)
        state.compare(inputs.values, options.run.exists())
        if "convert" not in state.done:
            check_disk(options.out, inputs.bytes * GROWTH, "the converted pictures", options.pictures)
        try:
            commands = _steps(options, state, held)
        except Stopped as stop:
            print(AGAIN, file=sys.stderr)
            return stop.status
    _tell(options, commands)
    return 0


def _steps(options: Options, state: State, held: int) -> list[str]:
    """Do them all; their commands."""
    commands: list[str] = []
    chosen: Recipe | None = None
    for number, step in enumerate(plan(options), 1):
        if step.name == "train" and not state.is_done(step):
            assert chosen is not None
            size, made = chosen.checkpoint, options.run / "checkpoints"
            check_disk(options.out, size * CHECKPOINTS, "the checkpoints", made, anew=size)
        run(step, state, number, titles(options, chosen), held)
        commands.append(shown(step))
        if step.name == "recipe":
            chosen = Recipe.read(options.recipe)
            print(f"recipe: {chosen.reason}; --preset takes another")
    return commands


def _tell(options: Options, commands: Sequence[str]) -> None:
    chosen = Recipe.read(options.recipe)
    verdicts = [read_verdict(options.result(task), task) for task in chosen.tasks]
    page = write_page(options, chosen, verdicts, commands)
    print("\n=== verdict")
    for verdict in verdicts:
        print(f"{verdict.english}\n{verdict.chinese}")
    print(page)


if __name__ == "__main__":
    sys.exit(main())
