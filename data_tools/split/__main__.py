"""Records by patient into train.jsonl, val.jsonl and test.jsonl, each patient in one of them.

    vglm data split records.jsonl --out made

What belongs to one patient is the record's `group`; records that share a picture belong together as well. Each file
gets its share of the patients, rounded up. The patients' hashes decide which: the order of the records does not matter,
but further patients can move others. A record that shows and says the same as an earlier one is left out. test.jsonl
gets its name last.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from data_tools.common import cli
from data_tools.common.records import RecordItem, open_inputs, read_block
from data_tools.split.divide import SIDES, choose_sides, content_of, moved, patients_of, pictures_of
from vglm_train.data.record import RecordError
from vglm_train.errors import UserError
from vglm_train.files import replace_file
from vglm_train.folders import make_folder

BLOCK = 4096  # records


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What became of the records. Counters are by side."""

    records: Counter[str]
    patients: Counter[str]
    repeated: int
    nameless: int  # records without a group, whose picture stands for their patient


def split(records: Path, out: Path, val: float, test: float) -> SplitReport:
    """Write the three files. UserError for records that cannot be read, or too few patients."""
    folder = records.resolve().parent
    items = _items(records)
    contents = [content_of(item) for item in items]
    first = {content: number for number, content in reversed(list(enumerate(contents)))}
    names = [[*_group(item), *pictures_of(item)] for item in items]
    everyone = patients_of(names)  # also of what repeats: it may tell that two groups are one patient
    once = [number for number in range(len(items)) if first[contents[number]] == number]
    kept, patients = [items[number] for number in once], [everyone[number] for number in once]
    sides = choose_sides(patients, val, test)
    make_folder(f"--out {out}", out)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:  # which gives them their names in the opposite order
        files = {side: stack.enter_context(replace_file(out / f"{side}.jsonl")) for side in reversed(SIDES)}
        for item, patient in zip(kept, patients):
            side = sides[patient]
            files[side].write(cli.json_line(moved(item.fields, folder, out.resolve(), side)))
            counts[side] += 1
    nameless = sum(not _group(item) for item in kept)
    return SplitReport(counts, Counter(sides.values()), len(items) - len(kept), nameless)


def _items(records: Path) -> list[RecordItem]:
    items = [item for block in open_inputs([records], BLOCK, shards=False).blocks for item in read_block(block)]
    for item in items:
        try:
            assert item.record
        except RecordError as error:
            raise UserError(f"{item.where}: {error}; make the file anew with vglm data convert") from None
    return items


def _group(item: RecordItem) -> list[str]:
    return [f"group {item.record.group}"] if item.record.group else []


def share(text: str) -> float:
    """An argparse type: a share from 0 to 1, neither of them."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.split", __doc__)
    add = parser.add_argument
    add("records", type=Path, help="records file of vglm data convert")
    add("--out", required=True, type=Path, help="folder to write train.jsonl, val.jsonl and test.jsonl in")
    add("--val", type=share, default=0.1, help="share of the patients that choose the best step (default 0.1)")
    add("--test", type=share, default=0.25, help="share of the patients for the verdict alone (default 0.25)")
    args = parser.parse_args(argv)
    report = split(args.records, args.out, args.val, args.test)
    for side in SIDES:
        print(f"{args.out / side}.jsonl: {report.records[side]} records of {report.patients[side]} patients")
    if report.repeated:
        print(f"left out: {report.repeated} records that show and say the same as an earlier one")
    if report.nameless:
        print(f"note: {report.nameless} records name no patient; their picture stands for one")
    return 0


if __name__ == "__main__":
    cli.command(main)
