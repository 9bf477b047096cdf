"""Which questions count: NAME=PATTERN, or @FILE with the key or the picture of a question a line."""

import argparse
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tqdm import tqdm

from vglm_train.data.eval_questions import EvalQuestion, QuestionSet
from vglm_train.errors import UserError
from vglm_train.evaluate.vqa.evaluator import Task, fitting, misfits

CAUSES = {
    "image": "whose picture is missing or damaged",
    "bomb": "whose picture is too large",
    "truncated": "that a shard's end cuts off",
    "caption": "without an answer",
    "record": "whose row cannot be read",
    "unreachable": "in a shard that cannot be reached",
}
SHOWN = 5  # names that are listed of all there are

NAMES: dict[str, Callable[[EvalQuestion], str | None]] = {
    "key": lambda item: item.key,
    "picture": lambda item: item.picture,
    "type": lambda item: item.type,
    "kind": lambda item: item.kind,
    "group": lambda item: item.group,
    "language": lambda item: item.dialogue.language,
    "question": lambda item: item.dialogue.question,
}


def matching(items: Sequence[EvalQuestion], wanted: str, argument: str) -> list[int]:
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
        known = sorted({text for item in items if (text := NAMES[name](item))})
        there = (
            f"There are: {', '.join(known[:SHOWN])}{', ...' * (len(known) > SHOWN)}" if known else f"None has a {name}"
        )
        raise UserError(f"{argument} {wanted}: fits none of {len(items)} questions. {there}.")
    return found


def choose(data: QuestionSet, task: Task, given: argparse.Namespace) -> tuple[list[EvalQuestion], list[EvalQuestion]]:
    """The questions of `data` that --task, --only and --exclude leave, and all that were read. UserError where none is
    left: what was left out, how many by which cause, and what to do.
    """
    with tqdm(data.items(given.workers), "read", len(data), unit="question", delay=2, disable=None) as bar:
        found = list(bar)
    left = left_out(data)
    if not found:
        first = f"the first {given.images} of" if given.images else "all of"
        raise UserError(f"{given.data}: {first} its questions are left out: {left or 'there is none'}. Mend that.")
    before = f" Left out before: {left}." if left else ""
    try:
        kept = select(found, given.only, given.exclude)
    except UserError as error:
        raise UserError(f"{given.data}: {error}{before}") from error
    items = fitting(kept, task)
    if not items:
        chosen = f" of the {len(kept)} that --only and --exclude leave of {len(found)}" * (len(kept) < len(found))
        raise UserError(f"{given.data}: nothing for --task {task}{chosen}: {misfits(kept)}.{before}")
    return items, found


def in_words(items: Sequence[EvalQuestion], data: QuestionSet, given: argparse.Namespace) -> str:
    """What of the data is asked, and what could not be."""
    named = [("images", [given.images] * bool(given.images)), ("only", given.only), ("exclude", given.exclude)]
    chosen = "".join(f" --{name} {value}" for name, values in named for value in values)
    left = left_out(data)
    return f"{len(items)} questions{chosen}{f'; left out: {left}' if left else ''}"


def left_out(data: QuestionSet) -> str:
    """What of `data`, which was read, cannot be asked, by cause; empty where everything can."""
    causes = [f"{count} {CAUSES[cause]}" for cause, count in data.damaged.items()]
    silent, textual = data.unasked["language"], data.unasked["picture"]
    if silent:
        causes.append(f"{silent} in another language than {', '.join(data.languages)} (--languages)")
    return ", ".join([*causes, f"{textual} without a picture"] if textual else causes)


def select(items: Sequence[EvalQuestion], only: Sequence[str], exclude: Sequence[str]) -> list[EvalQuestion]:
    """Items that fit one of `only` (all, if it is empty) and none of `exclude`. UserError where none is left."""
    kept = {place for wanted in only for place in matching(items, wanted, "--only")} if only else set(range(len(items)))
    taken = {place for wanted in exclude for place in matching(items, wanted, "--exclude")}
    if kept <= taken:
        named = f" that --only {' --only '.join(only)} leaves of {len(items)}" if only else ""
        given = " --exclude ".join(exclude)
        raise UserError(f"--exclude {given}: takes away all {len(kept)} questions{named}; exclude less.")
    return [items[place] for place in sorted(kept - taken)]


def _read(file: Path, argument: str) -> set[str]:
    try:
        return {line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{argument} @{file}: cannot be read ({error}); give a text file with a key or picture a line."
        ) from error
