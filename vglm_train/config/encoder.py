"""`model.vision.family: auto`: what the encoder's folder says about its shape and its pixels, as if written out.

The resolved configuration has these numbers, so it can be read where the folder is not.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from vglm_train.config.yaml_tree import YamlNode
from vglm_train.errors import UserError
from vglm_train.folders import recover
from vglm_train.weights.encoders import CONFIG, STAGED, encoder_type, read_shape
from vglm_train.weights.found import read_object
from vglm_train.weights.pixels import COMBINED, PROCESSOR, Pixels, read_processor

SHAPE = ("image_size", "patch", "width", "depth", "heads", "mlp_width")
PIXELS = ("mean", "std", "squeeze", "resize", "resample")
FREE = ("image_size", "depth")  # may be other than the folder's


def fill_encoder(root: YamlNode) -> None:
    """Write what `root` leaves out. UserError for what is not what the folder says, and where there is no folder."""
    model = root.step("model")
    vision = model.step("vision") if model else None
    if vision is None or not isinstance(vision.value, dict) or _value(vision, "family") != "auto":
        return
    folder = _folder(vision)
    image = _image(root, vision)
    if folder is None:
        _check_complete(vision, image)
        return
    shape = asdict(read_shape(folder))
    published = {shape["image_size"]}
    pixels = _pixels(folder, vision, image)
    if pixels is not None:
        shape["image_size"] = pixels.size
    _fill(vision, shape, folder, "model.vision")
    _check_size(vision, shape["patch"], {*published, shape["image_size"]}, folder)
    _check_depth(vision, shape["depth"], folder)
    if pixels is not None:
        wanted = _for_size(pixels, _value(vision, "image_size"))
        _fill(image, wanted, folder, "data.image")


def _folder(vision: YamlNode) -> Path | None:
    """Where config.json is: weights, or else config; None if neither is on this machine."""
    for name in ("weights", "config"):
        value = _value(vision, name)
        if value is None:
            continue
        path = Path(str(value))
        recover(path)
        if path.is_dir():
            return path
        if path.exists():
            _fail(vision, name, "model.vision", f"{path} is a file, and family auto takes a Hugging Face folder")
    return None


def _image(root: YamlNode, vision: YamlNode) -> YamlNode:
    """The section data.image, which is made where it is not written."""
    item = root
    for part in ("data", "image"):
        below = item.step(part)
        if below is None and isinstance(item.value, dict):
            below = item.value[part] = YamlNode({}, vision.where, 0)
        assert below is not None
        item = below
    return item


def _pixels(folder: Path, vision: YamlNode, image: YamlNode) -> Pixels | None:
    """Of the folder's processor; None where it has none and the configuration says all of it."""
    has = any((folder / name).is_file() for name in (PROCESSOR, COMBINED))
    if not has and _value(image, "mean") is not None and _value(image, "std") is not None:
        return None
    if not has:
        reason = f"{folder} has no {PROCESSOR}: complete the download, or write data.image.mean and data.image.std"
        _fail(vision, "weights", "model.vision", f"{reason}, and model.vision.image_size")
    return read_processor(folder)


def _for_size(pixels: Pixels, size: Any) -> dict[str, Any]:
    """What the processor does, to pictures of another size: the same part of them is seen."""
    resize = pixels.resize
    if resize is not None and isinstance(size, int):
        resize = round(resize * size / pixels.size)
    return {"mean": pixels.mean, "std": pixels.std, "squeeze": pixels.squeeze, "resize": resize,
            "resample": pixels.resample}  # fmt: skip


def _fill(section: YamlNode, wanted: dict[str, Any], folder: Path, path: str) -> None:
    if not isinstance(section.value, dict):  # which `load` refuses
        return
    for name, value in wanted.items():
        given = section.step(name)
        if given is None:
            section.value[name] = _node(value, section)
        elif name not in FREE and _plain(given) != (list(value) if isinstance(value, tuple) else value):
            shown = list(value) if isinstance(value, tuple) else value
            reason = f"{folder} says {shown}; leave the line out, and it is read from there"
            if path == "model.vision":
                reason += (
                    f". Over another encoder's preset, give all at once: '{path}={{family: auto, weights: {folder}}}'"
                )
            _fail(section, name, path, reason)


def _check_size(vision: YamlNode, patch: int, published: set[int], folder: Path) -> None:
    """What lies beyond the last whole patch is not seen. Some encoders were published so: SigLIP of 384 pixels in
    patches of 14."""
    size = _value(vision, "image_size")
    if not isinstance(size, int) or size <= 0 or size % patch == 0 or size in published:
        return
    near = " or ".join(str(n) for n in (size // patch * patch, (size // patch + 1) * patch) if n)
    known = " and ".join(map(str, sorted(published)))
    reason = (
        f"{size} is not a multiple of {patch}, the side of what becomes a token in {folder}: the picture is cut into "
    )
    _fail(vision, "image_size", "model.vision", f"{reason}whole patches. Nearest: {near}; published: {known}")


def _check_depth(vision: YamlNode, published: int, folder: Path) -> None:
    depth = _value(vision, "depth")
    if not isinstance(depth, int):
        return
    if depth > published:
        _fail(vision, "depth", "model.vision", f"{folder} has only {published} blocks")
    kind = encoder_type(read_object(folder / CONFIG))
    if depth < published and kind in STAGED:
        _fail(vision, "depth", "model.vision", f"{kind} has {published} stages, which are all kept; leave it out")


def _check_complete(vision: YamlNode, image: YamlNode) -> None:
    """A resolved configuration needs no folder."""
    lacking = [f"model.vision.{name}" for name in SHAPE if vision.step(name) is None]
    lacking += [f"data.image.{name}" for name in PIXELS if image.step(name) is None]
    if not lacking:
        return
    named = [str(value) for name in ("weights", "config") if (value := _value(vision, name)) is not None]
    reason = f"{' and '.join(named)} is not on this machine" if named else "neither weights nor config is given"
    _fail(
        vision,
        "weights",
        "model.vision",
        f"{reason}, and family auto reads the encoder's shape and pixels from that folder. Give a Hugging Face folder "
        "with config.json, model.safetensors and preprocessor_config.json",
    )


def _node(value: Any, section: YamlNode) -> YamlNode:
    if isinstance(value, tuple):
        return YamlNode([_node(entry, section) for entry in value], section.where, 0)
    return YamlNode(value, section.where, 0)


def _plain(item: YamlNode) -> Any:
    if isinstance(item.value, list):
        return [_plain(entry) for entry in item.value]
    return item.value


def _value(section: YamlNode, name: str) -> Any:
    item = section.step(name)
    return None if item is None else item.value


def _fail(section: YamlNode, name: str, path: str, reason: str) -> NoReturn:
    where = section.step(name) or section
    raise UserError(f"{where.where}: {path}.{name}: {reason}")
