"""Records -> tar shards with a manifest, in parallel, safe against a kill at any moment.

    vglm data pack_shards records.jsonl --out shards/train --split train

Shard i holds a fixed range of the records, as KEY.jpg|png|webp|avif + KEY.json, where KEY is the record's line number
in the records file. NAME.idx beside NAME.tar says where each sample lies and which languages it has, so that training
need not look. A finished shard is renamed into place and described in OUT/.parts; the same command after a kill keeps
finished shards and does the rest, and the bytes are those of an uninterrupted run. `manifest.json` is written last: a
folder without it is not a data set yet. Pictures are decoded in full; a damaged one is left out, counted by cause and
named in `skipped.jsonl`. JPEG, PNG, WebP and AVIF bytes pass through untouched; BMP, TIFF, GIF (first frame) and PPM
become PNG of 8 bits a colour. What had to be inferred, such as the range of 16-bit values, is counted on stdout and in
the manifest.
"""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.common import cli
from data_tools.common.cli import at_least_one, command
from data_tools.common.jobs import owned, read_json, refuse_other
from data_tools.common.pool import spread
from data_tools.pack_shards.write import Job, PackOptions, PackPlan, make_plan, pack_shard, shard_name
from vglm_train.data.shards.index import index_path
from vglm_train.data.shards.manifest import NAME, Manifest
from vglm_train.data.shards.shard import Shard
from vglm_train.errors import UserError
from vglm_train.files import replace_file
from vglm_train.folders import make_folder, tidy
from vglm_train.progress import Progress

KIND = "pack"
SHOWN = 5  # left-out records of one cause that are named on the console


@contextmanager
def _owned(plan: PackPlan) -> Iterator[None]:
    """Take the folder: new or this plan's, one writer at a time."""
    if not (plan.parts / "plan.json").exists() and (strangers := sorted(plan.out.glob("*.tar"))):
        raise UserError(f"{plan.out}: holds {strangers[0].name}, which no unfinished pack wrote; give another --out")
    with owned(plan.parts, plan.identity(), KIND, "pack_shards", plan.out):
        tidy(plan.out)
        yield


def _finished(plan: PackPlan, job: Job) -> dict[str, Any] | None:
    """The part of a shard that is complete, or none."""
    part = read_json(plan.parts / f"{Path(shard_name(job.shard)).stem}.json")
    path = plan.out / shard_name(job.shard)
    whole = part is not None and path.is_file() and path.stat().st_size == part["bytes"]
    return part if whole else None


def _pack_all(plan: PackPlan, jobs: list[Job], workers: int) -> list[dict[str, Any]]:
    parts = {job.shard: part for job in jobs if (part := _finished(plan, job)) is not None}
    rest = [job for job in jobs if job.shard not in parts]
    already = sum(job.records for job in jobs if job.shard in parts)
    with Progress(sum(job.records for job in jobs), "record", "pack", already=already) as bar:
        for job, part in spread(partial(pack_shard, plan), rest, workers, pack_shard.__module__):
            parts[job.shard] = part
            bar.update(job.records)
    return [parts[shard] for shard in sorted(parts)]


def _finish(plan: PackPlan, parts: list[dict[str, Any]]) -> Manifest:
    """Write skipped.jsonl and, last, manifest.json; shards without a sample are dropped."""
    skipped = [entry for part in parts for entry in part["skipped"]]
    captions: Counter[str] = Counter()
    inferred: Counter[str] = Counter()
    for part in parts:
        captions.update(part["captions"])
        inferred.update(part.get("inferred", {}))  # an earlier version has left it out
    kept = [part for part in parts if part["samples"]]
    if not kept:
        raise UserError(f"{plan.records}: no record could be packed; the first: {skipped[0]['message']}")
    for part in parts:
        if not part["samples"]:
            (plan.out / part["name"]).unlink(missing_ok=True)
            index_path(plan.out / part["name"]).unlink(missing_ok=True)
    if skipped:
        with replace_file(plan.out / "skipped.jsonl") as file:
            file.writelines(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n" for entry in skipped)
    extra = {
        "samples": sum(part["samples"] for part in kept),
        "captions": dict(sorted(captions.items())),
        "skipped": dict(sorted(Counter(entry["cause"] for entry in skipped).items())),
        "inferred": dict(sorted(inferred.items())),
        "pack": plan.identity(),
    }
    shards = [
        Shard(p["name"], plan.out / p["name"], p["samples"], p["bytes"], p["sha256"], p.get("languages")) for p in kept
    ]
    manifest = Manifest(plan.out / NAME, tuple(shards), extra)
    manifest.write()
    return manifest


def pack(records: Path, out: Path, options: PackOptions, workers: int = 1) -> Manifest:
    """Pack `records` into `out` and return the manifest; continues a killed pack, repeats nothing that is finished.

    Raises UserError when `records` is missing or has no record of the split, or `out` holds something else.
    """
    plan, jobs = make_plan(records, out, options)
    if (out / NAME).exists():
        manifest = Manifest.read(out)
        refuse_other(manifest.path, manifest.extra.get("pack", {}), plan.identity(), KIND, plan.out)
        manifest.check_files()
    else:
        make_folder(f"--out {out}", out)
        with _owned(plan):
            manifest = _finish(plan, _pack_all(plan, jobs, workers))
    shutil.rmtree(plan.parts, ignore_errors=True)
    return manifest


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.pack_shards", __doc__)
    add = parser.add_argument
    add("records", type=Path, help="records file of vglm data convert")
    add("--out", required=True, type=Path, help="folder for the shards of one split")
    add("--split", help="pack only records of this split (default: all)")
    add("--samples-per-shard", type=at_least_one, default=1000, help="samples of a shard (default: 1000)")
    add(
        "--resize-short-side", type=at_least_one, metavar="PIXELS", help="shrink larger pictures (default: as they are)"
    )
    add("--workers", type=at_least_one, default=os.cpu_count() or 1, help="processes (default: one a CPU)")
    args = parser.parse_args(argv)
    options = PackOptions(args.split, args.samples_per_shard, args.resize_short_side)
    manifest = pack(args.records, args.out, options, args.workers)
    captions = ", ".join(f"{count} {language}" for language, count in manifest.extra["captions"].items())
    print(f"{args.out}: {manifest.samples} samples in {len(manifest.shards)} shards, captions and answers: {captions}")
    for note, count in manifest.extra.get("inferred", {}).items():
        print(f"pictures, {note}: {count}")
    _print_skipped(args.out, manifest.extra["skipped"])
    return 0


def _print_skipped(out: Path, skipped: dict[str, int]) -> None:
    shown: Counter[str] = Counter()
    for cause, count in skipped.items():
        print(f"left out for {cause}: {count} (all in {out / 'skipped.jsonl'})", file=sys.stderr)
    lines = (out / "skipped.jsonl").read_text("utf-8").splitlines() if skipped else []
    for entry in map(json.loads, lines):
        shown[entry["cause"]] += 1
        if shown[entry["cause"]] <= SHOWN:
            print(f"    {entry['cause']}: {entry['message']}", file=sys.stderr)


if __name__ == "__main__":
    command(main)
