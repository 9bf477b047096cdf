"""Image encoders of transformers that `model.vision.family: auto` takes, and their shape by config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vglm_train.errors import UserError
from vglm_train.weights.found import read_object

CONFIG = "config.json"
TAKEN = {
    "aimv2_vision_model": "AIMv2",
    "beit": "BEiT",
    "chinese_clip_vision_model": "Chinese-CLIP",
    "clip_vision_model": "CLIP",
    "convnext": "ConvNeXt",
    "convnextv2": "ConvNeXt V2",
    "data2vec-vision": "Data2Vec",
    "deit": "DeiT",
    "dinov2": "DINOv2, as RAD-DINO is",
    "dinov2_with_registers": "DINOv2 with registers",
    "dinov3_convnext": "DINOv3's ConvNeXt",
    "dinov3_vit": "DINOv3's ViT",
    "donut-swin": "Donut's Swin",
    "focalnet": "FocalNet",
    "hiera": "Hiera",
    "ijepa": "I-JEPA",
    "mlcd_vision_model": "MLCD",
    "pixio": "Pixio",
    "sapiens2": "Sapiens2",
    "siglip_vision_model": "SigLIP, and SigLIP 2 of a fixed size",
    "swin": "Swin",
    "swinv2": "Swin V2",
    "tipsv2_vision_model": "TIPSv2",
    "vit": "ViT",
    "vit_msn": "ViT of MSN",
}
"""model_type of an image encoder -> its name for people."""
STAGED = frozenset(
    {"convnext", "convnextv2", "dinov3_convnext", "donut-swin", "focalnet", "hiera", "swin", "swinv2"}
)  # whose stages differ in width: they are its blocks, and all of them are kept
REFUSED = {
    "siglip2": "SigLIP 2's naflex form cuts each picture into patches of its own; take a release of a fixed size",
    "siglip2_vision_model": "SigLIP 2's naflex form cuts each picture into patches of its own; take a release of a "
    "fixed size",
    "vit_mae": "it hides most patches at random; take a classifier that was trained from it, a ViT",
    "videomae": "it reads films",
    "vivit": "it reads films",
    "timesformer": "it reads films",
    "vjepa2": "it reads films",
    "videoprism_vision_model": "it reads films",
    "timm_wrapper": "it needs timm",
    "timm_backbone": "it needs timm",
    "dinat": "it needs natten",
    "yolos": "it finds objects, with tokens for them",
    "imagegpt": "it reads colours as words",
    "sam_vision_model": "it takes pictures of one size alone, and was trained to cut out, not to tell",
}
"""model_type -> why it is not taken."""


@dataclass(frozen=True, slots=True)
class Shape:
    """As config.json has it. Of a staged encoder heads and mlp_width are those of the last stage."""

    image_size: int
    patch: int  # pixels that a token stands for, a side
    width: int
    depth: int  # blocks; of a staged encoder stages
    heads: int
    mlp_width: int


def encoder_type(content: Mapping[str, Any]) -> str:
    """model_type of the image encoder that a config.json describes, alone or within a model of pictures and texts."""
    kind, inner = str(content.get("model_type")), content.get("vision_config")
    if not isinstance(inner, Mapping):
        return kind
    own = str(inner.get("model_type") or "")
    return own if own.endswith("_vision_model") or own in TAKEN else f"{kind}_vision_model"


def why_refused(kind: str) -> str:
    """Why an image encoder of this model_type, which is not in `TAKEN`, is not taken."""
    return REFUSED.get(kind, f"{kind} is none of those that were tried here")


def read_encoder(folder: Path) -> dict[str, Any]:
    """config.json of the image encoder in a Hugging Face folder: its own part of it, with model_type.

    UserError if there is none, or it is of a family that is not taken.
    """
    content = read_object(folder / CONFIG)
    if not content:
        raise UserError(
            f"model.vision: cannot read {folder / CONFIG}. Family auto takes a Hugging Face folder: config.json, "
            "model.safetensors, preprocessor_config.json."
        )
    kind = encoder_type(content)
    if kind not in TAKEN:
        raise UserError(
            f"model.vision: {folder} holds an image encoder that is not taken: {why_refused(kind)}. Taken are "
            f"{', '.join(TAKEN.values())}."
        )
    inner = content.get("vision_config")
    return {**(inner if isinstance(inner, Mapping) else content), "model_type": kind}


def published(content: Mapping[str, Any]) -> Any:
    """transformers' configuration of an image encoder's config.json. UserError where that is none."""
    from transformers import CONFIG_MAPPING, logging

    plain = {key: value for key, value in content.items() if key not in ("auto_map", "dtype", "torch_dtype")}
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return CONFIG_MAPPING[str(content["model_type"])].from_dict(plain)
    except Exception as error:  # transformers raises many kinds here
        raise UserError(f"model.vision: config.json is none of {content['model_type']}: {error}") from error
    finally:
        logging.set_verbosity(level)


def read_shape(folder: Path) -> Shape:
    """The shape of the encoder in a Hugging Face folder. UserError as `read_encoder`."""
    content = read_encoder(folder)
    config, kind = published(content), str(content["model_type"])
    widths = getattr(config, "hidden_sizes", None) or [config.hidden_size]
    stages = list(getattr(config, "depths", None) or widths)
    width = int(getattr(config, "hidden_size", None) or widths[-1])
    heads = _last(getattr(config, "num_attention_heads", None) or getattr(config, "num_heads", None) or 1)
    ratio = getattr(config, "mlp_ratio", None)
    inside = None if ratio else getattr(config, "intermediate_size", None)
    return Shape(
        image_size=_side(config.image_size, folder),
        patch=_stride(config, kind, len(stages), folder),
        width=width,
        depth=len(stages) if kind in STAGED else int(config.num_hidden_layers),
        heads=int(heads) if width % int(heads) == 0 else 1,
        mlp_width=int(inside or _last(ratio or 4) * width),
    )


def _stride(config: Any, kind: str, stages: int, folder: Path) -> int:
    """Pixels a side that a token of the output stands for: a stage halves what the one before gave."""
    if kind == "hiera":
        strides = config.patch_stride
        pooled: int = int(config.query_stride[0]) ** int(config.num_query_pool)
        return int(strides[0]) * pooled
    patch = _side(getattr(config, "patch_size", None) or 4, folder)
    return patch * int(2 ** (stages - 1)) if kind in STAGED else patch


def _side(value: Any, folder: Path) -> int:
    """A number, or two that are equal."""
    sides = {int(side) for side in (value if isinstance(value, list | tuple) else [value])}
    if len(sides) != 1:
        raise UserError(
            f"model.vision: {folder / CONFIG} describes an encoder of oblong pictures; here they are square."
        )
    return sides.pop()


def _last(value: Any) -> float:
    return float(value[-1] if isinstance(value, list | tuple) else value)
