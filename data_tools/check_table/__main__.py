"""Look through a table before fine-tuning on it, and at what it shares with another one.

    vglm data check_table train.json
    vglm data check_table train.json --config configs/finetune/my_run.yaml
    vglm data check_table train.json --against test.json
    vglm data check_table train.json --quick

Tells how many rows can be used and what is wrong with the others, which keys were read as what and which texts nobody
reads, decodes every picture (--quick: looks whether it is there), gives the commonest answer of each type (a model that
says nothing else reaches that share), and names pictures, rows and groups (patients, studies) that stand on both sides:
the same file, the same bytes under another name, or, not with --quick, the same picture saved anew. All counts but that
of rows are of what can be used.

Training takes the rows that pass here. With --config these are the rows of that run: its languages, prompt.max_images,
tokenizers, split and held-out rows, and the images and fields of the source that names the table. Without it a row
passes that a run which asks for nothing special can use. The exit status is 1 where something is wrong or shared.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from data_tools.check_table.pictures import AGREEMENT, find_same
from data_tools.check_table.run_rules import RunRules, of_run, without_run
from data_tools.check_table.scan import TableScan, scan_table
from data_tools.common import cli
from vglm_train.config.data import Format, Holdout, Source
from vglm_train.data.shards.index import LANGUAGES
from vglm_train.data.tables.fields import RULES, describe_columns
from vglm_train.data.tables.holdout import held
from vglm_train.data.tables.leaks import find_leaks, named_pictures, same_pictures
from vglm_train.data.tables.table import Table
from vglm_train.data.tables.unread import describe_unread
from vglm_train.progress import Progress

TYPES = 12  # kinds of question whose commonest answer is shown
LONG = 40  # characters of an answer that are shown
SHOWN = 5  # pictures of each finding that are named; all are counted


def summarise(scan: TableScan, part: Source, holdout: Holdout | None) -> dict[str, Any]:
    """One table, read as `part`, as JSON values."""
    table, index = scan.table, scan.table.index
    whole = [picture.content for picture in scan.pictures.known.values() if picture.damage is None]
    lengths = sorted(scan.lengths.elements())
    groups = index.groups[scan.usable]
    answers = {kind: +answers for kind, answers in scan.answers.items()}  # without those that were taken back
    return {
        "table": str(table.path),
        "rows": len(index),
        "usable": int(scan.usable.sum()),
        "outside": scan.outside,
        "split": part.split,
        "splits": table.splits(),
        "held": None if holdout is None else _held(scan, part, holdout),
        "opened": scan.opened,
        "keys": {name: keys for name, keys in asdict(table.columns).items() if name not in RULES},
        "read": describe_columns(table.columns),
        "unread": table.schema.unread,
        "languages": {name: int((index.languages[scan.usable] >> bit & 1).sum()) for bit, name in enumerate(LANGUAGES)},
        "groups": len(set(groups[groups != 0].tolist())),
        "pictures": len(scan.names),
        "undecodable": len(scan.pictures.known) - len(whole),
        "again": len(whole) - len(set(whole)),
        "inferred": Counter(note for picture in scan.pictures.known.values() for note in picture.notes),
        "damage": dict(scan.damage.counts),
        "examples": scan.damage.examples,
        "notes": dict(scan.notes.counts),
        "note_examples": scan.notes.examples,
        "answers": {kind: _commonest(counts) for kind, counts in answers.items() if counts},
        "length": {
            "median": lengths[len(lengths) // 2],
            "p95": lengths[len(lengths) * 95 // 100],
            "longest": lengths[-1],
        }
        if lengths
        else None,
    }


def _held(scan: TableScan, part: Source, holdout: Holdout) -> dict[str, Any]:
    """How many of the rows that can be used are on each side. UserError as training raises it."""
    rows = scan.table.usable(part.split)
    kept = held(scan.table, rows, holdout)
    train, validation = (int(scan.usable[rows[side]].sum()) for side in (~kept, kept))
    return {"by": holdout.by, "share": holdout.share, "train": train, "validation": validation}


def _commonest(answers: Counter[str]) -> dict[str, Any]:
    [(text, count)] = answers.most_common(1)
    return {"answers": answers.total(), "different": len(answers), "commonest": text, "share": count / answers.total()}


def compare(first: TableScan, second: TableScan) -> dict[str, Any]:
    """What stands in both tables as JSON values; what was saved anew is known only where pictures were opened.

    `groups` is None where a table names none: those are in `nameless`.
    """
    sides = [[(scan.table, np.arange(len(scan.table.index)))] for scan in (first, second)]
    leaks = find_leaks(sides[0], sides[1], read=0)
    nameless = [str(scan.table.path) for scan in (first, second) if not scan.table.index.groups.any()]
    groups = None if nameless else leaks.groups
    shared: dict[str, Any] = {"table": str(second.table.path), "groups": groups, "nameless": nameless}
    shared["rows"] = leaks.rows
    if not (first.opened and second.opened):
        with Progress(len(first.usable) + len(second.usable), "row", "compare") as bar:
            named = [named_pictures(side, bar.update) for side in sides]
        return {**shared, "same": same_pictures(*named), "near": None}
    known = {each.content: first.names[n] for n, each in sorted(first.pictures.known.items()) if each.damage is None}
    contents = {number: each.content for number, each in sorted(second.pictures.known.items())}
    same = [(known[content], second.names[number]) for number, content in contents.items() if content in known]
    alike = [
        (first.names[one], second.names[other], round(agreement, 3))
        for one, other, agreement in find_same(first.pictures, second.pictures)
        if contents[other] not in known
    ]
    return {**shared, "same": same, "near": alike}


def lines(summary: dict[str, Any]) -> Iterator[str]:
    """A table's summary in words."""
    how = "" if summary["opened"] else ", if their pictures can be decoded: these were looked for and not opened"
    others = f"; {summary['outside']} are not of split {summary['split']}" if summary["outside"] else ""
    yield f"{summary['table']}: {summary['rows']} rows, {summary['usable']} can be used{how}{others}"
    yield from _split_lines(summary)
    yield summary["read"]
    if summary["unread"]:
        yield describe_unread(summary["unread"], "--field {}={}")
    languages = ", ".join(f"{language} {count}" for language, count in summary["languages"].items() if count)
    yield f"languages: {languages or 'none'}; groups: {summary['groups'] or 'none named'}"
    bad = f"; {summary['undecodable']} cannot be decoded" if summary["undecodable"] else ""
    again = f"; {summary['again']} of them have the bytes of another" if summary["again"] else ""
    yield f"pictures: {summary['pictures']}{bad}{again}"
    yield from (f"pictures, {note}: {count}" for note, count in sorted(summary["inferred"].items()))
    if summary["length"]:
        length = summary["length"]
        yield f"answers: {length['median']} words or Chinese characters in the middle, 95 % at most {length['p95']}"
    for kind, found in list(summary["answers"].items())[:TYPES]:
        shown = found["commonest"][:LONG]
        yield (
            f"    {kind}: {found['answers']} answers, {found['different']} different; the commonest is "
            f"{100 * found['share']:.0f} %: {shown}"
        )
    for note, count in summary["notes"].items():
        yield f"note: {count} x {note}, first {summary['note_examples'][note]}"
    for cause, count in summary["damage"].items():
        yield f"wrong: {count} x {cause}, first {summary['examples'][cause]}"


def _split_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Which of the rows a run takes for what."""
    if (parts := summary["held"]) is not None:
        yield (
            f"data.holdout by {parts['by']}, share {parts['share']:g}: of these {parts['train']} are trained on, "
            f"{parts['validation']} kept for validation"
        )
    if summary["split"] is None and len(summary["splits"]) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in summary["splits"].items())
        yield f"splits: {listed}; a run reads one at a time: set split in the source (--split looks at one alone)"


def leak_lines(shared: dict[str, Any]) -> Iterator[str]:
    """What two tables share, in words."""
    yield f"against {shared['table']}:"
    nameless = " and ".join(shared["nameless"])
    known = shared["groups"] if not nameless else f"cannot be told, {nameless} names none (--field group=KEY)"
    yield f"    groups (patients, studies) in both: {known}"
    yield f"    rows in both, word for word: {shared['rows']}"
    yield f"    pictures in both, byte for byte: {len(shared['same'])}"
    yield from (f"        {one} = {other}" for one, other in shared["same"][:SHOWN])
    if shared["near"] is None:
        yield "    pictures in both that were saved anew: not looked for, since pictures were not opened"
        return
    yield f"    pictures in both that were saved anew: {len(shared['near'])} (whose edges agree by {AGREEMENT} or more)"
    yield from (f"        {one} ~ {other} ({agreement})" for one, other, agreement in shared["near"][:SHOWN])


def source(args: argparse.Namespace, path: Path, images: Path | None, join: str | None = None) -> Source:
    """The table as a run would name it."""
    return replace(cli.table_source(args, path, images, cli.parse_fields(args.field), join), split=args.split)


def _scan(part: Source, rules: RunRules, args: argparse.Namespace) -> TableScan:
    table = Table(part)
    if part.split is not None:
        table.usable(part.split)  # UserError where there is no such split
    return scan_table(table, rules.check, args.workers, not args.quick, part.split)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.check_table", __doc__)
    add = parser.add_argument
    add("table", type=Path, help=".json, .jsonl, .csv, .tsv, .parquet, .tar, or a folder of these or of `datasets`")
    add("--images", type=Path, help="folder that its pictures' paths start from (default: the table's)")
    add("--field", action="append", default=[], metavar="WHAT=KEY", help="as data.train.N.fields; repeatable")
    add("--split", help="look at the rows of this split alone")
    add("--config", help="YAML file of a run, or a preset's name, whose rules the rows must pass")
    add("--set", action="append", default=[], metavar="section.key=value", help="change a value of it; repeatable")
    cli.add_table_options(parser, get_args(Format))
    add("--against", type=Path, help="another table, which should share nothing with the first")
    add("--against-images", type=Path, help="folder of that one's pictures")
    add("--against-join", metavar="FILE", help="the other half of that one")
    add("--quick", action="store_true", help="look whether pictures are there, and open none")
    add("--json", action="store_true", help="print the result as one JSON object")
    add("--workers", type=cli.at_least_one, default=os.cpu_count() or 1, help="processes (default: one a CPU)")
    args = parser.parse_args(argv)
    rules = without_run() if args.config is None else of_run(args.config, args.set)
    pairs = [(args.table, args.images, args.join)]
    pairs += [(args.against, args.against_images, args.against_join)] if args.against else []
    parts = [rules.source(source(args, *pair)) for pair in pairs]
    scans = [_scan(part, rules, args) for part, _ in parts]
    summaries = [summarise(scan, *part) for scan, part in zip(scans, parts)]
    shared = compare(*scans) if args.against else None
    if args.json:
        text = json.dumps({"tables": summaries, "shared": shared}, ensure_ascii=False, indent=1)
    else:
        said = [line for summary in summaries for line in lines(summary)]
        text = "\n".join([*said, *(leak_lines(shared) if shared else ())])
    print(text.encode("utf-8", "replace").decode())  # half of an emoji cannot be printed
    leaking = shared is not None and any(shared[name] for name in ("groups", "rows", "same", "near"))
    return 1 if leaking or any(scan.damage.counts for scan in scans) else 0


if __name__ == "__main__":
    cli.command(main)
