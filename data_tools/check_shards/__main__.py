"""Are these shards what their manifest says, and can every sample be used?

    vglm data check_shards shards/train

Compares files with manifest.json (missing, extra, size, sha256, samples), decodes every picture and record, reports
caption lengths (English in words, Chinese in characters), pictures that occur more than once, and damage by cause with
shard and key. The exit status is 1 when something is wrong; a picture occurring twice is not wrong, it counts as one
picture in training. `--write-manifest` writes a new manifest.json and indices of the shards as they are, also for
shards of other tools (KEY.jpg, .png, .tif, ... + KEY.json with a record). It does not where a tar cannot be read as
samples: one that is compressed, or in which the keys of samples hold dots.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.check_shards.check import ShardCheck, check_shard
from data_tools.common import cli
from data_tools.common.pool import spread
from vglm_train.data.shards.index import index_path
from vglm_train.data.shards.manifest import NAME, Manifest
from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.tar import read_tar_index
from vglm_train.errors import UserError
from vglm_train.progress import Progress

SHOWN = 10  # damaged samples of one cause, and problems, on the console
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
EXAMPLES = 5  # pictures that occur more than once, named


def shard_names(folder: Path) -> list[str]:
    """Every tar below `folder`, in order of name."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() == ".tar")


def compare(manifest: Manifest, checks: dict[str, ShardCheck], present: Sequence[str]) -> Iterator[str]:
    """What differs between the manifest and the files, in words."""
    for shard in manifest.shards:
        if shard.name not in checks:
            yield f"{shard.name}: missing, the manifest lists it"
            continue
        real, fault = checks[shard.name].shard, checks[shard.name].fault
        if fault is not None:
            yield f"{shard.name}: {fault}"
            continue
        if real.bytes != shard.bytes:
            yield f"{shard.name}: size {real.bytes} bytes, the manifest says {shard.bytes}"
        elif real.sha256 != shard.sha256:
            yield f"{shard.name}: sha256 {real.sha256}, the manifest says {shard.sha256}: its content changed"
        if real.samples != shard.samples:
            yield f"{shard.name}: {real.samples} samples, the manifest says {shard.samples}"
        if shard.languages is not None and dict(shard.languages) != real.languages:
            yield f"{shard.name}: samples by language {real.languages}, the manifest says {dict(shard.languages)}"
        if not checks[shard.name].index_agrees:
            yield f"{index_path(Path(shard.name))}: not the index of {shard.name}; --write-manifest writes it anew"
    listed = {shard.name for shard in manifest.shards}
    yield from (f"{name}: extra, the manifest does not list it" for name in present if name not in listed)


def duplicates(checks: Sequence[ShardCheck]) -> dict[str, Any]:
    """How many pictures occur more than once, in how many samples, and where the first few of them are."""
    ids = np.concatenate([each.image_ids for each in checks]) if checks else np.zeros(0, dtype=np.int64)
    values, counts = np.unique(ids[ids >= 0], return_counts=True)
    again = values[counts > 1]
    starts = np.cumsum([0, *(len(each.image_ids) for each in checks)])
    examples = []
    for value in again[:EXAMPLES]:
        names = []
        for index in np.flatnonzero(ids == value)[:EXAMPLES]:
            number = int(np.searchsorted(starts, index, side="right")) - 1
            shard = checks[number].shard
            names.append(f"{shard.name} {read_tar_index(shard.path).key(int(index - starts[number]))}")
        examples.append(names)
    return {"pictures": len(again), "samples": int(counts[counts > 1].sum()), "examples": examples}


def caption_lengths(checks: Sequence[ShardCheck]) -> dict[str, dict[str, int]]:
    """By language: captions, and the shortest, median, 95th percentile and longest of their lengths."""
    total: dict[str, Counter[int]] = {}
    for each in checks:
        for language, lengths in each.lengths.items():
            total.setdefault(language, Counter()).update(lengths)
    return {language: _spread_of(lengths) for language, lengths in sorted(total.items())}


def _spread_of(lengths: Counter[int]) -> dict[str, int]:
    values = np.array(sorted(lengths))
    below = np.cumsum([lengths[value] for value in values])
    median, p95 = (int(values[np.searchsorted(below, share * below[-1])]) for share in (0.5, 0.95))
    return {
        "captions": int(below[-1]),
        "shortest": int(values[0]),
        "median": median,
        "p95": p95,
        "longest": int(values[-1]),
    }


def check(folder: Path, names: Sequence[str], workers: int, write: bool = False) -> list[ShardCheck]:
    """Read the shards `names` of `folder` in full, in parallel; in their order. `write`: also write their indices."""
    sizes = {name: (folder / name).stat().st_size for name in names}
    done: dict[str, ShardCheck] = {}
    with Progress(sum(sizes.values()), "B", "check") as bar:
        for name, each in spread(partial(check_shard, folder, write), names, workers, check_shard.__module__):
            done[name] = each
            bar.update(sizes[name])
    return [done[name] for name in names]


def summarise(folder: Path, checks: Sequence[ShardCheck], problems: Sequence[str]) -> dict[str, Any]:
    """The whole result as JSON values."""
    damage: Counter[str] = Counter()
    inferred: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    for each in checks:
        damage.update(each.damage)
        inferred.update(each.inferred)
        unread.update(each.unread)
    named = [
        {"cause": cause, "shard": each.shard.name, "key": key, "reason": reason}
        for each in checks
        for cause, key, reason in each.named
    ]
    return {
        "folder": str(folder),
        "shards": len(checks),
        "samples": sum(each.shard.samples for each in checks),
        "bytes": sum(each.shard.bytes for each in checks),
        "captions": caption_lengths(checks),
        "duplicates": duplicates(checks),
        "inferred": dict(sorted(inferred.items())),
        "unread": dict(unread.most_common()),
        "damage": dict(sorted(damage.items())),
        "damaged": named,
        "problems": list(problems),
        "faults": sum(each.fault is not None for each in checks),
        "ok": not problems and not damage,
    }


def write_manifest(folder: Path, checks: Sequence[ShardCheck]) -> None:
    """A new manifest.json of the shards as they are, empty ones left out."""
    captions = {language: lengths["captions"] for language, lengths in caption_lengths(checks).items()}
    shards: tuple[Shard, ...] = tuple(each.shard for each in checks if each.shard.samples)
    Manifest(folder / NAME, shards, {"samples": sum(shard.samples for shard in shards), "captions": captions}).write()


def lines(summary: dict[str, Any]) -> Iterator[str]:
    """The summary in words."""
    size = f"{summary['bytes'] / 2**20:.1f} MiB"
    yield f"{summary['folder']}: {summary['samples']} samples in {summary['shards']} shards, {size}"
    for language, length in summary["captions"].items():
        unit = "characters" if language == "zh" else "words"
        yield (
            f"captions {language}: {length['captions']}, {unit}: {length['shortest']} to {length['longest']}, "
            f"median {length['median']}, 95 % at most {length['p95']}"
        )
    again = summary["duplicates"]
    yield f"pictures that occur more than once: {again['pictures']}, in {again['samples']} samples"
    yield from (f"    {' = '.join(names)}" for names in again["examples"])
    yield from (f"pictures, {note}: {count}" for note, count in summary["inferred"].items())
    if summary["unread"]:
        members = [f"{what} {count}" for what, count in summary["unread"].items()]
        more = f" and {len(members) - SHOWN} other kinds" if len(members) > SHOWN else ""
        yield f"members that are not read: {', '.join(members[:SHOWN])}{more}"
    for cause, count in summary["damage"].items():
        yield f"damage, {cause}: {count}"
        entries = [entry for entry in summary["damaged"] if entry["cause"] == cause]
        yield from (f"    {entry['shard']} {entry['key']}: {entry['reason']}" for entry in entries[:SHOWN])
    yield from (f"wrong: {problem}" for problem in summary["problems"][:SHOWN])
    if len(summary["problems"]) > SHOWN:
        yield f"wrong: and {len(summary['problems']) - SHOWN} more (see --json)"
    yield "all is well" if summary["ok"] else "something is wrong, see above"


def run(path: Path, workers: int, new_manifest: bool = False) -> dict[str, Any]:
    """Check the shards of `path` (folder or manifest). UserError where there is nothing to check."""
    if not path.exists():
        raise UserError(f"{path}: no such folder; give the folder that holds the shards")
    folder = path if path.is_dir() else path.parent
    present = shard_names(folder)
    if new_manifest and not present:
        raise UserError(f"{folder}: no *.tar in it, so there is nothing to write a manifest of{_packed(folder)}")
    manifest = None if new_manifest else Manifest.read(path)
    names = present if manifest is None else [s.name for s in manifest.shards if s.path.is_file()]
    checks = check(folder, names, workers, write=new_manifest)
    if manifest is not None:
        by_name = {each.shard.name: each for each in checks}
        return summarise(folder, checks, list(compare(manifest, by_name, present)))
    problems = [f"{each.shard.name}: {each.fault or _emptiness(each)}" for each in checks if not each.shard.samples]
    if any(f.fault for f in checks):
        problems.insert(0, "no manifest is written: mend these tars or move them elsewhere, and run it again")
    else:
        write_manifest(folder, checks)
    return summarise(folder, checks, problems)


def _emptiness(check: ShardCheck) -> str:
    return "holds no sample, left out" if check.shard.bytes else "is an empty file (0 bytes), left out"


def _packed(folder: Path) -> str:
    """What to say of tars that are compressed."""
    found = next((path for path in sorted(folder.rglob("*")) if path.name.lower().endswith(COMPRESSED)), None)
    return "" if found is None else f". {found.name} is compressed: samples are read at random, so decompress it first"


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.check_shards", __doc__)
    parser.add_argument("folder", type=Path, help="folder of shards, or its manifest.json")
    parser.add_argument("--write-manifest", action="store_true", help="write manifest.json anew, of what is there")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument(
        "--workers", type=cli.at_least_one, default=os.cpu_count() or 1, help="processes (default: one a CPU)"
    )
    args = parser.parse_args(argv)
    summary = run(args.folder, args.workers, args.write_manifest)
    print(json.dumps(summary, ensure_ascii=False, indent=1) if args.json else "\n".join(lines(summary)))
    if args.write_manifest and not summary["faults"]:
        print(f"written: {Path(summary['folder']) / NAME}", file=sys.stderr)
    return 0 if summary["ok"] else 1


if __name__ == "__main__":
    cli.command(main)
