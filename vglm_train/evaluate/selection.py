"""Which questions count: NAME=PATTERN, or @FILE with the key or the picture of a question a line."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from vglm_train.data.questions import Asked
from vglm_train.errors import UserError

NAMES: dict[str, Callable[[Asked], str | None]] = {
    "key": lambda item: item.key,
    "picture": lambda item: item.picture,
    "type": lambda item: item.type,
    "kind": lambda item: item.kind,
    "group": lambda item: item.group,
    "language": lambda item: item.dialogue.language,
    "question": lambda item: item.dialogue.question,
}


def matching(items: Sequence[Asked], wanted: str, argument: str) -> list[int]:
    """Places of the items that `wanted` names; * and ? stand for anything. UserError where it names none."""
    name = "picture"
    if wanted.startswith("@"):
        listed = _read(Path(wanted[1:]), argument)
        found = [place for place, item in enumerate(items) if item.key in listed or item.picture in listed]
    else:
        name, equals, pattern = wanted.partition("=")
        if not equals or name not in NAMES:
            reason = f"must be one of {', '.join(NAMES)} with =PATTERN, or @FILE with a key or picture a line"
            raise UserError(f"{argument} {wanted}: {reason}.")
        found = [
            place for place, item in enumerate(items) if fnmatchcase((NAMES[name](item) or "").lower(), pattern.lower())
        ]
    if not found:
        known = sorted({NAMES[name](item) or "none" for item in items})
        raise UserError(f"{argument} {wanted}: fits none of {len(items)} questions. There are: {', '.join(known[:5])}.")
    return found


def select(items: Sequence[Asked], only: Sequence[str], exclude: Sequence[str]) -> list[Asked]:
    """Items that fit one of `only` (all, if it is empty) and none of `exclude`. UserError where none is left."""
    kept = {place for wanted in only for place in matching(items, wanted, "--only")} if only else set(range(len(items)))
    kept -= {place for wanted in exclude for place in matching(items, wanted, "--exclude")}
    if not kept:
        raise UserError("--only and --exclude leave no question.")
    return [items[place] for place in sorted(kept)]


def _read(file: Path, argument: str) -> set[str]:
    try:
        return {line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{argument} @{file}: cannot be read ({error}); give a text file with a key or picture a line."
        ) from error
