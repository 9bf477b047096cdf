"""The pictures of a row: paths, or bytes that the table itself holds."""

import base64
import binascii
from typing import Any

from vglm_train.data.record import RecordError, kind_of
from vglm_train.data.tables.cells import is_missing, number_text
from vglm_train.image import ImageError

Picture = str | bytes
NOT_DECODED = "a picture that cannot be decoded"
BASE64 = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "Qk", "SUkq", "TU0AK")  # JPEG, PNG, WEBP, GIF, BMP, TIFF begin so


def pictures_in(cell: Any) -> list[Picture]:
    """The pictures of a cell: a path, a number that names one, base64, `datasets`' {bytes, path}, or a list of these.

    RecordError where something else is in their place.
    """
    match cell:
        case str():
            return [] if is_missing(cell) else [embedded(cell) or cell.strip()]
        case list() | tuple():
            return [picture for each in cell for picture in pictures_in(each)]
        case {"bytes": bytes() as content} if content:
            return [content]
        case {"path": str() as path} | {"url": str() as path}:
            return pictures_in(path)
        case bytes():
            return [cell] if cell else []
        case int() | float() if not isinstance(cell, bool) and (name := number_text(cell)) and "." not in name:
            return [name]
        case _ if is_missing(cell):
            return []
    raise RecordError("record", f"a picture must be a path: found {kind_of(cell)}")


def decode_fault(error: ImageError) -> str:
    """Why a picture cannot be decoded: a cause that many may have, a colon, and what is special about this one."""
    detail = error.reason.removeprefix(error.what).lstrip(":, ")
    return f"{NOT_DECODED}, {error.what}{': ' * bool(detail)}{detail}"


def embedded(text: str) -> bytes | None:
    """The bytes of a picture that is written as base64, as MMBench's tables have them, or as a data: address."""
    if len(text) < 64 or not (text.startswith(BASE64) or text.startswith("data:image/")):
        return None
    plain = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(plain.split()), validate=True) or None
    except (binascii.Error, ValueError):
        return None
