"""Captions, questions and dialogues in the formats people have -> one JSONL of records, one line a picture.

    vglm data convert captions.jsonl --images photos --out records.jsonl

It reads every table that training reads: JSON, CSV, TSV, COCO, VQAv2's two files, tars of img2dataset, Parquet and
others (the documentation has the list); with `--format hf` also a dataset's name. A record: {"id", "image" (path
relative to the records file, or a list of paths), "image_id" (hash of the first file's bytes: equal ids are one
picture), "captions" {"en": [...], "zh": [...]}, "source", "split", "group" (a patient or page: never split)}, and of a
question or a dialogue "turns" and "language". Neighbouring rows that caption the same picture become one record. Rows
are kept that `check_table` passes; the others are left out, counted by the same causes and, the first few, named. Every
picture is decoded for it, but not with --quick. With --studies or --study-field the pictures of a study become one
record, which says its "views".
"""

import argparse
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from data_tools.common import cli
from data_tools.common.cli import command
from data_tools.convert import options
from data_tools.convert.dicom import DicomReader
from data_tools.convert.draft import (
    CaptionColumns,
    Draft,
    DraftRules,
    caption_column,
    captions_only,
    column,
    make_draft,
    make_study_draft,
    merge,
)
from data_tools.convert.finish import Target, finish
from data_tools.convert.headings import FINDINGS, IMPRESSION
from data_tools.convert.outcome import Report
from data_tools.convert.pictures import SourcePictures
from data_tools.convert.report_text import PartColumns, ReportRules, part_columns
from data_tools.convert.study import StudyReport, gather
from data_tools.convert.study_rows import StudyFolder, StudyPictures
from vglm_train.config.data import Fields, Source
from vglm_train.data.record import RecordError
from vglm_train.data.record import parse as parse_record
from vglm_train.data.tables.base import RowReader, name_row
from vglm_train.data.tables.fields import describe_columns, known
from vglm_train.data.tables.layouts.rows import AdaptedRows
from vglm_train.data.tables.readers import adapt_stream, files_of, find_format, folder_of
from vglm_train.data.tables.readers import open_source as open_table_source
from vglm_train.data.tables.schema import find_schema
from vglm_train.data.tables.unread import describe_unread
from vglm_train.errors import UserError
from vglm_train.files import replace_file
from vglm_train.folders import make_folder
from vglm_train.progress import Progress

STREAMED = ("hf", "parquet", "saved")  # formats that the library `datasets` reads, as a stream
INSIDE = ("tar", "chinese_clip")  # others whose pictures are inside the data
THREADS = max(4, os.cpu_count() or 1)  # that read and decode pictures


def _drafts(rows: RowReader, rules: DraftRules, report: Report) -> Iterator[Draft]:
    """Drafts in the rows' order, neighbours of one picture merged, bad rows counted."""
    pending: Draft | None = None
    for row in rows.scan():
        try:
            new = (make_study_draft if rules.studies else make_draft)(rows, row, rules)
        except RecordError as error:
            report.leave_out(name_row(rows, row), error)
            continue
        merged = merge(pending, new) if pending and not rules.studies else None
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
    folder, hidden = rules.schema.pictures, rules.schema.dicom
    source = SourcePictures(folder, target.kept, target.dicom, target.decoded, hidden, target.private)
    with replace_file(target.out) as file:
        drafts = _drafts(rows, rules, report)
        if rules.studies and target.studies:
            drafts = gather(drafts, target.studies, rules.schema.pictures, rules.studies.folder)
        with Progress(rows.size, rows.unit, "convert") as bar, source.only_used():
            for draft, future in _in_order(drafts, lambda draft: finish(draft, target, source), THREADS):
                bar.update(max(0, draft.done - bar.n))
                _write(file, draft, future, report)
        if not report.records:
            raise UserError("no row makes a record, nothing is written\n" + "\n".join(report.lines()))
        if target.dicom.report.files:
            target.dicom.write_report(target.dicom_report)
    return report


def _write(file: BinaryIO, draft: Draft, future: Future[list[dict[str, Any]]], report: Report) -> None:
    """The records of a draft, or why there are none."""
    try:
        records = future.result()
    except RecordError as error:
        report.leave_out(draft.where, error, draft.rows)
        return
    for record in records:
        file.write(cli.json_line(record))
        report.records += 1
        report.splits[record["split"]] += 1
        report.captions.update(parse_record(record).caption_counts)
    report.rows += draft.rows
    report.notes.update(note.partition(": ")[0] for note in draft.notes)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. UserError where options do not go together."""
    parser = cli.parser("data_tools.convert", __doc__)
    options.add_arguments(parser)
    args = parser.parse_args(arguments)
    args.studies = args.studies or args.study_field is not None
    if args.studies and args.frame == "each":
        raise UserError("--frame each makes a record of each frame, --studies one of all pictures; give one of them")
    if args.part_field and args.report_part == "whole":
        raise UserError("--part-field is for --report-part findings, impression or both")
    return args


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
    rows: RowReader = _open_stream(args, source, format) if format in STREAMED else open_table_source(source)
    studies = _studies(args, rows.columns, fields, images) if args.studies else None
    captions = _caption_columns(args, rows.columns)
    for step in (studies, captions):
        rows = rows if step is None else AdaptedRows(rows, step)
    named = {what: getattr(args, f"{what}_field") for what in ("image", "id", "split", "group")}
    own = {what: (column(f"--{what}-field", name, rows.columns),) for what, name in named.items() if name is not None}
    source = source if captions is None else replace(source, fields=captions_only(source.fields))
    texts = ReportRules(args.report_part, args.earlier)
    try:
        schema = find_schema(rows, source, own)
    except UserError as error:
        if studies is None and not args.image_field and not fields.image and not known("image", rows.columns):
            raise UserError(f"{error} Where rows name studies instead: --study-field COLUMN --images FOLDER") from None
        raise
    if args.images is not None and (schema.dicom or args.private) and args.out.resolve().is_relative_to(images):
        raise UserError(
            f"--out {args.out} is inside {args.images}, whose files name patients: what is made of them is to lie "
            "apart. Give --out in another folder"
        )
    return rows, DraftRules(schema, args.language, texts, studies, args.study_field)


def _studies(args: argparse.Namespace, columns: Sequence[str], fields: Fields, images: Path) -> StudyPictures:
    """What gives a row the pictures of its study. UserError where no column names a picture or a study."""
    if args.images is not None and not images.is_dir():
        raise UserError(f"--images {args.images}: there is no such folder; give the one with the pictures")
    if args.study_field is not None:
        column("--study-field", args.study_field, columns)
    if named := [fields.image] if fields.image else known("image", columns):
        return StudyPictures(column("--image-field", named[0], columns), StudyFolder(images), False, named[0])
    if args.study_field is None:
        raise UserError(
            f"{args.source}: no column that is known to hold a picture; its columns are {list(columns)}. Name it with "
            "--image-field, or with --study-field the one that names a study: its folder, or a number that its DICOM "
            "files have"
        )
    return StudyPictures(args.study_field, StudyFolder(images), True)


def _caption_columns(args: argparse.Namespace, columns: Sequence[str]) -> CaptionColumns | PartColumns | None:
    if chosen := tuple(caption_column(text, args.language, columns) for text in args.caption_field):
        return CaptionColumns(chosen)
    if args.report_part == "whole":
        return None
    named = []
    for text in args.part_field:
        part, equals, name = text.partition("=")
        if not equals or part not in (FINDINGS, IMPRESSION):
            raise UserError(f"--part-field {text}: give PART=COLUMN, where PART is {FINDINGS} or {IMPRESSION}")
        named.append((part, column("--part-field", name, columns)))
    return part_columns(columns, named)


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
    report = StudyReport(args.views) if args.studies else None
    name = args.name or named.stem
    return Target(out, kept.resolve(), name, args.split, dicom, not args.quick, own_group, args.private, report)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    rows, rules = open_source(args)
    taken = target(args)
    report = convert(rows, rules, taken)
    columns = rules.schema.columns
    if rules.studies is not None and rules.studies.numbers:  # the column of pictures is made from the study's
        columns = replace(columns, image=(f"the study that {rules.studies.column} names",))
    print(describe_columns(columns), file=sys.stderr)
    if rules.schema.unread:
        print(describe_unread(rules.schema.unread, "--field {}={}", "--caption-field en={}"), file=sys.stderr)
    print(f"{args.out}: " + "\n".join(report.lines()))
    if taken.studies is not None and rules.studies is not None:
        print("\n".join(taken.studies.lines(rules.studies.folder)))
    if taken.dicom.report.files:
        print("\n".join(taken.dicom.report.lines()) + f"\nevery dropped tag: {taken.dicom_report}")
    return 0


if __name__ == "__main__":
    command(main)
