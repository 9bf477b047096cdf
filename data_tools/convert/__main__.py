"""Captions, questions and dialogues in the formats people have -> one JSONL of records, one line a picture.

    python -m data_tools.convert captions.jsonl --images photos --out records.jsonl

It reads every table that training reads: JSON, CSV, TSV, COCO, VQAv2's two files, tars of img2dataset, Parquet and
others (the documentation has the list); with `--format hf` also a dataset's name. A record: {"id", "image" (path
relative to the records file, or a list of paths), "image_id" (hash of the first file's bytes: equal ids are one
picture), "captions" {"en": [...], "zh": [...]}, "source", "split", "group" (a patient or page: never split)}, and of a
question or a dialogue "turns" and "language". Neighbouring rows that caption the same picture become one record. A row
without a picture, or that says nothing, is left out, counted by cause and, the first few, named. Nothing is decoded
here; `pack_shards` does that.
"""

import argparse
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from data_tools.common import cli
from data_tools.common.cli import command, progress
from data_tools.common.image_bytes import extension
from data_tools.common.text import LANGUAGES
from data_tools.convert.draft import Draft, SourceColumns, make_draft, merge, source_columns
from vglm_train.config.data import Format, Source
from vglm_train.data.record import RecordError, content_id
from vglm_train.data.record import parse as parse_record
from vglm_train.data.tables.base import RowReader
from vglm_train.data.tables.image_paths import PictureFolder
from vglm_train.data.tables.readers import adapt_stream, find_format, folder_of
from vglm_train.data.tables.readers import open_source as open_table_source
from vglm_train.errors import UserError
from vglm_train.files import replace_file
from vglm_train.folders import make_folder
from vglm_train.image import ImageError

STREAMED = ("hf", "parquet", "saved")  # formats that the library `datasets` reads, as a stream
INSIDE = ("tar", "chinese_clip")  # others whose pictures are inside the data
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
    """Where a run of `convert` reads pictures and writes records; all paths are resolved."""

    out: Path
    images: Path  # that picture paths are relative to
    kept: Path  # where pictures inside the data are written
    source: str
    split: str


def _drafts(rows: RowReader, columns: SourceColumns, report: Report) -> Iterator[Draft]:
    """Drafts in the rows' order, neighbours of one picture merged, bad rows counted."""
    pending: Draft | None = None
    for row in rows.scan():
        try:
            new = make_draft(row, columns)
        except RecordError as error:
            report.leave_out(error.cause, f"{row.where}: {error}")
            continue
        merged = merge(pending, new) if pending else None
        if pending and merged is None:
            yield pending
        pending = merged or new
    if pending:
        yield pending


def _keep_picture(data: bytes, images: Path) -> tuple[Path, int]:
    """Write a picture that came inside the source as a file named by its content; an equal one is kept."""
    identity = content_id(data)
    try:
        kind = extension(data)
    except ImageError as error:
        raise RecordError("image", str(error)) from None
    path = images / f"{identity % 256:02x}" / f"{identity:016x}.{kind}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path, durable=False) as file:
            file.write(data)
    return path, identity


def _find_picture(image: str | bytes, target: Target) -> tuple[Path, int, str]:
    """Its file, the hash of its bytes, and a name for its record. RecordError when the file is not there."""
    if isinstance(image, bytes):
        path, identity = _keep_picture(image, target.kept)
        return path, identity, f"{identity:016x}"
    try:
        found, data = PictureFolder(target.images).read(image)
    except RecordError as error:
        raise RecordError("missing image", str(error)) from None
    return found, content_id(data), Path(image).with_suffix("").as_posix()


def _record(draft: Draft, target: Target) -> dict[str, Any]:
    """The finished record; reads the pictures for their hash. RecordError when one is not there."""
    pictures = [_find_picture(image, target) for image in draft.images]
    _, identity, name = pictures[0]
    paths = [Path(os.path.relpath(path, target.out.parent)).as_posix() for path, _, _ in pictures]
    key = draft.labels.get("id") or name
    return {
        "id": key,
        "image": paths[0] if len(paths) == 1 else paths,
        "image_id": identity,
        "captions": draft.captions,
        "source": target.source,
        "split": draft.labels.get("split") or target.split,
        "group": draft.labels.get("group") or name,  # what shows one picture is never split
        **{name: text for name, text in draft.labels.items() if name == "type"},
        **draft.dialogue,
    }


def _in_order(
    items: Iterator[Draft], work: Callable[[Draft], dict[str, Any]], threads: int
) -> Iterator[tuple[Draft, Future[dict[str, Any]]]]:
    """`work` on a bounded window of items, results in the items' order: reading overlaps, memory stays constant."""
    window: deque[tuple[Draft, Future[dict[str, Any]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            window.append((item, pool.submit(work, item)))
            if len(window) >= 8 * threads:
                yield window.popleft()
        yield from window


def convert(rows: RowReader, columns: SourceColumns, target: Target) -> Report:
    """Write `target.out` whole or not at all, and return the counts; UserError when no row makes a record."""
    report = Report()
    bar = progress(rows.size, rows.unit, "convert")
    with bar, replace_file(target.out) as file:
        drafts = _drafts(rows, columns, report)
        for draft, future in _in_order(drafts, lambda draft: _record(draft, target), threads=4):
            bar.update(draft.done - bar.n)
            try:
                record = future.result()
            except RecordError as error:
                report.leave_out(error.cause, f"{draft.where}: {error}")
                continue
            file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            report.records += 1
            report.splits[record["split"]] += 1
            report.captions.update(parse_record(record).caption_counts)
        if not report.records:
            raise UserError("no row makes a record, nothing is written\n" + "\n".join(report.lines()))
    return report


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
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
    add("--hf-config", help="hf: the dataset's configuration")
    add("--hf-split", help="hf: read only this split (default: all, each kept as the records' split)")
    return parser.parse_args(arguments)


def _format_of(args: argparse.Namespace) -> str:
    """How the source is read: "hf" by the library `datasets`, as a stream. UserError where it is nothing known."""
    path, library = Path(args.source), args.format == "hf"
    if args.format is not None and not library:
        return args.format
    if library and not path.is_dir():
        return "hf"
    try:
        return find_format(path)
    except UserError:
        if not path.is_dir() or (path / "manifest.json").is_file():
            raise
        return "hf"  # a folder of pictures, or in another layout that the library knows


def open_source(args: argparse.Namespace) -> tuple[RowReader, SourceColumns]:
    """The source's rows and which of its columns mean what. UserError names what cannot be opened or is not there."""
    source = Path(args.source)
    if source.resolve() == args.out.resolve():
        raise UserError(f"--out {args.out} is the source itself; give another file")
    named = {what: getattr(args, f"{what}_field") for what in ("image", "id", "split", "group")}
    fields = cli.parse_fields(args.field)
    picture = replace(fields, image=args.image_field) if args.image_field else fields
    table = cli.table_source(args, source, args.images, picture, args.join)
    rows = _open_stream(args, table) if _format_of(args) in STREAMED else open_table_source(table)
    return rows, source_columns(args.source, rows.columns, fields, args.caption_field, args.language, **named)


def _open_stream(args: argparse.Namespace, source: Source) -> RowReader:
    from vglm_train.data.tables.hf_dataset import DatasetStream

    for option in ("encoding", "delimiter", "columns", "join"):
        if getattr(args, option) is not None:
            raise UserError(f"--{option}: {args.source} is read by the library `datasets`, which has no use for it")
    return adapt_stream(DatasetStream(args.source, args.hf_config, args.hf_split), source)


def target(args: argparse.Namespace) -> Target:
    """Where the command line says to read pictures and write records."""
    inside = _format_of(args) in (*STREAMED, *INSIDE)
    out, source = cli.output(args.out, []), Path(args.source)
    images, kept = args.images or folder_of(source), args.images or out.parent / "images"
    if inside:
        make_folder(f"--images {kept}", kept)
    named = source.parent.resolve() if set(source.name) & set("*?[{") else source
    return Target(out, images.resolve(), kept.resolve(), args.name or named.stem, args.split)


def main() -> int:
    args = parse()
    rows, columns = open_source(args)
    report = convert(rows, columns, target(args))
    print(f"{args.out}: " + "\n".join(report.lines()))
    print(columns.line(), file=sys.stderr)
    return 0


if __name__ == "__main__":
    command(main)
