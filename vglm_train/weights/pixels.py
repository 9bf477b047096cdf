"""What an encoder's own image processor does to a picture: preprocessor_config.json of a Hugging Face folder.

Sizes and defaults are transformers', class by class (`image_processing_*.py`).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vglm_train.errors import UserError
from vglm_train.weights.found import read_object

PROCESSOR = "preprocessor_config.json"
COMBINED = "processor_config.json"  # of transformers 5: beside a tokenizer's
Resample = Literal["bicubic", "bilinear"]
FILTERS: dict[int, Resample] = {2: "bilinear", 3: "bicubic"}
OTHER_FILTERS = {0: "nearest", 1: "lanczos", 4: "box", 5: "hamming"}
Triple = tuple[float, float, float]

HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _class(size: int, resample: int, normal: tuple[Triple, Triple], crop: int | None = None,
           shortest: bool = False) -> dict[str, Any]:  # fmt: skip
    side = {"shortest_edge": size} if shortest else {"height": size, "width": size}
    return {"size": side, "resample": resample, "image_mean": normal[0], "image_std": normal[1],
            "do_center_crop": crop is not None, "crop_size": crop or size}  # fmt: skip


PLAIN = (HALF, HALF)
PLAIN_NORMAL: dict[str, Triple] = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}  # changes nothing
SIZES = 'a number of pixels, {"height": 224, "width": 224} or {"shortest_edge": 224}'
LARGEST = 1e6  # of any of the numbers
SHOWN = 80  # characters of a value in a message
CLASSES = {
    "Beit": _class(224, 3, PLAIN),
    "Bit": _class(224, 3, CLIP, crop=224, shortest=True),
    "CLIP": _class(224, 3, CLIP, crop=224, shortest=True),
    "ChineseCLIP": _class(224, 3, CLIP, crop=224, shortest=True),
    "ConvNext": {**_class(384, 3, PLAIN, shortest=True), "crop_pct": 224 / 256},
    "DINOv3ViT": _class(224, 2, IMAGENET),
    "DeiT": _class(256, 3, PLAIN, crop=224),
    "Siglip": _class(224, 3, PLAIN),
    "ViT": _class(224, 2, PLAIN),
}
"""Name of a processor's class without its ending -> what it does where the file says nothing."""
SQUARE_384 = 384  # ConvNext's processor squeezes into a square from this size on


@dataclass(frozen=True, slots=True)
class Pixels:
    """How a picture becomes what the encoder was published with."""

    size: int  # side of the square that the encoder gets
    mean: Triple
    std: Triple
    squeeze: bool  # the whole picture into a square; else its shorter side becomes `resize`, and the centre is cut out
    resize: int | None  # the side before the centre is cut out; None: size
    resample: Resample


def read_processor(folder: Path) -> Pixels:
    """Of a Hugging Face folder. UserError if there is no such file, or it does what is not done here."""
    path = folder / PROCESSOR
    said = read_object(path)
    if not said:
        path = folder / COMBINED
        inner = read_object(path).get("image_processor")
        said = inner if isinstance(inner, dict) else {}
    if not said and (
        there := next((folder / name for name in (PROCESSOR, COMBINED) if (folder / name).is_file()), None)
    ):
        raise UserError(
            f"model.vision: {there} is damaged: it is no JSON with an image processor's values, which say how "
            "pictures were made for it. Download this file again."
        )
    if not said:
        raise UserError(
            f"model.vision: {folder} has no {PROCESSOR}, which says how its pictures were made: complete the download."
        )
    return _read(said, path)


def _read(said: Mapping[str, Any], path: Path) -> Pixels:
    name = str(said.get("image_processor_type") or said.get("feature_extractor_type"))
    stem = name.removesuffix("Pil").removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if stem not in CLASSES:
        raise _refused(path, f"its class is {name}, and known here are those of {', '.join(CLASSES)}")
    values = {**CLASSES[stem], **{key: value for key, value in said.items() if value is not None}}
    _check(values, path)
    size, resize, squeeze = _geometry(values, stem, path)
    filter_ = _whole("resample", values["resample"], path, least=0)
    if filter_ not in FILTERS:
        raise _refused(
            path, f"it resizes by {OTHER_FILTERS.get(filter_, filter_)}, and here bicubic and bilinear are done"
        )
    normal = _flag("do_normalize", values, True, path)
    mean, std = (_triple(name, values[name], path) if normal else plain for name, plain in PLAIN_NORMAL.items())
    if min(std) <= 0:
        raise _no("image_std", values["image_std"], "numbers above 0", path)
    return Pixels(size, mean, std, squeeze, resize, FILTERS[filter_])


def _check(values: Mapping[str, Any], path: Path) -> None:
    """What has no counterpart here is off."""
    for key, wanted in (("do_resize", True), ("do_rescale", True), ("do_pad", False), ("do_flip_channel_order", False)):
        if _flag(key, values, wanted, path) != wanted:
            raise _refused(path, f"{key} is {str(not wanted).lower()}")
    factor = _number("rescale_factor", values.get("rescale_factor", 1 / 255), path)
    if not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        raise _refused(path, f"rescale_factor is {values['rescale_factor']}, not 1/255")
    if _flag("rescale_offset", values, False, path):
        raise _refused(path, "rescale_offset is true")


def _geometry(values: Mapping[str, Any], stem: str, path: Path) -> tuple[int, int | None, bool]:
    """Side of the square, side before a centre is cut out of it, and whether the whole picture is squeezed."""
    size, shortest = _side("size", values["size"], path, square=stem not in ("Bit", "CLIP", "ChineseCLIP", "ConvNext"))
    if stem == "ConvNext":
        if size >= SQUARE_384:
            return size, None, True
        part = _number("crop_pct", values["crop_pct"], path)
        if not 0 < part <= 1:
            raise _no("crop_pct", part, "a share of the side, above 0 and at most 1", path)
        return size, int(size / part), False
    if not _flag("do_center_crop", values, False, path):
        if shortest:
            raise _refused(path, "it leaves a picture oblong: size has shortest_edge, and do_center_crop is off")
        return size, None, True
    crop, _ = _side("crop_size", values["crop_size"], path, square=True)
    if crop > size:
        raise _refused(path, f"it adds a border: crop_size {crop} is more than size {size}")
    return crop, None if crop == size else size, not shortest


def _side(name: str, value: Any, path: Path, square: bool) -> tuple[int, bool]:
    """A size in any of transformers' forms, and whether it is that of the shorter side. A number: see `square`."""
    if isinstance(value, Mapping):
        given = {key: _whole(f"{name}.{key}", each, path) for key, each in value.items() if each is not None}
        if set(given) == {"shortest_edge"}:
            return given["shortest_edge"], True
        if set(given) == {"height", "width"} and given["height"] == given["width"]:
            return given["height"], False
        if set(given) == {"longest_edge"}:
            raise _refused(path, f"{name} has longest_edge alone, which leaves a picture oblong")
        if len(given) < 2:
            raise _no(name, value, SIZES, path)
        raise _refused(path, f"it makes pictures of {given}, which are not square")
    if isinstance(value, list):
        sides = [_whole(name, each, path) for each in value]
        if len(sides) != 2:
            raise _no(name, value, SIZES, path)
        if sides[0] != sides[1]:
            raise _refused(path, f"it makes pictures of {sides}, which are not square")
        return sides[0], False
    return _whole(name, value, path), not square


def _triple(name: str, value: Any, path: Path) -> Triple:
    each = value if isinstance(value, list | tuple) else [value] * 3
    if len(each) != 3:
        raise _no(name, value, "three numbers, one a colour", path)
    red, green, blue = (_number(name, number, path) for number in each)
    return red, green, blue


def _number(name: str, value: Any, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST < value < LARGEST:  # nor NaN
        raise _no(name, value, "a number", path)
    return float(value)


def _whole(name: str, value: Any, path: Path, least: int = 1) -> int:
    number = _number(name, value, path)
    if number != int(number) or number < least:
        raise _no(name, value, f"a whole number from {least}", path)
    return int(number)


def _flag(name: str, values: Mapping[str, Any], default: bool, path: Path) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool) and value not in (0, 1):
        raise _no(name, value, "true or false", path)
    return bool(value)


def _no(name: str, value: Any, wanted: str, path: Path) -> UserError:
    shown = json.dumps(value, ensure_ascii=False)[:SHOWN]
    return UserError(
        f"model.vision: {path}: {name} is {shown}, and should be {wanted}. Download this file again, or write there "
        "what the encoder was trained with."
    )


def _refused(path: Path, what: str) -> UserError:
    return UserError(f"model.vision: {path} describes pixels that are not made here: {what}.")
