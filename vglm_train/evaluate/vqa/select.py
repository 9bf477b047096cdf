"""Which questions an evaluation asks: those of its task, and of these what --only and --exclude leave.

A filter is NAME=PATTERN with a name of FIELDS, or @FILE with the key or the image of a question on each line.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from vglm_train.config.metric_names import VqaTask
from vglm_train.data.eval_questions import Answered, EvalQuestion, QuestionSet
from vglm_train.errors import UserError
from vglm_train.progress import Progress

CAUSES = {  # of damage -> what to say of these questions
    "image": "whose picture is missing or damaged",
    "bomb": "whose picture is too large",
    "truncated": "that a shard's end cuts off",
    "caption": "without an answer",
    "record": "whose row cannot be read",
    "unreachable": "in a shard that cannot be reached",
}
LISTED = 5  # values that a message lists at most

FIELDS: dict[str, Callable[[EvalQuestion], str | None]] = {
    "key": lambda item: item.key,
    "picture": lambda item: item.picture,
    "type": lambda item: item.type,
    "kind": lambda item: item.kind,
    "group": lambda item: item.group,
    "language": lambda item: item.dialogue.language,
    "question": lambda item: item.dialogue.question,
}

Question = TypeVar("Question", EvalQuestion, Answered)


def task_items(items: Sequence[Question], task: VqaTask) -> list[Question]:
    """The items of a task: `report` takes reports, `vqa` all others. If none is marked as a report, open ones are."""
    reports = [item for item in items if item.kind == "report"]
    if task == "vqa":
        return [item for item in items if item.kind != "report"]
    return reports or [replace(item, kind="report") for item in items if item.kind == "open"]


def why_no_items(items: Sequence[EvalQuestion] | Sequence[Answered]) -> str:
    """Why `task_items` is empty, and which task scores these items."""
    if not items:
        return "nothing of it can be used"
    if items[0].kind == "report":
        return f"all that is usable, {len(items)}, are reports, which task report scores"
    return f"all that is usable, {len(items)}, are closed questions, which task vqa scores"


def select_questions(
    data: QuestionSet, task: VqaTask, args: argparse.Namespace
) -> tuple[list[EvalQuestion], list[EvalQuestion]]:
    """(the questions that --task, --only and --exclude leave, all questions that could be read).

    UserError if none is left. It says how many were left out by which cause, and what to do.
    """
    readable = list(Progress(len(data), "question", "read").over(data.items(args.workers)))
    damaged = describe_left_out(data)
    if not readable:
        asked = f"all {args.images} chosen of" if args.images else "all of"
        raise UserError(f"{args.data}: {asked} its questions are left out: {damaged or 'there is none'}. Mend that.")
    before = f" Left out before: {damaged}." if damaged else ""
    try:
        kept = filter_questions(readable, args.only, args.exclude)
    except UserError as error:
        raise UserError(f"{args.data}: {error}{before}") from error
    items = task_items(kept, task)
    if not items:
        chosen = f" of the {len(kept)} that --only and --exclude leave of {len(readable)}"
        chosen = chosen if len(kept) < len(readable) else ""
        raise UserError(f"{args.data}: nothing for --task {task}{chosen}: {why_no_items(kept)}.{before}")
    return items, readable


def filter_questions(items: Sequence[EvalQuestion], only: Sequence[str], exclude: Sequence[str]) -> list[EvalQuestion]:
    """Items that match one of `only` (all, if it is empty) and none of `exclude`. UserError if none is left."""
    kept = set(range(len(items)))
    if only:
        kept = {index for wanted in only for index in match_questions(items, wanted, "--only")}
    excluded = {index for wanted in exclude for index in match_questions(items, wanted, "--exclude")}
    if kept <= excluded:
        of_only = f" that --only {' --only '.join(only)} leaves of {len(items)}" if only else ""
        filters = " --exclude ".join(exclude)
        raise UserError(f"--exclude {filters}: takes away all {len(kept)} questions{of_only}; exclude less.")
    return [items[index] for index in sorted(kept - excluded)]


def match_questions(items: Sequence[EvalQuestion], wanted: str, argument: str) -> list[int]:
    """Indices of the items that match the filter `wanted`, in which * and ? stand for anything.

    UserError if none matches; it begins with `argument`, the option of the command line.
    """
    name = "picture"
    if wanted.startswith("@"):
        listed = _read_list(Path(wanted[1:]), argument)
        matches = [index for index, item in enumerate(items) if item.key in listed or item.picture in listed]
    else:
        name, equals, pattern = wanted.partition("=")
        if not equals or name not in FIELDS:
            reason = f"must be one of {', '.join(FIELDS)} with =PATTERN, or @FILE with a key or picture a line"
            raise UserError(f"{argument} {wanted}: {reason}.")
        texts = [(FIELDS[name](item) or "").lower() for item in items]
        matches = [index for index, text in enumerate(texts) if fnmatchcase(text, pattern.lower())]
    if not matches:
        values = sorted({text for item in items if (text := FIELDS[name](item))})
        more = ", ..." * (len(values) > LISTED)
        hint = f"There are: {', '.join(values[:LISTED])}{more}" if values else f"None has a {name}"
        raise UserError(f"{argument} {wanted}: fits none of {len(items)} questions. {hint}.")
    return matches


def describe_selection(
    items: Sequence[EvalQuestion],
    readable: Sequence[EvalQuestion],
    task: VqaTask,
    data: QuestionSet,
    args: argparse.Namespace,
) -> str:
    """How many of the `readable` questions are asked, by which options, and what was left out."""
    options = [("images", [args.images] * bool(args.images)), ("only", args.only), ("exclude", args.exclude)]
    chosen = "".join(f" --{name} {value}" for name, values in options for value in values)
    left_out = describe_left_out(data)
    others = len(readable) - len(task_items(readable, task))
    what = "reports, which --task report scores" if task == "vqa" else "questions, which --task vqa scores"
    of_other_task = f"; not asked: {others} {what}" if others else ""
    return f"{len(items)} questions{chosen}{of_other_task}{f'; left out: {left_out}' if left_out else ''}"


def describe_left_out(data: QuestionSet) -> str:
    """How many questions of `data` cannot be asked, by cause; empty if all can. `data` must have been read."""
    causes = [f"{count} {CAUSES[cause]}" for cause, count in data.damaged.items()]
    other_language, no_image = data.unasked["language"], data.unasked["picture"]
    if other_language:
        causes.append(f"{other_language} in another language than {', '.join(data.languages)} (--languages)")
    return ", ".join([*causes, f"{no_image} without a picture"] if no_image else causes)


def _read_list(file: Path, argument: str) -> set[str]:
    try:
        return {line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{argument} @{file}: cannot be read ({error}); give a text file with a key or picture a line."
        ) from error
