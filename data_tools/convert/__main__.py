"""Captions in the formats people have -> one JSONL of records, one line a picture.

    python -m data_tools.convert captions.jsonl --format jsonl --images photos --out records.jsonl

A record: {"id", "image" (path relative to the records file), "image_id" (hash of the file's bytes: equal ids are one
picture), "captions" {"en": [...], "zh": [...]}, "source", "split", "group" (a patient or page: never split)}.
`--format hf` also reads a folder of tar shards of another tool, such as img2dataset's (its KEY.txt are captions).
Neighbouring rows that name the same picture become one record. A row without a picture or caption is left out,
counted by cause and, the first few, named. Nothing is decoded here; `pack_shards` does that.
"""

import argparse
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from data_tools.common import cli
from data_tools.common.cli import command, progress
from data_tools.common.image_bytes import extension
from data_tools.common.text import LANGUAGES, RowError
from data_tools.convert import columns, formats
from vglm_train.data.record import content_id
from vglm_train.errors import UserError
from vglm_train.files import replace_file
from vglm_train.folders import make_folder

NAMED = 3  # bad rows of one cause that are named in full


@dataclass(slots=True)
class Report:
    """What came of the rows."""

    records: int = 0
    captions: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, cause: str, message: str) -> None:
        self.bad[cause] += 1
        examples = self.named.setdefault(cause, [])
        if len(examples) < NAMED:
            examples.append(message)

    def lines(self) -> Iterator[str]:
        """The report as text, one fact a line."""
        captions = ", ".join(f"{count} {language}" for language, count in sorted(self.captions.items()))
        yield f"{self.records} records ({dict(sorted(self.splits.items()))}), captions: {captions or 'none'}"
        for cause, count in self.bad.most_common():
            yield f"left out for {cause}: {count}, for instance"
            yield from (f"    {message}" for message in self.named[cause])


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run of `convert` reads pictures and writes records; both paths are resolved."""

    out: Path
    images: Path
    source: str
    split: str


def _drafts(rows: formats.RowReader, fields: columns.ColumnNames, report: Report) -> Iterator[columns.Draft]:
    """Drafts in the rows' order, neighbours of one picture merged, bad rows counted."""
    pending: columns.Draft | None = None
    for row in rows:
        try:
            new = columns.draft(row, fields)
        except RowError as error:
            report.leave_out(error.cause, f"{row.place}: {error}")
            continue
        merged = columns.merge(pending, new) if pending else None
        if pending and merged is None:
            yield pending
        pending = merged or new
    if pending:
        yield pending


def _keep_picture(data: bytes, images: Path) -> tuple[Path, int]:
    """Write a picture that came inside the source as a file named by its content; an equal one is kept."""
    identity = content_id(data)
    kind = extension(data)
    if kind is None:
        raise RowError("image", f"{len(data)} bytes that are no picture format known here")
    path = images / f"{identity % 256:02x}" / f"{identity:016x}.{kind}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path, durable=False) as file:
            file.write(data)
    return path, identity


def _record(draft: columns.Draft, target: Target) -> dict[str, Any]:
    """The finished record; reads the picture for its hash. RowError when the file is not there."""
    if isinstance(draft.image, bytes):
        path, identity = _keep_picture(draft.image, target.images)
        name = f"{identity:016x}"
    else:
        path = target.images / draft.image
        name = Path(draft.image).with_suffix("").as_posix()
        try:
            identity = content_id(path.read_bytes())
        except OSError as error:
            raise RowError("missing image", f"{path}: {error.strerror}") from None
    key = draft.id or name
    return {
        "id": key,
        "image": Path(os.path.relpath(path, target.out.parent)).as_posix(),
        "image_id": identity,
        "captions": draft.captions,
        "source": target.source,
        "split": draft.split or target.split,
        "group": draft.group or key,
    }


def _in_order(
    items: Iterator[columns.Draft], work: Callable[[columns.Draft], dict[str, Any]], threads: int
) -> Iterator[tuple[columns.Draft, Future[dict[str, Any]]]]:
    """`work` on a bounded window of items, results in the items' order: reading overlaps, memory stays constant."""
    window: deque[tuple[columns.Draft, Future[dict[str, Any]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            window.append((item, pool.submit(work, item)))
            if len(window) >= 8 * threads:
                yield window.popleft()
        yield from window


def convert(rows: formats.RowReader, fields: columns.ColumnNames, target: Target) -> Report:
    """Write `target.out`, whole or not at all, and return the counts; UserError when no row makes a record."""
    report = Report()
    bar = progress(rows.total, rows.unit, "convert")
    with bar, replace_file(target.out) as file:
        drafts = _drafts(rows, fields, report)
        for draft, future in _in_order(drafts, lambda draft: _record(draft, target), threads=4):
            bar.update(draft.done - bar.n)
            try:
                record = future.result()
            except RowError as error:
                report.leave_out(error.cause, f"{draft.place}: {error}")
                continue
            file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            report.records += 1
            report.splits[record["split"]] += 1
            report.captions.update({language: len(texts) for language, texts in record["captions"].items()})
        if not report.records:
            raise UserError("no row makes a record, nothing is written\n" + "\n".join(report.lines()))
    return report


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser("data_tools.convert", __doc__)
    add = parser.add_argument
    add("source", help="captions file; for hf a folder, a data file or a dataset's name")
    add("--format", required=True, choices=get_args(formats.Format))
    add("--out", required=True, type=Path, help="records file to write, for instance records.jsonl")
    images = "folder that picture paths are relative to (default: the source's folder); "
    add("--images", type=Path, help=images + "hf: where pictures inside the data are written (default: OUT's images)")
    add("--source", dest="name", help="the records' source (default: the source's file or folder name)")
    add("--split", default="train", help="the records' split where the source does not say (default: train)")
    add("--language", choices=LANGUAGES, help="language of captions (default: told from each caption's text)")
    add("--image-field", help="column with the picture")
    add("--caption-field", action="append", default=[], metavar="[LANG=]COLUMN", help="captions; repeatable")
    add("--id-field", help="column with the record's id (default: id, else the picture's path)")
    add("--split-field", help="column with the split (default: split, if there is one)")
    add("--group-field", help="column with what must stay in one split (default: group, else the id)")
    add("--columns", help="csv, tsv: names of the columns, with commas, when the first row does not hold them")
    add("--encoding", default="utf-8-sig", help="csv, tsv: text encoding, for instance gb18030 (default: utf-8)")
    add("--hf-config", help="hf: the dataset's configuration")
    add("--hf-split", help="hf: read only this split (default: all, each kept as the records' split)")
    return parser.parse_args(arguments)


def open_source(args: argparse.Namespace) -> tuple[formats.RowReader, columns.ColumnNames]:
    """The source's rows and which of its columns mean what."""
    if Path(args.source).resolve() == args.out.resolve():
        raise UserError(f"--out {args.out} is the source itself; give another file")
    rows = formats.open_rows(
        args.source,
        args.format,
        encoding=args.encoding,
        columns=[name.strip() for name in args.columns.split(",")] if args.columns else None,
        hf_config=args.hf_config,
        hf_split=args.hf_split,
    )
    fields = columns.resolve(
        rows.columns,
        image=args.image_field,
        captions=args.caption_field,
        language=args.language,
        id=args.id_field,
        split=args.split_field,
        group=args.group_field,
    )
    return rows, fields


def target(args: argparse.Namespace) -> Target:
    """Where the command line says to read pictures and write records."""
    beside = args.out.parent / "images" if args.format == "hf" else Path(args.source).parent
    name = args.name or Path(args.source).stem
    out, images = cli.output(args.out, []), (args.images or beside).resolve()
    if args.format == "hf":
        make_folder(f"--images {images}", images)
    return Target(out, images, name, args.split)


def main() -> int:
    args = parse()
    rows, fields = open_source(args)
    report = convert(rows, fields, target(args))
    print(f"{args.out}: " + "\n".join(report.lines()))
    captions = ", ".join(f"{column} ({language or 'language from the text'})" for language, column in fields.captions)
    print(f"picture column: {fields.image}; caption columns: {captions}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    command(main)
