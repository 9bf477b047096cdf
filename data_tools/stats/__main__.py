"""What is in these records: sizes, lengths of captions, languages, repeats and damage.

    vglm data stats data/photos/records.jsonl --out data/photos/stats.json
    vglm data stats shards/train --out stats.json     # also a folder of shards, or several of either

Writes --out (JSON) and beside it one HTML page that needs nothing else, with histograms and sample pictures. Every
picture is decoded unless --headers. Memory does not grow with the records, and the same command after a kill continues.
"""

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.common import cli
from data_tools.common.cli import at_least_one
from data_tools.common.jobs import JobStage, owned
from data_tools.common.records import Inputs, open_inputs, read_row
from data_tools.stats.count import Counts, Keys, Repeated, caption_key, count_block, find_repeated
from vglm_train.files import replace_file, write_json

BLOCK = 256  # records
HELD = 16_000_000  # hashes sorted at a time, 16 bytes each
MOST = 10  # repeated captions and pictures that are named
NUMBERS = ("width", "height", "aspect", "characters", "words", "captions_per_record")  # counters whose keys are numbers


@dataclass(frozen=True, slots=True)
class StatsJob:
    """What to count and where to write it."""

    inputs: Inputs
    decode: bool
    out: Path

    @property
    def parts(self) -> Path:
        return self.out.with_name(f"{self.out.name}.parts")


def summary(counter: Counter[str]) -> dict[str, float]:
    """Least, mean, quantiles and most of a counter whose keys are numbers."""
    values = np.array(sorted(float(value) for value in counter))
    counts = np.array([counter[_key(value, counter)] for value in values])
    below = np.cumsum(counts)
    found = {"least": values[0], "mean": float((values * counts).sum() / below[-1])}
    for name, share in (("p05", 0.05), ("median", 0.5), ("p95", 0.95)):
        found[name] = values[np.searchsorted(below, share * below[-1])]
    return {name: round(float(value), 3) for name, value in {**found, "most": values[-1]}.items()}


def _key(value: float, counter: Counter[str]) -> str:
    whole = str(int(value))
    return whole if whole in counter else f"{value:.2f}"


def _repeated(task: StatsJob, stage: JobStage, name: str) -> Repeated:
    def parts() -> Iterator[Keys]:
        for part in stage.read(task.inputs.blocks):
            with np.load(io.BytesIO(part)) as arrays:
                yield arrays[name]

    return find_repeated(parts, sum(len(part) for part in parts()), HELD, MOST)


def _named(task: StatsJob, repeated: Repeated, name: str) -> dict[str, Any]:
    """How often things repeat, and the most frequent with the record where they occur first."""
    found = []
    for key, row, times in repeated.most:
        item = read_row(task.inputs, row)
        entry = {"times": times, "id": item.id, "place": item.where}
        texts = [text for texts in item.record.captions.values() for text in texts if caption_key(text) == key]
        found.append(entry | {"text": texts[0]} if name == "captions" else entry)
    return {name: repeated.values, "places": repeated.occurrences, "most": found}


def collect(task: StatsJob, stage: JobStage) -> tuple[dict[str, Any], Counts]:
    """Everything that goes into the JSON, and the counts it comes from."""
    counts = Counts()
    for part in stage.read(task.inputs.blocks):
        with np.load(io.BytesIO(part)) as arrays:
            counts.add(json.loads(arrays["counts"].tobytes()))
    numbers = {name: summary(c) for name, c in sorted(counts.counters.items()) if name.split(".")[0] in NUMBERS}
    names = {name: dict(c.most_common()) for name, c in sorted(counts.counters.items()) if name not in numbers}
    captions = {
        name.partition(".")[2]: counter.total()
        for name, counter in sorted(counts.counters.items())
        if name.startswith("characters.")
    }
    found = {
        "records": counts.records,
        "usable": counts.records - counts.damage.total(),
        "bytes": counts.bytes,
        "captions": captions,
        **numbers,
        **names,
        "repeated_pictures": _named(task, _repeated(task, stage, "images"), "pictures"),
        "repeated_captions": _named(task, _repeated(task, stage, "captions"), "captions"),
        "damage": dict(counts.damage.most_common()),
        "damaged": counts.damaged,
    }
    return found, counts


def stats(task: StatsJob, workers: int, title: str) -> dict[str, Any]:
    """Write the JSON and its page, and return what the JSON holds; continues a killed run of the same task."""
    from data_tools.stats.page import page  # needs an extra, so where a UserError has a reader

    identity = {"inputs": list(task.inputs.identity), "decode": task.decode}
    with owned(task.parts, identity, "run of stats", "stats"):
        stage = JobStage(task.parts, "count")
        stage.run(partial(count_block, task.decode), task.inputs.blocks, workers, "record", "stats")
        found, counts = collect(task, stage)
        with replace_file(task.out.with_suffix(".html")) as file:
            file.write(page(title, found, counts).encode("utf-8", "replace"))
        write_json(task.out, found)
    shutil.rmtree(task.parts)
    return found


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The most important in words."""
    captions = ", ".join(f"{count} {language}" for language, count in found["captions"].items())
    size = f"{found['bytes'] / 2**20:.1f} MiB"
    yield f"{found['records']} records, {found['usable']} usable, {size}; captions: {captions}"
    for name in (name for name in found if name.split(".")[0] in NUMBERS):
        value = found[name]
        yield f"{name}: {value['least']:g} to {value['most']:g}, median {value['median']:g}, mean {value['mean']:g}"
    for name in ("pictures", "captions"):
        again = found[f"repeated_{name}"]
        yield f"{name} that occur more than once: {again[name]}, in {again['places']} places"
    yield from (f"damage, {cause}: {count}" for cause, count in found["damage"].items())


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.stats", __doc__)
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, help="records files, folders of shards")
    add("--out", type=Path, default=Path("stats.json"), help="JSON to write; the page is beside it (stats.json)")
    add("--headers", action="store_true", help="read picture sizes only: much faster, finds less damage")
    add("--workers", type=at_least_one, default=os.cpu_count() or 1, help="processes (default: one a CPU)")
    args = parser.parse_args(argv)
    out = cli.output(args.out, args.inputs)
    task = StatsJob(open_inputs(args.inputs, BLOCK), not args.headers, out)
    print("\n".join(lines(stats(task, args.workers, ", ".join(map(str, args.inputs))))))
    print(f"written: {args.out} and {args.out.with_suffix('.html')}")
    return 0


if __name__ == "__main__":
    cli.command(main)
