"""Captions, questions and dialogues in the formats people have -> one JSONL of records, one line a picture.

    python -m data_tools.convert captions.jsonl --images photos --out records.jsonl

It reads every table that training reads (JSON lists, LLaVA's and ShareGPT's dialogues, COCO captions, CSV, TSV), and
what the library `datasets` opens. A record: {"id", "image" (path relative to the records file, or a list of paths),
"image_id" (hash of the first file's bytes: equal ids are one picture), "captions" {"en": [...], "zh": [...]}, "source",
"split", "group" (a patient or page: never split)}, and of a question or a dialogue "turns" and "language".
Tar shards of another tool, such as img2dataset's (its KEY.txt are captions), are given as a tar, a folder of them, or
a pattern in quotes.
Neighbouring rows that caption the same picture become one record. A row without a picture, or that says nothing, is
left out, counted by cause and, the first few, named. Nothing is decoded here; `pack_shards` does that.
"""

import argparse
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from data_tools.common import cli
from data_tools.common.cli import command, progress
from data_tools.common.image_bytes import extension, read_file
from data_tools.common.text import LANGUAGES
from data_tools.convert.draft import Draft, SourceColumns, make_draft, merge, source_columns
from vglm_train.data.record import RecordError, content_id
from vglm_train.data.record import parse as parse_record
from vglm_train.data.tables import image_paths
from vglm_train.data.tables.base import RowReader
from vglm_train.data.tables.readers import Format, open_table
from vglm_train.data.tables.tar_rows import TarRows, find_tars
from vglm_train.errors import UserError
from vglm_train.files import replace_file
from vglm_train.folders import make_folder
from vglm_train.image import ImageError

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


def _find_picture(image: str | bytes, images: Path) -> tuple[Path, int, str]:
    """Its file, the hash of its bytes, and a name for its record. RecordError when the file is not there."""
    if isinstance(image, bytes):
        path, identity = _keep_picture(image, images)
        return path, identity, f"{identity:016x}"
    path = images / image
    with suppress(OSError, ValueError):  # a name that no file can have; `read_file` says what is wrong with it
        path = image_paths.find(images, image) or path
    try:
        identity = content_id(read_file(path))
    except ImageError as error:
        raise RecordError(error.cause, error.reason) from None
    return path, identity, Path(image).with_suffix("").as_posix()


def _record(draft: Draft, target: Target) -> dict[str, Any]:
    """The finished record; reads the pictures for their hash. RecordError when one is not there."""
    pictures = [_find_picture(image, target.images) for image in draft.images]
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
        "group": draft.labels.get("group") or key,
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
    add("source", help=".json, .jsonl, .csv, .tsv, tars; for hf a folder, a data file or a dataset's name")
    add("--format", choices=[*get_args(Format), "hf"], help="default: what the file's name ends in; a folder: hf")
    add("--out", required=True, type=Path, help="records file to write, for instance records.jsonl")
    images = "folder that picture paths are relative to (default: the source's folder); "
    add("--images", type=Path, help=images + "hf: where pictures inside the data are written (default: OUT's images)")
    add("--source", dest="name", help="the records' source (default: the source's file or folder name)")
    add("--split", default="train", help="the records' split where the source does not say (default: train)")
    add("--language", choices=LANGUAGES, help="language of the texts (default: detected in each text)")
    add("--field", action="append", default=[], metavar="WHAT=KEY", help="as data.train.N.fields; repeatable")
    add("--image-field", help="column with the picture")
    add("--caption-field", action="append", default=[], metavar="[LANG=]COLUMN", help="captions; repeatable")
    add("--id-field", help="column with the record's id (default: id or question_id, else the picture's path)")
    add("--split-field", help="column with the split (default: split, if there is one)")
    add("--group-field", help="column with what must stay in one split (default: group, patient or study, else the id)")
    add("--columns", help="csv, tsv: names of the columns, with commas, when the first row does not hold them")
    add("--encoding", default="utf-8-sig", help="csv, tsv: text encoding, for instance gb18030 (default: utf-8)")
    add("--hf-config", help="hf: the dataset's configuration")
    add("--hf-split", help="hf: read only this split (default: all, each kept as the records' split)")
    return parser.parse_args(arguments)


def _brings_pictures(args: argparse.Namespace) -> bool:
    """Whether pictures come inside the source, from tars or from what the library `datasets` reads."""
    return args.format == "hf" or (args.format is None and (Path(args.source).is_dir() or bool(find_tars(args.source))))


def open_source(args: argparse.Namespace) -> tuple[RowReader, SourceColumns]:
    """The source's rows and which of its columns mean what. UserError names what cannot be opened or is not there."""
    source = Path(args.source)
    if source.resolve() == args.out.resolve():
        raise UserError(f"--out {args.out} is the source itself; give another file")
    rows: RowReader
    if _brings_pictures(args) and (tars := find_tars(args.source)) is not None:
        rows = TarRows(tars, args.hf_split)
    elif _brings_pictures(args):
        from vglm_train.data.tables.hf_dataset import DatasetStream

        rows = DatasetStream(args.source, args.hf_config, args.hf_split)
    else:
        names = tuple(name.strip() for name in args.columns.split(",")) if args.columns else None
        rows = open_table(source, args.format, args.encoding, names)
    named = {what: getattr(args, f"{what}_field") for what in ("image", "id", "split", "group")}
    fields = cli.parse_fields(args.field)
    return rows, source_columns(args.source, rows.columns, fields, args.caption_field, args.language, **named)


def target(args: argparse.Namespace) -> Target:
    """Where the command line says to read pictures and write records."""
    beside = args.out.parent / "images" if _brings_pictures(args) else Path(args.source).parent
    source = Path(args.source)
    name = args.name or (source.parent.resolve() if set(source.name) & set("*?[{") else source).stem
    out, images = cli.output(args.out, []), (args.images or beside).resolve()
    if _brings_pictures(args):
        make_folder(f"--images {images}", images)
    return Target(out, images, name, args.split)


def main() -> int:
    args = parse()
    rows, columns = open_source(args)
    report = convert(rows, columns, target(args))
    print(f"{args.out}: " + "\n".join(report.lines()))
    print(columns.line(), file=sys.stderr)
    return 0


if __name__ == "__main__":
    command(main)
