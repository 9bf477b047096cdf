"""Questions and answers in two files, joined by question_id: VQAv2, OK-VQA and those in their layout."""

from pathlib import Path
from typing import Any

from vglm_train.data.tables.json_table import JsonTable
from vglm_train.data.tables.layouts.join import Half, JoinedTable, Values
from vglm_train.errors import UserError

OTHER = {"questions": "annotations", "annotations": "questions"}
HOLDS = {"questions": "questions without answers", "annotations": "answers without their questions"}


def open_vqa(path: Path, join: Path | None, encoding: str | None = None) -> JoinedTable:
    """A row a question, in the order of the file of questions. `path` and `join`: the two files, in either order.

    UserError where there is no other, or the two are not one of each.
    """
    file = JsonTable(path, encoding=encoding)
    kind: str = file.shape.kind
    if kind not in OTHER:
        raise UserError(
            f"{path}: not a file of VQAv2: it needs a list of 'questions', or 'annotations' with question_id"
        )
    if join is None:
        how = f"name the file of {OTHER[kind]} as join in the source (check_table, convert: --join)"
        raise UserError(f"{path}: holds {HOLDS[kind]}; {how}{_beside(path, kind)}.")
    partner = JsonTable(join, encoding=encoding)
    if partner.shape.kind != OTHER[kind]:
        raise UserError(
            f"{join}: {path.name} holds {HOLDS[kind]}, so join must be a file with {OTHER[kind]}; it is not."
        )
    questions, answers = (file, partner) if kind == "questions" else (partner, file)
    halves = Half(questions, "question", _id), Half(answers, "annotation", _id)
    return JoinedTable(path, *halves, vqa_row, several=False)


def vqa_row(question: Values, notes: list[Values]) -> Values:
    """The question's row with what its annotation says."""
    return {key: held for note in notes for key, held in note.items()} | question


def _id(row: Values) -> tuple[Any, ...]:
    return (row.get("question_id"),)


def _beside(path: Path, kind: str) -> str:
    """The other file, where it lies beside under VQAv2's name for it."""
    marked = path.name.replace(kind, OTHER[kind])
    names = (marked, marked.replace("OpenEnded_", ""), marked.replace("mscoco_", "OpenEnded_mscoco_"))
    found = next((path.with_name(name) for name in names if name != path.name and path.with_name(name).is_file()), None)
    return f"; it may be {found}" if found else ""
