"""Records that show one picture: keep one of them, and none that is in an evaluation set.

    vglm data dedupe a/records.jsonl b/records.jsonl --out clean.jsonl --against shards/test

Finds equal files and near-duplicates (stored again, resized, brightened, slightly cropped) within and across the
inputs: candidates by a 64-bit perceptual hash within `--distance` bits, each confirmed by how well the edges of two
thumbnails agree after alignment (`--agreement`). Kept is the record with more captions, else the larger picture, else
the first; each dropped one was compared with the very record that stays. Pictures of `--against` (records files or
folders of shards) always win. Every dropped record, also one without a usable picture, is in the manifest with its
reason. The same command after a kill continues.
"""

import os
import shutil
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.common import cli
from data_tools.common.cli import at_least_one, json_line
from data_tools.common.jobs import JobStage, owned
from data_tools.common.records import Inputs, RecordItem, moved, open_inputs, read_block
from data_tools.dedupe.match import (
    Drop,
    Search,
    decide,
    first_of_each,
    gather,
    hash_block,
    rank,
    read_edges,
    rows_of,
    search_block,
    search_blocks,
)  # fmt: skip
from vglm_train.errors import UserError
from vglm_train.files import replace_file

BLOCK = 256  # records


@dataclass(frozen=True, slots=True)
class DedupeResult:
    """What became of the records."""

    kept: int
    dropped: Counter[str]  # by rule


@dataclass(frozen=True, slots=True)
class DedupeJob:
    """What to do. `own`: rows of the records; the rows behind them are the evaluation set's."""

    inputs: Inputs
    own: int
    search: Search
    merge: bool
    out: Path
    dropped: Path

    @property
    def parts(self) -> Path:
        return self.out.with_name(f"{self.out.name}.parts")

    def identity(self) -> dict[str, Any]:
        return {"inputs": list(self.inputs.identity), "records": self.own, **asdict(self.search)}


def find(task: DedupeJob, workers: int) -> tuple[dict[int, Drop], dict[int, tuple[str, str]]]:
    """The rows to drop, and the rows whose record or picture cannot be used with cause and reason."""
    hashed = JobStage(task.parts, "look")
    hashed.run(hash_block, task.inputs.blocks, workers, "record", "look")
    gathered = gather(hashed, task.inputs, task.parts / "thumbnails.npy")
    nodes, node_of = first_of_each(gathered.info, rank(gathered.info, task.own))
    for name, array in (("nodes", nodes), ("hashes", gathered.info["hash"][nodes])):
        with replace_file(task.parts / f"{name}.npy") as file:
            np.save(file, array)
    blocks, searched = search_blocks(len(nodes)), JobStage(task.parts, "search")
    searched.run(partial(search_block, task.parts, task.search), blocks, workers, "picture", "compare")
    return decide(read_edges(searched, blocks), nodes, node_of, task.own), gathered.wrong


def _others(task: DedupeJob, drops: dict[int, Drop]) -> tuple[dict[int, RecordItem], dict[int, list[RecordItem]]]:
    """Rows that stay for others, and what goes for each of them, where captions are to be merged."""
    wanted = {drop.of for drop in drops.values()} | (set(drops) if task.merge else set())
    items = {item.row: item for item in rows_of(task.inputs, wanted)}
    for item in items.values():
        item.source = None if isinstance(item.source, bytes) else item.source  # a shard's pictures are not needed
    losers: dict[int, list[RecordItem]] = {}
    for row, drop in drops.items() if task.merge else ():
        losers.setdefault(drop.of, []).append(items[row])
    return items, losers


def merged(item: RecordItem, others: list[RecordItem]) -> dict[str, list[str]]:
    """The captions of all, the item's own first, each once."""
    found: dict[str, dict[str, None]] = {}
    for each in [item, *others]:
        for language, texts in each.record.captions.items():
            found.setdefault(language, {}).update(dict.fromkeys(texts))
    return {language: list(texts) for language, texts in found.items()}


def _entry(item: RecordItem, drop: Drop, other: RecordItem) -> dict[str, Any]:
    """A line of the manifest."""
    value = {"bits": drop.distance, "agreement": round(drop.agreement, 4)}
    of = {"of": other.id, "of_place": other.where}
    return {"id": item.id, "place": item.where, "what": "record", "rule": drop.rule, "value": value, **of}


def write(task: DedupeJob, drops: dict[int, Drop], wrong: dict[int, tuple[str, str]]) -> DedupeResult:
    """The kept records and the manifest, which is renamed into place first."""
    others, losers = _others(task, drops)
    kept, rules = 0, Counter[str]()
    with replace_file(task.out) as out, replace_file(task.dropped) as manifest:
        for item in _own_items(task):
            if item.row in wrong:
                cause, reason = wrong[item.row]
                entry = {"id": item.id, "place": item.where, "what": "record", "rule": cause, "value": reason}
            elif (drop := drops.get(item.row)) is not None:
                entry = _entry(item, drop, others[drop.of])
            else:
                extra = {"captions": merged(item, losers[item.row])} if item.row in losers else {}
                out.write(json_line(moved(item, task.out, **extra)))
                kept += 1
                continue
            rules[entry["rule"]] += 1
            manifest.write(json_line(entry))
        if not kept:
            raise UserError(f"no record is left, nothing is written: {dict(rules)}")
    return DedupeResult(kept, rules)


def _own_items(task: DedupeJob) -> Iterator[RecordItem]:
    for block in task.inputs.blocks:
        if block.first < task.own:
            yield from read_block(block)


def dedupe(task: DedupeJob, workers: int) -> DedupeResult:
    """Write what stays and what goes; continues a killed run of the same task."""
    with owned(task.parts, task.identity(), "run of dedupe", "dedupe"):
        drops, wrong = find(task, workers)
        outcome = write(task, drops, wrong)
    shutil.rmtree(task.parts)
    return outcome


def plan(args: Namespace) -> DedupeJob:
    """The task of a command line. UserError for what is missing."""
    out = cli.output(args.out, args.records)
    own = open_inputs(args.records, BLOCK, shards=False).records
    inputs = open_inputs([*args.records, *args.against], BLOCK)
    search = Search(args.distance, args.agreement)
    return DedupeJob(inputs, own, search, args.merge_captions, out, cli.dropped_path(args.dropped, out))


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.dedupe", __doc__)
    add = parser.add_argument
    add("records", nargs="+", type=Path, help="records files of vglm data convert")
    add("--out", required=True, type=Path, help="records file to write")
    add("--dropped", type=Path, help="manifest of what was dropped (default: OUT with .dropped.jsonl)")
    add("--against", nargs="+", default=[], type=Path, metavar="PATH", help="evaluation sets: records or shards")
    add("--distance", type=int, default=16, choices=range(25), metavar="BITS", help="of 64, for candidates (16)")
    add("--agreement", type=float, default=0.94, help="of edges, from 0 to 1, that makes two pictures one (0.94)")
    add("--merge-captions", action="store_true", help="a kept record gets the captions of those dropped for it")
    add("--workers", type=at_least_one, default=os.cpu_count() or 1, help="processes (default: one a CPU)")
    args = parser.parse_args(argv)
    task = plan(args)
    outcome = dedupe(task, args.workers)
    print(f"{args.out}: {outcome.kept} of {task.own} records kept")
    for rule, count in outcome.dropped.most_common():
        print(f"dropped, {rule}: {count} (all in {task.dropped})")
    return 0


if __name__ == "__main__":
    cli.command(main)
