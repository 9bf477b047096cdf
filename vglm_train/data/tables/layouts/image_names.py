"""Pictures that rows name by a number: the name of their file is made from it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from vglm_train.data.tables.fields import known
from vglm_train.data.tables.image_paths import PictureFolder
from vglm_train.data.tables.layouts.rows import Values

logger = logging.getLogger(__name__)

USUAL = (  # COCO's names, also of those who build on it: VQAv2, OK-VQA, A-OKVQA, LLaVA
    "{image_id:012d}.jpg", "COCO_train2014_{image_id:012d}.jpg", "COCO_val2014_{image_id:012d}.jpg",
    "COCO_test2014_{image_id:012d}.jpg", "COCO_test2015_{image_id:012d}.jpg",
)  # fmt: skip
FOLDERS = ("", "train2014/", "val2014/", "train2017/", "val2017/", "test2015/", "test2017/")


@dataclass(frozen=True, slots=True)
class ImageNames:
    """`template`: a path in which {KEY} stands for what a row has under it, {KEY:012d} for a number of twelve digits,
    and {} for image_id."""

    template: str

    @property
    def adds(self) -> tuple[str, ...]:
        return ("image",)

    @property
    def name(self) -> str:
        return self.template

    def __call__(self, row: Values) -> Values:
        return row | {"image": self.name_of(row)}

    def name_of(self, row: Values) -> str | None:
        """None where the row lacks a key of the template, or has no number where one is needed."""
        parts = []
        for text, key, spec, _ in Formatter().parse(self.template):
            parts.append(text)
            if key is None:
                continue
            held = row.get(key or "image_id")
            if not isinstance(held, str | int) or isinstance(held, bool) or held == "":
                return None
            try:
                parts.append(format(int(held) if spec else str(held), spec or ""))
            except ValueError:
                return None
        return "".join(parts)


def find_names(images: Path, columns: Sequence[str], first: Sequence[Values]) -> ImageNames | None:
    """The one of USUAL under which a picture of the `first` rows is in the folder `images`, where rows name pictures by
    numbers alone, and no file is called by just that number."""
    if "image_id" not in columns or known("image", columns):
        return None
    pictures = PictureFolder(images)
    numbered = [row for row in first if str(row.get("image_id", "")).isdecimal()]
    if any(pictures.find(str(row["image_id"])) for row in numbered):
        return None
    for template in (folder + name for name in USUAL for folder in FOLDERS):
        names = ImageNames(template)
        found = (names.name_of(row) for row in numbered)
        if any(name is not None and pictures.find(name) for name in found):
            logger.info("%s: pictures are named %s", images, template)
            return names
    return None
