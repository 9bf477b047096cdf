"""The files of an evaluation: JSON, and under its name pages and a submission if there are. None is overwritten."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from vglm_train.errors import UserError
from vglm_train.files import replace_file
from vglm_train.folders import make_folder

PAGE, BLIND, SUBMISSION = ".html", ".blind.html", ".submission.json"


@dataclass(frozen=True, slots=True)
class Result:
    """What a task's `run` returns."""

    report: Mapping[str, Any]  # JSON values
    lines: Sequence[str]  # what is printed
    page: str | None = None  # HTML
    blind: str | None = None  # HTML of the page on which a person answers before the verdict is seen
    submission: str | None = None  # JSON, as a benchmark's server takes it


def choose(out: str | None, bundle: str, task: str, data: str) -> Path:
    """The JSON file to write: `out`, with .json if that is missing; or, if that is a folder or None, the first free one
    of TASK-DATA.json, TASK-DATA-2.json, ... in it or beside the bundle.

    UserError if it exists already, or its folder cannot be written.
    """
    named = out is not None and not Path(out).is_dir()
    path = (
        Path(out) if out is not None and named else _folder(out, bundle) / f"{task}-{_stem(Path(data).absolute())}.json"
    )
    if path.suffix == PAGE:
        raise UserError(f"--out {path}: names the JSON file; a page gets the same name with .html.")
    if named and path.suffix.lower() != ".json":
        path = path.with_name(f"{path.name}.json")
    make_folder(f"--out {path}" if out is not None else str(path), path.parent)
    if named and (existing := _existing(path)):
        raise UserError(
            f"--out {path}: {existing.name} exists already, and results are not overwritten; give another name or a "
            "folder, or move it away."
        )
    return path if named else free(path)


def free(path: Path) -> Path:
    """The first of NAME.json, NAME-2.json, ... that does not exist and has neither page nor submission."""
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(each for each in chain([path], others) if not _existing(each))


def write(result: Result, out: Path) -> list[Path]:
    """Write all or nothing; the files, the JSON last. Under another name if somebody else has written `out` meanwhile.

    UserError where the disk is full.
    """
    out = free(out)
    texts = {out: json.dumps(result.report, indent=2, ensure_ascii=False) + "\n"}
    more = {BLIND: result.blind, PAGE: result.page, SUBMISSION: result.submission}
    texts |= {out.with_suffix(ending): text for ending, text in more.items() if text is not None}
    try:
        with ExitStack() as files:  # they get their names when all are written, the last one first
            for path, text in texts.items():
                file = files.enter_context(replace_file(path))
                file.write(text.encode("utf-8", "backslashreplace"))  # names of files need not be UTF-8
                file.flush()
    except OSError as error:
        for path in list(texts)[1:]:
            path.unlink(missing_ok=True)
        raise UserError(f"{out}: the result cannot be written ({error.strerror}); give another --out.") from error
    return list(texts)[::-1]


def _existing(path: Path) -> Path | None:
    """The file of a result with this name, if there is one."""
    files = (path, *map(path.with_suffix, (PAGE, BLIND, SUBMISSION)))
    return next((each for each in files if each.exists()), None)


def _folder(out: str | None, bundle: str) -> Path:
    return Path(bundle).resolve().parent if out is None else Path(out)


def _stem(data: Path) -> str:
    """val for val/manifest.json, test for test.json, and the whole name of a folder."""
    if data.name == "manifest.json":
        return data.parent.name
    return data.name.removesuffix(data.suffix) if data.is_file() else data.name
