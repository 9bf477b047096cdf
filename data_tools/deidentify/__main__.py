"""A folder of DICOM files -> a folder that names no patient, for use elsewhere.

    vglm data deidentify dicom --out for_others

Every file is written anew from a list of tags that are allowed; no other tag, no private one and no comment within
compressed pixels reaches it. Patients' numbers and UIDs become salted hashes, so what belongs together stays together,
and folders and files are named by hashes. Pixels are decoded and written uncompressed, otherwise as they were. Text
that is burned into them is not removed: files whose tag Burned In Annotation says YES are left out, and of the others
those are told that seem to have text in a corner, which is a guess. Files without pixels (reports, structure sets,
DICOMDIR) and files that are no DICOM are left out. OUT appears when all is done, with report.json: which tags were
dropped and kept, and what was left out.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data_tools.common import cli
from data_tools.common.cli import at_least_one, command
from data_tools.common.pool import spread
from data_tools.deidentify.write import HASHED, Outcome, Plan, clean_file, count
from vglm_train.errors import UserError
from vglm_train.files import write_json
from vglm_train.folders import check_folder, replace_folder
from vglm_train.image.dicom.private import open_salt
from vglm_train.image.dicom.text import HEURISTIC
from vglm_train.progress import Progress

REPORT = "report.json"


def deidentify(folder: Path, out: Path, salt: Path | None, burned_in: bool, workers: int) -> dict[Path, Outcome]:
    """Write `out` whole or not at all; what came of each file. UserError where there is no file that can be written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder}: {'no files in it' if folder.is_dir() else 'no such folder'}")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"--out {out} is there already; give another folder")
    if out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve()):
        raise UserError(f"--out {out} and {folder}: one is within the other; give a folder elsewhere")
    check_folder(f"--out {out}", out)
    outcomes: dict[Path, Outcome] = {}
    with replace_folder(out) as new, Progress(len(files), "file", "deidentify") as bar:
        work = partial(clean_file, Plan(new, open_salt(salt), burned_in))
        for path, outcome in spread(work, files, workers, clean_file.__module__):
            outcomes[path] = outcome
            bar.update()
        written = [outcome for outcome in outcomes.values() if outcome.fault is None]
        if not written:
            raise UserError(f"{folder}: no file could be written; " + "; ".join(_left_out(outcomes)))
        write_json(new / REPORT, _report(outcomes, written))
    return outcomes


def _left_out(outcomes: dict[Path, Outcome]) -> list[str]:
    faults = Counter(outcome.fault for outcome in outcomes.values() if outcome.fault is not None)
    return [f"left out: {number} x {fault}" for fault, number in faults.most_common()]


def _report(outcomes: dict[Path, Outcome], written: list[Outcome]) -> dict[str, Any]:
    dropped, kept = count(written)
    faults = Counter(outcome.fault for outcome in outcomes.values() if outcome.fault is not None)
    return {
        "files": len({outcome.name for outcome in written}),
        "patients": len({outcome.name.partition("/")[0] for outcome in written}),
        "left_out": dict(faults.most_common()),
        "dropped_tags": dict(sorted(dropped.items())),
        "replaced_by_hashes": sorted(HASHED),
        "tags_of_the_new_files": dict(sorted(kept.items())),
        "corner_text": {
            "files": sorted({outcome.name for outcome in written if outcome.corner_text}),
            "told_by": HEURISTIC,
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.deidentify", __doc__)
    add = parser.add_argument
    add("folder", type=Path, help="folder with DICOM files, in it and below it")
    add("--out", required=True, type=Path, help="folder to write; it must not be there yet")
    add("--salt", type=Path, help="file with the salt of hashes (default: one of your own, made once)")
    add("--keep-burned-in", action="store_true", help="keep files whose own tag says that text is burned in")
    add("--name-files", action="store_true", help="name each file that is left out; its name may name a patient")
    add("--workers", type=at_least_one, default=os.cpu_count() or 1, help="processes (default: one a CPU)")
    args = parser.parse_args(argv)
    outcomes = deidentify(args.folder, args.out, args.salt, args.keep_burned_in, args.workers)
    written = [outcome for outcome in outcomes.values() if outcome.fault is None]
    patients = len({outcome.name.partition("/")[0] for outcome in written})
    print(f"{args.out}: {len({each.name for each in written})} files of {patients} patients")
    print("\n".join(_left_out(outcomes)) or "no file was left out")
    if args.name_files:
        for path, outcome in sorted(outcomes.items()):
            if outcome.fault is not None:
                print(f"    {path}: {outcome.fault}", file=sys.stderr)
    if text := sum(each.corner_text for each in written):
        print(f"text seems to be burned into {text} of them; this is {HEURISTIC}")
    print(f"every dropped tag: {args.out / REPORT}")
    return 0


if __name__ == "__main__":
    command(main)
