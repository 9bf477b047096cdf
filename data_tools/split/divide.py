"""Which records belong together, and on which side they stand."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_tools.common.records import RecordItem, path_from
from vglm_train.errors import UserError

SIDES = ("train", "val", "test")
TEXTS = ("captions", "turns", "answers", "options", "language")


def pictures_of(item: RecordItem) -> list[str]:
    """What two records have in common that show one picture: the file, and the hash of the first one's bytes. The
    same wherever the records and their pictures lie."""
    image = item.fields["image"]
    names = image if isinstance(image, list) else [image]
    ids = [] if item.record.image_id is None else [f"id {item.record.image_id}"]
    return [*ids, *(f"picture {os.path.normpath(name)}" for name in names)]


def content_of(item: RecordItem) -> str:
    """Equal where two records show the same pictures and say the same."""
    said = {name: item.fields.get(name) for name in TEXTS}
    return json.dumps([pictures_of(item), said], ensure_ascii=False, sort_keys=True)


def patients_of(names: Sequence[Iterable[str]]) -> list[str]:
    """A name for each record, the same for all that must stay together: the first of their names by the alphabet.

    `names`: of each record its group and its pictures; records that share one of them belong together, and so does
    what these share with others.
    """
    head: dict[str, str] = {}

    def find(name: str) -> str:
        while head.setdefault(name, name) != name:
            head[name] = head[head[name]]
            name = head[name]
        return name

    firsts = []
    for each in names:
        first, *others = each
        firsts.append(first)
        for other in others:
            one, two = sorted((find(first), find(other)))
            head[two] = one
    return [find(first) for first in firsts]


def choose_sides(patients: Sequence[str], val: float, test: float) -> dict[str, str]:
    """Patient -> side. The patients' hashes decide, so that the order of the records does not.

    Each side gets its share of the patients, rounded up. UserError where there are too few.
    """
    ranked = sorted(set(patients), key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
    tested, judging = math.ceil(test * len(ranked)), math.ceil(val * len(ranked))
    if tested + judging >= len(ranked):
        raise UserError(
            f"{len(ranked)} patients (or pictures, where rows name none) cannot be split into training, {judging} for "
            f"validation and {tested} for the test: bring more, or lower --val and --test"
        )
    sides = ["test"] * tested + ["val"] * judging + ["train"] * (len(ranked) - tested - judging)
    return dict(zip(ranked, sides))


def moved(fields: dict[str, Any], folder: Path, out: Path, side: str) -> dict[str, Any]:
    """A record of a file in `folder` for that of a side in `out`; both folders are resolved."""
    image = fields["image"]
    names = [image] if isinstance(image, str) else image
    paths = [path_from(out, folder / name) for name in names]
    return {**fields, "image": paths[0] if isinstance(image, str) else paths, "split": side}
