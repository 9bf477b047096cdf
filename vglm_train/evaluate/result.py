"""What an evaluation leaves: a JSON file, and a page of the same name where there is one. Nothing is written over."""

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


@dataclass(frozen=True, slots=True)
class Result:
    """`report`: JSON values; `lines`: what is printed; `page`: HTML."""

    report: Mapping[str, Any]
    lines: Sequence[str]
    page: str | None = None


def choose(out: str | None, bundle: str, task: str, data: str) -> Path:
    """The JSON file that will be written: `out`; where that is a folder or none is given, the first of TASK-DATA.json,
    TASK-DATA-2.json, ... that is free there or beside the bundle. UserError where it cannot be written, or is there.
    """
    named = out is not None and not Path(out).is_dir()
    path = (
        Path(out) if out is not None and named else _folder(out, bundle) / f"{task}-{_stem(Path(data).absolute())}.json"
    )
    if path.suffix == ".html":
        raise UserError(f"--out {path}: names the JSON file; a page gets the same name with .html.")
    make_folder(f"--out {path}" if out is not None else str(path), path.parent)
    if named and (there := _there(path)):
        raise UserError(
            f"--out {path}: {there.name} is there already, and results are not written over; give another name or a "
            "folder, or move it away."
        )
    return path if named else free(path)


def free(path: Path) -> Path:
    """The first of NAME.json, NAME-2.json, ... that is not there, and has no page either."""
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(each for each in chain([path], others) if not _there(each))


def write(result: Result, out: Path) -> list[Path]:
    """Write all or nothing; the files, page first. Under another name if somebody else has written `out` meanwhile.

    UserError where the disk is full.
    """
    out = free(out)
    texts = {out: json.dumps(result.report, indent=2, ensure_ascii=False) + "\n"}
    if result.page is not None:
        texts[out.with_suffix(".html")] = result.page
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


def _there(path: Path) -> Path | None:
    """The result or the page that stands in its place."""
    return next((each for each in (path, path.with_suffix(".html")) if each.exists()), None)


def _folder(out: str | None, bundle: str) -> Path:
    return Path(bundle).resolve().parent if out is None else Path(out)


def _stem(data: Path) -> str:
    """val of val/manifest.json, test of test.json, and a folder's whole name."""
    if data.name == "manifest.json":
        return data.parent.name
    return data.name.removesuffix(data.suffix) if data.is_file() else data.name
