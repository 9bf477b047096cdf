"""COCO caption files, whose pictures and captions stand apart, as a table."""

import hashlib
import json
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from vglm_train.data.record import RecordError
from vglm_train.data.tables.base import Row, TextFile
from vglm_train.data.tables.json_stream import NotJson, Window
from vglm_train.errors import UserError

LISTS = ("images", "annotations")


class CocoTable(TextFile):
    """`{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`: a row an image, with its captions.

    Captions are in no order of images, so one pass notes where each image and each caption lies. A row's offset is the
    image's number.
    """

    unit = "image"
    columns = ("id", "image", "captions")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with open(path, "rb") as file:
                found = _find(Window(file))
        except (NotJson, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{path}: not a COCO captions file ({reason}); it needs 'images' with 'id' and 'file_name', "
                "and 'annotations' with 'image_id' and 'caption'"
            ) from None
        images, captions = (np.array(found[name], dtype=np.uint64).reshape(-1, 3) for name in LISTS)
        self.images = images  # [n,3] key of its id, offset, size
        self.captions = captions[np.argsort(captions[:, 0], kind="stable")]  # [m,3] the same, of the image's id

    @property
    def size(self) -> int:
        return len(self.images)

    def scan(self) -> Iterator[Row]:
        for number in range(len(self.images)):
            try:
                values = self.row(number, 1)
                yield Row(number, 1, values, f"image {values['id']}")
            except RecordError:
                yield Row(number, 1, None, f"image number {number}", "encoding")

    def row(self, offset: int, size: int) -> dict[str, Any]:
        key, *span = self.images[offset].tolist()
        image = self._object(span)
        first, last = (np.searchsorted(self.captions[:, 0], np.uint64(key), side) for side in ("left", "right"))
        captions = [self._object(each)["caption"] for each in self.captions[first:last, 1:].tolist()]
        return {"id": image.get("id"), "image": image.get("file_name"), "captions": captions}

    def _object(self, span: list[int]) -> dict[str, Any]:
        return json.loads(self.text(*span), strict=False)


def is_coco(path: Path) -> bool:
    """Whether a JSON file is an object with a list of images, and their captions in a list of its own."""
    with open(path, "rb") as file, suppress(NotJson):  # whoever reads the file says what is wrong
        window = Window(file)
        for key in window.object_keys() if window.peek() == "{" else ():
            if key in LISTS and window.peek() == "[":
                elements = window.elements()
                _, first = next(elements, (0, None))
                fields = first.keys() if isinstance(first, dict) else set()
                if key == "images":
                    return bool(fields & {"id", "file_name"})
                if not fields >= {"image_id", "caption"}:
                    return False
                deque(elements, maxlen=0)  # MiniGPT-4's file has such annotations, and no images behind them
    return False


def _find(window: Window) -> dict[str, array]:
    """Key of the image's id, offset and size of each image and each caption, one after the other."""
    found: dict[str, array] = {}
    for name in window.object_keys():
        if name not in LISTS or window.peek() != "[":
            continue
        spans = found[name] = array("Q")
        for offset, value in window.elements():
            if name == "annotations" and "caption" not in value:
                raise KeyError("caption")  # boxes, for instance
            image_id = value.get("id") if name == "images" else value["image_id"]
            spans.extend((_key(image_id), offset, window.offset - offset))
    window.take("}")
    return found


def _key(image_id: Any) -> int:
    """64 bits that stand for an image's id."""
    return int.from_bytes(hashlib.blake2b(json.dumps(image_id).encode(), digest_size=8).digest())
