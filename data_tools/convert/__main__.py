"""Captions, questions and dialogues in the formats people have -> one JSONL of records, one line a picture.

    vglm data convert captions.jsonl --images photos --out records.jsonl

It reads every table that training reads: JSON, CSV, TSV, COCO, VQAv2's two files, tars of img2dataset, Parquet and
others (the documentation has the list); with `--format hf` also a dataset's name. A record: {"id", "image" (path
relative to the records file, or a list of paths), "image_id" (hash of the first file's bytes: equal ids are one
picture), "captions" {"en": [...], "zh": [...]}, "source", "split", "group" (a patient or page: never split)}, and of a
question or a dialogue "turns" and "language". Neighbouring rows that caption the same picture become one record. Rows
are kept that `check_table` passes; the others are left out, counted by the same causes and, the first few, named. Every
picture is decoded for it, but not with --quick.
"""

import argparse
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from data_tools.common import cli
from data_tools.common.cli import command
from data_tools.common.text import LANGUAGES
from data_tools.convert.dicom import DicomReader, frame_argument, window_argument
from data_tools.convert.draft import CaptionColumns, Draft, DraftRules, caption_column, column, make_draft, merge
from data_tools.convert.finish import Target, finish
from data_tools.convert.pictures import SourcePictures
from vglm_train.config.data import Format, Source
from vglm_train.data.record import RecordError
from vglm_train.data.record import parse as parse_record
from vglm_train.data.tables.base import RowReader, name_row
from vglm_train.data.tables.fields import describe_columns
from vglm_train.data.tables.layouts.rows import AdaptedRows, AdaptedTable
from vglm_train.data.tables.readers import adapt_stream, files_of, find_format, folder_of
from vglm_train.data.tables.readers import open_source as open_table_source
from vglm_train.data.tables.schema import find_schema
from vglm_train.data.tables.unread import describe_unread
from vglm_train.errors import UserError
from vglm_train.files import replace_file
from vglm_train.folders import make_folder
from vglm_train.image.dicom.window import FILE, FORMS
from vglm_train.progress import Progress

STREAMED = ("hf", "parquet", "saved")  # formats that the library `datasets` reads, as a stream
INSIDE = ("tar", "chinese_clip")  # others whose pictures are inside the data
NAMED = 3  # bad rows of one cause that are named in full
THREADS = max(4, os.cpu_count() or 1)  # that read and decode pictures


@dataclass(slots=True)
class Report:
    """What came of the rows."""

    records: int = 0
    rows: int = 0  # read: those that the records are of, and those that are left out
    captions: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)  # what is wrong -> rows, as `check_table` counts them
    named: dict[str, list[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)  # what of rows that are kept is left out or doubtful
    decoded: bool = True

    def leave_out(self, where: str, error: RecordError, rows: int = 1) -> None:
        self.rows += rows
        self.bad[error.what] += rows
        examples = self.named.setdefault(error.what, [])
        if len(examples) < NAMED:
            examples.append(f"{where}: {error.reason.removeprefix(error.what).removeprefix(': ')}".removesuffix(": "))

    def lines(self) -> Iterator[str]:
        """The report as text, one fact a line."""
        captions = ", ".join(f"{count} {language}" for language, count in sorted(self.captions.items()))
        splits = dict(sorted(self.splits.items()))
        yield f"{self.records} records of {self.rows} rows ({splits}), captions and answers: {captions or 'none'}"
        for note, count in self.notes.most_common():
            yield f"note: {count} x {note}"
        for cause, count in self.bad.most_common():
            yield f"left out: {count} x {cause}, for instance"
            yield from (f"    {message}" for message in self.named[cause])
        if not self.decoded:
            yield "pictures were not decoded; check_table does"


def _drafts(rows: RowReader, rules: DraftRules, report: Report) -> Iterator[Draft]:
    """Drafts in the rows' order, neighbours of one picture merged, bad rows counted."""
    pending: Draft | None = None
    for row in rows.scan():
        try:
            new = make_draft(rows, row, rules)
        except RecordError as error:
            report.leave_out(name_row(rows, row), error)
            continue
        merged = merge(pending, new) if pending else None
        if pending and merged is None:
            yield pending
        pending = merged or new
    if pending:
        yield pending


def _in_order(
    items: Iterator[Draft], work: Callable[[Draft], list[dict[str, Any]]], threads: int
) -> Iterator[tuple[Draft, Future[list[dict[str, Any]]]]]:
    """`work` on a bounded window of items, results in the items' order: reading overlaps, memory stays constant."""
    window: deque[tuple[Draft, Future[list[dict[str, Any]]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            window.append((item, pool.submit(work, item)))
            if len(window) >= 8 * threads:
                yield window.popleft()
        yield from window


def convert(rows: RowReader, rules: DraftRules, target: Target) -> Report:
    """Write `target.out` whole or not at all, and return the counts; UserError when no row makes a record."""
    report = Report(decoded=target.decoded)
    source = SourcePictures(rules.schema.pictures, target.kept, target.dicom, target.decoded)
    bar = Progress(rows.size, rows.unit, "convert")
    with bar, replace_file(target.out) as file:
        drafts = _drafts(rows, rules, report)
        for draft, future in _in_order(drafts, lambda draft: finish(draft, target, source), THREADS):
            bar.update(draft.done - bar.n)
            try:
                records = future.result()
            except RecordError as error:
                report.leave_out(draft.where, error, draft.rows)
                continue
            for record in records:
                file.write(cli.json_line(record))
                report.records += 1
                report.splits[record["split"]] += 1
                report.captions.update(parse_record(record).caption_counts)
            report.rows += draft.rows
            report.notes.update(note.partition(": ")[0] for note in draft.notes)
        if not report.records:
            raise UserError("no row makes a record, nothing is written\n" + "\n".join(report.lines()))
        if target.dicom.report.files:
            target.dicom.write_report(target.dicom_report)
    return report


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = cli.parser("data_tools.convert", __doc__)
    add = parser.add_argument
    add("source", help=".json, .jsonl, .csv, .tsv, .tar, .parquet; a folder of these; for hf also a dataset's name")
    cli.add_table_options(parser, [*get_args(Format), "hf"])
    add("--out", required=True, type=Path, help="records file to write, for instance records.jsonl")
    images = "folder that picture paths are relative to (default: the source's folder); where the pictures are inside "
    add("--images", type=Path, help=images + "the data (tar, parquet, ...): that they are written to (OUT's images)")
    add("--source", dest="name", help="the records' source (default: the source's file or folder name)")
    add("--split", default="train", help="the records' split where the source does not say (default: train)")
    add("--language", choices=LANGUAGES, help="language of the texts (default: detected in each text)")
    add("--field", action="append", default=[], metavar="WHAT=KEY", help="as data.train.N.fields; repeatable")
    add("--image-field", help="column with the picture")
    add("--caption-field", action="append", default=[], metavar="[LANG=]COLUMN", help="captions; repeatable")
    add("--id-field", help="column with the record's id (default: id or question_id, else the picture's path)")
    add("--split-field", help="column with the split (default: split, if there is one)")
    add(
        "--group-field",
        help="column with what must stay in one split (default: group, patient or study, else the picture)",
    )
    add("--quick", action="store_true", help="look whether pictures are there, and decode none")
    add("--window", type=window_argument, default=FILE, help=f"DICOM: black and white: {FORMS} (default: file)")
    add("--frame", type=frame_argument, default="first", help="DICOM: first, middle, each or a number (default: first)")
    add("--salt", type=Path, help="DICOM: file with the salt of hashes (default: one of your own, made once)")
    add("--hf-config", help="hf: the dataset's configuration")
    add("--hf-split", help="hf: read only this split (default: all, each kept as the records' split)")
    return parser.parse_args(arguments)


def _format_of(args: argparse.Namespace) -> str:
    """How the source is read: "hf" by the library `datasets`, as a stream. UserError where it is nothing known."""
    path, library = Path(args.source), args.format == "hf"
    if args.format is not None and not library:
        name: str = args.format
        return name
    if library and not path.is_dir():
        return "hf"
    try:
        return find_format(path)
    except UserError:
        if not path.is_dir() or (path / "manifest.json").is_file():
            raise
        return "hf"  # a folder of pictures, or in another layout that the library knows


def open_source(args: argparse.Namespace) -> tuple[RowReader, DraftRules]:
    """The source's rows and how they are read. UserError names what cannot be opened or is not there."""
    path = Path(args.source)
    if path.resolve() == args.out.resolve():
        raise UserError(f"--out {args.out} is the source itself; give another file")
    fields = cli.parse_fields(args.field)
    fields = replace(fields, image=args.image_field) if args.image_field else fields
    images = (args.images or folder_of(path)).resolve()
    source = cli.table_source(args, path, images, fields, args.join)
    format = _format_of(args)
    rows: RowReader
    if format not in STREAMED:
        table = open_table_source(source)
        captions = _caption_columns(args, table.columns)
        rows = table if captions is None else AdaptedTable(table, captions)
    else:
        stream = _open_stream(args, source, format)
        captions = _caption_columns(args, stream.columns)
        rows = stream if captions is None else AdaptedRows(stream, captions)
    named = {what: getattr(args, f"{what}_field") for what in ("image", "id", "split", "group")}
    own = {what: (column(f"--{what}-field", name, rows.columns),) for what, name in named.items() if name is not None}
    source = source if captions is None else replace(source, fields=captions.fields(source.fields))
    return rows, DraftRules(find_schema(rows, source, own), args.language)


def _caption_columns(args: argparse.Namespace, columns: Sequence[str]) -> CaptionColumns | None:
    chosen = tuple(caption_column(text, args.language, columns) for text in args.caption_field)
    return CaptionColumns(chosen) if chosen else None


def _open_stream(args: argparse.Namespace, source: Source, format: str) -> RowReader:
    from vglm_train.data.tables.hf_dataset import DatasetStream

    for option in ("encoding", "delimiter", "columns", "join"):
        if getattr(args, option) is not None:
            raise UserError(f"--{option}: {args.source} is read by the library `datasets`, which has no use for it")
    files = files_of(Path(args.source), ".parquet") if format == "parquet" else ()
    stream = DatasetStream(args.source, args.hf_config, args.hf_split, files)
    if format == "hf" and args.format is None:
        columns = ", ".join(stream.columns)
        print(
            f"{args.source}: this folder holds no table that is known, so the library `datasets` reads it in its own "
            f"way, with the columns {columns}; if the rows are in a file of it, give that file",
            file=sys.stderr,
        )
    return adapt_stream(stream, source)


def target(args: argparse.Namespace) -> Target:
    """Where the command line says to write records and pictures."""
    inside = _format_of(args) in (*STREAMED, *INSIDE)
    out, source = cli.output(args.out, []), Path(args.source)
    kept = args.images or out.parent / "images"
    if not inside:
        kept = out.with_suffix(".pictures")  # of DICOM files; a folder of people's own is not written in
    else:
        make_folder(f"--images {kept}", kept)
    named = source.parent.resolve() if set(source.name) & set("*?[{") else source
    dicom = DicomReader(args.salt, args.window, args.frame)
    own_group = args.group_field is not None or cli.parse_fields(args.field).group is not None
    return Target(out, kept.resolve(), args.name or named.stem, args.split, dicom, not args.quick, own_group)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    rows, rules = open_source(args)
    taken = target(args)
    report = convert(rows, rules, taken)
    print(describe_columns(rules.schema.columns), file=sys.stderr)
    if rules.schema.unread:
        print(describe_unread(rules.schema.unread, "--field {}={}", "--caption-field en={}"), file=sys.stderr)
    print(f"{args.out}: " + "\n".join(report.lines()))
    if taken.dicom.report.files:
        print("\n".join(taken.dicom.report.lines()) + f"\nevery dropped tag: {taken.dicom_report}")
    return 0


if __name__ == "__main__":
    command(main)
