"""COCO caption files, whose pictures and captions stand apart, as a table."""

from itertools import islice
from pathlib import Path
from typing import Any

from vglm_train.data.tables.json_shape import JsonShape
from vglm_train.data.tables.json_table import FIRST, JsonTable
from vglm_train.data.tables.layouts.join import Half, JoinedTable, Values
from vglm_train.errors import UserError

WANTED = (("images", "id"), ("annotations", "image_id"), ("annotations", "caption"))


def open_coco(path: Path, encoding: str | None = None) -> JoinedTable:
    """`{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`: a row an image, with its captions.

    UserError where it is no such file.
    """
    kind = JsonTable(path, encoding=encoding).shape.kind
    parts = {key: JsonTable(path, encoding=encoding, shape=JsonShape("member", key)) for key, _ in WANTED}
    for key, wanted in WANTED:
        first = [row.values or {} for row in islice(parts[key].scan(), FIRST)] if kind == "coco" else []
        if not any(wanted in row for row in first):
            raise UserError(
                f"{path}: not a COCO captions file (none of the first {len(first)} {key} has {wanted!r}); it needs "
                "'images' with 'id' and 'file_name', and 'annotations' with 'image_id' and 'caption'"
            )
    halves = Half(parts["images"], "image", _id), Half(parts["annotations"], "annotation", _image_id)
    return JoinedTable(path, *halves, coco_row, several=True)


def coco_row(image: Values, notes: list[Values]) -> Values:
    """The image's row."""
    captions = [note.get("caption") for note in notes]
    return {"id": image.get("id"), "image": image.get("file_name"), "captions": captions}


def _id(image: Values) -> tuple[Any, ...]:
    return (image.get("id"),)


def _image_id(note: Values) -> tuple[Any, ...]:
    return (note.get("image_id"),)
