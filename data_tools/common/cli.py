"""The shell of a command: arguments, where it writes, progress."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, get_args

from vglm_train.command import program, run_command
from vglm_train.config.data import Fields, Format, Source
from vglm_train.errors import UserError
from vglm_train.folders import make_folder


def json_line(value: Any) -> bytes:
    """A line of a JSONL file."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def output(path: Path, inputs: Sequence[Path], option: str = "--out") -> Path:
    """Where a file is written: resolved, its folder made. UserError where it is one of the inputs."""
    out = path.resolve()
    if out in [each.resolve() for each in inputs]:
        raise UserError(f"{option} {path} is an input itself; give another file")
    if out.exists() and not out.is_file():
        raise UserError(f"{option} {path} is {'a folder' if out.is_dir() else 'no ordinary file'}; give a file's name")
    make_folder(f"{option} {path}", out.parent)
    return out


def dropped_path(option: Path | None, out: Path) -> Path:
    """Where the manifest of what was dropped is written. UserError where that is `out` itself."""
    path = out.with_suffix(".dropped.jsonl") if option is None else option.resolve()
    if path == out:
        raise UserError(f"--dropped {option} is --out itself; give another file")
    make_folder(f"--dropped {option or path}", path.parent)
    return path


def parse_fields(texts: Sequence[str]) -> Fields:
    """The columns of a table that `--field WHAT=KEY`, once or more often, names."""
    known = [part.name for part in fields(Fields)]
    named: dict[str, str] = {}
    for text in texts:
        what, equals, key = text.partition("=")
        if not equals or what not in known:
            raise UserError(f"--field {text}: give WHAT=KEY, where WHAT is one of {', '.join(known)}")
        named[what] = key
    return Fields(**named)


def add_table_options(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """The options that say how a table is read, where it does not tell itself: see `config.data.Source`."""
    add = parser.add_argument
    add("--format", choices=formats, help="default: what the file's name and content say")
    add("--encoding", help="text encoding, for instance gb18030 (default: told from the bytes)")
    add("--delimiter", help="csv, tsv: what stands between cells, \\t for a tab (default: told from the first row)")
    add("--columns", help="csv, tsv: names of the columns, with commas, when the first row does not hold them")
    add("--join", metavar="FILE", help="the other half: VQAv2's annotations, Chinese-CLIP's texts")
    add("--image-template", metavar="NAME", help="pictures' names from numbers: COCO_val2014_{image_id:012d}.jpg")


def table_source(args: argparse.Namespace, path: Path, images: Path | None, fields: Fields, join: str | None) -> Source:
    """A table as a run would name it, with the options of `add_table_options`. UserError for one that cannot be."""
    return Source(
        name=path.stem,
        table=str(path),
        images=None if images is None else str(images),
        fields=fields,
        format=args.format if args.format in get_args(Format) else None,
        encoding=args.encoding,
        delimiter={"\\t": "\t", "tab": "\t"}.get(args.delimiter, args.delimiter),
        columns=tuple(name.strip() for name in args.columns.split(",")) if args.columns else None,
        join=join,
        image_template=args.image_template,
    )


def nearest(name: str, names: Iterable[str]) -> str:
    """' (nearest: X)' for an error message, or nothing when no name is near."""
    close = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (nearest: {close[0]!r})" if close else ""


def parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """An argument parser for `python -m module` that shows the module's text as it is written."""
    layout = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=program(module), description=text, formatter_class=layout)


def at_least_one(text: str) -> int:
    """An argparse type: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def renamed(old: str, new: str) -> NoReturn:
    """End the process of a command that has another name now, with one line and status 2."""
    print(f"error: {old} is called {new} now: python -m {new}", file=sys.stderr)
    sys.exit(2)


def command(main: Callable[[], int]) -> None:
    """Run a command and end the process; see `vglm_train.command.run_command`."""
    sys.exit(run_command(main))
