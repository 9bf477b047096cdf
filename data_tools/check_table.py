"""Look through a table before fine-tuning on it, and at what it shares with another one.

    python -m data_tools.check_table train.json
    python -m data_tools.check_table train.json --against test.json

Tells how many rows can be used and what is wrong with the others, which keys were read as what, decodes every picture,
gives the commonest answer of each type (a model that says nothing else reaches that share), and names pictures, rows
and groups (patients, studies) that stand on both sides: the same file, the same bytes under another name, or the same
picture saved anew. The exit status is 1 where something is wrong or shared.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from data_tools import _files
from data_tools._looking import NEAR, Seen, look, look_at, near
from data_tools._pool import spread
from vglm_train.config.data import Fields, Source
from vglm_train.data.index import LANGUAGES
from vglm_train.data.record import RecordError
from vglm_train.data.tables.canonical import canonical
from vglm_train.data.tables.leaks import find_leaks
from vglm_train.data.tables.pictures import find
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError

TYPES = 12  # kinds of question whose commonest answer is shown
LONG = 40  # characters of an answer that are shown
SHOWN = 5  # pictures of each finding that are named; all are counted


@dataclass(slots=True)
class Looked:
    """A table after a pass over its rows and pictures."""

    table: Table
    damage: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # damage -> where it is
    answers: dict[str, Counter[str]] = field(default_factory=dict)  # type -> answer -> rows
    lengths: Counter[int] = field(default_factory=Counter)  # words of an answer, or Chinese characters -> answers
    names: list[str] = field(default_factory=list)  # of pictures
    seen: list[Seen] = field(default_factory=list)  # of the same

    def spoil(self, cause: str, example: str) -> None:
        self.damage[cause] += 1
        self.examples.setdefault(cause, example)


def look_through(table: Table, workers: int) -> Looked:
    """Read every row, decode every picture."""
    looked, files = Looked(table), dict[Path, str]()
    with _files.progress(len(table.index), "row", f"read {table.path.name}") as bar:
        for row, place in enumerate(table.index.places.tolist()):
            bar.update(1)
            try:
                record, pictures = canonical(table.file.row(*place), table.columns)
            except RecordError as error:
                looked.spoil(str(error), f"row {row}")
                continue
            _count(looked, record)
            for name in pictures:
                _keep(looked, files, row, name)
    with _files.progress(len(files), "picture", "decode") as bar:
        found: dict[Path, Seen] = {}
        for path, seen in spread(look_at, list(files), workers, look_at.__module__):
            found[path] = seen
            bar.update(1)
    looked.names += files.values()
    looked.seen += [found[path] for path in files]
    for name, seen in zip(looked.names, looked.seen):
        if seen.damage is not None:
            looked.spoil("a picture that cannot be decoded", f"{name}: {seen.damage}")
    return looked


def _count(looked: Looked, record: dict[str, Any]) -> None:
    for turn in record.get("turns", ())[1::2]:
        text = turn["text"].strip()
        looked.answers.setdefault(record.get("type", "all"), Counter())[text] += 1
        looked.lengths[len("".join(text.split())) if record["language"] == "zh" else len(text.split())] += 1


def _keep(looked: Looked, files: dict[Path, str], row: int, name: str | bytes) -> None:
    """Note a picture of a row, for later if it is a file."""
    if isinstance(name, bytes):
        looked.names.append(f"row {row}")
        looked.seen.append(look(name))
        return
    path = find(looked.table.images, name)
    if path is None:
        looked.spoil("a picture that is not there", f"row {row}, {looked.table.images / name}")
    else:
        files.setdefault(path.resolve(), name)


def summarise(looked: Looked) -> dict[str, Any]:
    """One table as JSON values."""
    table, index = looked.table, looked.table.index
    counts = Counter(seen.content for seen in looked.seen)
    lengths = sorted(looked.lengths.elements())
    return {
        "table": str(table.path),
        "rows": len(index),
        "usable": index.count("usable"),
        "keys": {part.name: getattr(table.columns, part.name) for part in fields(table.columns)},
        "languages": {name: int((index.languages >> bit & 1).sum()) for bit, name in enumerate(LANGUAGES)},
        "groups": len(set(index.groups[index.groups != 0].tolist())),
        "pictures": len(looked.seen),
        "again": sum(count - 1 for count in counts.values()),
        "damage": dict(looked.damage),
        "examples": looked.examples,
        "answers": {kind: _commonest(answers) for kind, answers in looked.answers.items()},
        "length": {
            "median": lengths[len(lengths) // 2],
            "p95": lengths[len(lengths) * 95 // 100],
            "longest": lengths[-1],
        }
        if lengths
        else None,
    }


def _commonest(answers: Counter[str]) -> dict[str, Any]:
    [(text, count)] = answers.most_common(1)
    return {"answers": answers.total(), "different": len(answers), "commonest": text, "share": count / answers.total()}


def compare(first: Looked, second: Looked) -> dict[str, Any]:
    """What stands in both tables as JSON values."""
    sides = [[(looked.table, np.arange(len(looked.table.index)))] for looked in (first, second)]
    leaks = find_leaks(sides[0], sides[1], read=0)
    known = {seen.content: name for seen, name in zip(first.seen, first.names)}
    same = [(known[seen.content], name) for seen, name in zip(second.seen, second.names) if seen.content in known]
    alike = [
        (first.names[one], second.names[other], bits)
        for one, other, bits in near(first.seen, second.seen)
        if second.seen[other].content not in known
    ]
    return {"table": str(second.table.path), "groups": leaks.groups, "rows": leaks.rows, "same": same, "near": alike}


def lines(summary: dict[str, Any]) -> Iterator[str]:
    """A table's summary in words."""
    yield f"{summary['table']}: {summary['rows']} rows, {summary['usable']} can be used"
    read = ", ".join(f"{what} from {' or '.join(keys)}" for what, keys in summary["keys"].items() if keys)
    yield f"read: {read}"
    spoken = ", ".join(f"{language} {count}" for language, count in summary["languages"].items() if count)
    yield f"languages: {spoken}; groups: {summary['groups'] or 'none named'}"
    again = f"; {summary['again']} of them have the bytes of another" if summary["again"] else ""
    yield f"pictures: {summary['pictures']}{again}"
    if summary["length"]:
        length = summary["length"]
        yield f"answers: {length['median']} words or Chinese characters in the middle, 95 % at most {length['p95']}"
    for kind, found in list(summary["answers"].items())[:TYPES]:
        shown = found["commonest"][:LONG]
        yield (
            f"    {kind}: {found['answers']} answers, {found['different']} different; the commonest is "
            f"{100 * found['share']:.0f} %: {shown}"
        )
    for cause, count in summary["damage"].items():
        yield f"wrong: {count} x {cause}, first {summary['examples'][cause]}"


def leak_lines(shared: dict[str, Any]) -> Iterator[str]:
    """What is shared, in words."""
    yield f"against {shared['table']}:"
    yield f"    groups (patients, studies) in both: {shared['groups']}"
    yield f"    rows in both, word for word: {shared['rows']}"
    yield f"    pictures in both, byte for byte: {len(shared['same'])}"
    yield from (f"        {one} = {other}" for one, other in shared["same"][:SHOWN])
    yield f"    pictures in both that were saved anew: {len(shared['near'])} (at most {NEAR} of 256 bits apart)"
    yield from (f"        {one} ~ {other} ({bits} bits)" for one, other, bits in shared["near"][:SHOWN])


def source(given: argparse.Namespace, path: Path, images: Path | None) -> Source:
    """The table as a run would name it."""
    named: dict[str, str] = {}
    for text in given.field:
        what, equals, key = text.partition("=")
        if not equals or what not in {part.name for part in fields(Fields)}:
            known = ", ".join(part.name for part in fields(Fields))
            raise UserError(f"--field {text}: give WHAT=KEY, where WHAT is one of {known}")
        named[what] = key
    return Source(
        name=path.stem, table=str(path), images=None if images is None else str(images), fields=Fields(**named)
    )


def main() -> int:
    parser = _files.parser("data_tools.check_table", __doc__)
    add = parser.add_argument
    add("table", type=Path, help=".json, .jsonl, .csv, .tsv, or a folder that `datasets` saved")
    add("--images", type=Path, help="folder that its pictures' paths start from (default: the table's)")
    add("--field", action="append", default=[], metavar="WHAT=KEY", help="as data.train.N.fields; repeatable")
    add("--against", type=Path, help="another table, which should share nothing with the first")
    add("--against-images", type=Path, help="folder of that one's pictures")
    add("--json", action="store_true", help="print the result as one JSON object")
    add("--workers", type=_files.at_least_one, default=os.cpu_count() or 1)
    args = parser.parse_args()
    pairs = [(args.table, args.images), *([(args.against, args.against_images)] if args.against else [])]
    looked = [look_through(Table(source(args, *pair)), args.workers) for pair in pairs]
    summaries = [summarise(each) for each in looked]
    shared = compare(*looked) if args.against else None
    if args.json:
        print(json.dumps({"tables": summaries, "shared": shared}, ensure_ascii=False, indent=1))
    else:
        print(
            "\n".join(
                [*(line for summary in summaries for line in lines(summary)), *(leak_lines(shared) if shared else ())]
            )
        )
    leaking = shared is not None and any(shared[name] for name in ("groups", "rows", "same", "near"))
    return 1 if leaking or any(each.damage for each in looked) else 0


if __name__ == "__main__":
    _files.command(main)
