"""Image towers of transformers, without what follows their last block.

n images, p tokens, c channels.
"""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vglm_train.config.model import Vision
from vglm_train.errors import UserError
from vglm_train.model.vision.base import Encoder
from vglm_train.weights.encoders import CONFIG, STAGED, TAKEN, encoder_type, published, read_encoder, read_shape
from vglm_train.weights.found import read_object
from vglm_train.weights.identify import require

# our name -> config.json's, for the same number
NAMES = {
    "image_size": "image_size",
    "patch": "patch_size",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
}
BLOCKS = ("layers", "encoder.layers", "encoder.layer", "model.layer", "encoder.stages", "model.stages")
NORMS = ("layernorm", "post_layernorm", "norm", "layer_norm", "rms_norm")
UNNAMED = ("_name_or_path", "transformers_version", "architectures", "id2label", "label2id", "dtype")  # of config.json


class HfVision(Encoder):
    """The first `depth` blocks of a tower: what the last of them gives, before the tower's final norm.

    Class tokens stay, as BLIP-2 keeps EVA's. Register tokens, in which an encoder only keeps what it computes
    (arXiv:2309.16588), are left out, and so is the mean that DINOv3's ConvNeXt puts first. A grid becomes its cells,
    row by row. Of pictures of another size than the published one the tower interpolates its positions itself.
    """

    def __init__(self, config: Vision) -> None:
        super().__init__()
        from transformers import MODEL_MAPPING

        shape = _configuration(config)
        kind: Any = MODEL_MAPPING[type(shape)]
        self.described = _described(shape) if config.family == "auto" else ""
        self.tower: Any = _without_head(_build(kind, shape))
        self.skipped = _skipped(shape)
        resized = _side(shape.image_size) != config.image_size
        takes = "interpolate_pos_encoding" in inspect.signature(self.tower.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if resized and takes else {}
        self.config = config
        self.recordable = config.family != "auto"  # of the others each would have to be tried

    @property
    def num_patches(self) -> int:
        """Tokens of one image. UserError as `measure`."""
        return measure(self.config).tokens

    @property
    def blocks(self) -> Sequence[nn.Module]:  # type: ignore[override]
        """The blocks that are kept, in order; stages of an encoder that has them."""
        found = (_inner(self.tower, path) for path in BLOCKS)
        layers: Any = next(each for each in found if isinstance(each, nn.ModuleList))
        kept: Sequence[nn.Module] = layers
        return kept

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [n,3,h,w] -> [n,p,c], the output of the last block kept."""
        hidden: Tensor = self.tower(pixel_values=pixels, **self.options).last_hidden_state
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        first, last = self.skipped
        return hidden if first == last else torch.cat((hidden[:, :first], hidden[:, last:]), 1)

    def tuned(self, pixels: Tensor, trained: Sequence[nn.Module]) -> Tensor:
        kind = pixels.device.type
        enter = partial(_enter, kind, torch.is_autocast_enabled(kind))
        with torch.autocast(kind, enabled=False):
            hooks = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in trained]
            try:
                tokens: Tensor = self(pixels.detach())
                return tokens
            finally:
                for hook in hooks:
                    hook.remove()

    def extra_repr(self) -> str:
        """What weights and modules do not show: stored features know an encoder by it."""
        return self.described


def _enter(kind: str, autocast: bool, block: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Before a block that trains: in fp32, masks and positions too, under the autocast around the encoder."""
    torch.set_autocast_enabled(kind, autocast)
    return _widened(args), _widened(kwargs)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _widened(entry) for key, entry in value.items()}
    return tuple(_widened(entry) for entry in value) if isinstance(value, tuple) else value


def source_of(config: Vision) -> Path:
    """The folder with the config.json of an encoder of family auto: weights, or config where there are none here."""
    weights = Path(config.weights) if config.weights else None
    if weights is not None and weights.is_dir():
        return weights
    if config.config:
        return Path(config.config)
    raise UserError(
        f"model.vision.weights: {config.weights or 'null'} is no folder here, and family auto reads the encoder's "
        "shape from its config.json. Give the Hugging Face folder, or model.vision.config."
    )


def _configuration(config: Vision) -> Any:
    """transformers' configuration of the tower, of as many blocks as are kept."""
    from transformers import CLIPVisionConfig, SiglipVisionConfig

    if config.family == "auto":
        folder = source_of(config)
        if config.weights and folder == Path(config.weights):
            require(folder, "vision")
        _check_auto(config, folder)
        shape = published(read_encoder(folder))
        if shape.model_type not in STAGED:
            shape.num_hidden_layers = config.depth
        return shape
    content = read_config(Path(config.weights), config.family) if config.weights else {}
    check_shape(config, content)
    options = {hf: getattr(config, ours) for ours, hf in NAMES.items()}
    options |= {key: content[key] for key in ("hidden_act", "layer_norm_eps") if key in content}
    options |= {"num_hidden_layers": config.depth, "attention_dropout": 0.0}
    return CLIPVisionConfig(**options) if config.family == "clip" else SiglipVisionConfig(**options)


def _check_auto(config: Vision, folder: Path) -> None:
    """UserError where the numbers are not the folder's: `config.encoder` reads them from there."""
    shape = read_shape(folder)
    for name in ("patch", "width", "heads", "mlp_width"):
        if getattr(config, name) != getattr(shape, name):
            raise UserError(
                f"model.vision.{name} is {getattr(config, name)}, but {folder}/config.json says "
                f"{getattr(shape, name)}: leave the number out."
            )
    if config.depth > shape.depth:
        raise UserError(f"model.vision.depth is {config.depth}, but {folder} has only {shape.depth} blocks.")


def _build(kind: Any, shape: Any) -> Any:
    attention = "sdpa" if kind._supports_sdpa else "eager"
    return kind._from_config(shape, attn_implementation=attention)


def _without_head(tower: Any) -> Any:
    """The tower without its final norm, whose place the trained vision_norm takes, and without what pools tokens."""
    for name in NORMS:
        if isinstance(getattr(tower, name, None), nn.Module):
            setattr(tower, name, nn.Identity())
    if getattr(tower, "pooler", None) is not None:
        tower.pooler = None
    if getattr(tower, "use_head", False):
        tower.use_head = False
        del tower.head
    return tower


def _skipped(shape: Any) -> tuple[int, int]:
    """From which token to which is left out."""
    if shape.model_type == "dinov3_convnext":
        return 0, 1
    return 1, 1 + int(getattr(shape, "num_register_tokens", None) or 0)


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one image: tokens, and floating point operations of the matrix products, in all and of each block."""

    tokens: int
    flops: float
    blocks: tuple[float, ...]


@lru_cache(maxsize=16)
def measure(config: Vision) -> Measured:
    """By one pass without memory. UserError where the tower does not see pictures of this size."""
    with torch.device("meta"):
        encoder = HfVision(config)
        pixels = torch.zeros(1, 3, config.image_size, config.image_size)
    # indices that transformers keeps from pass to pass must have values: they are made on the CPU
    with torch.device("cpu"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        try:
            tokens = encoder(pixels)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"model.vision.image_size: this encoder does not see pictures of {config.image_size} pixels a side "
                f"({error}). Give the size that it was published with."
            ) from error
    if tokens.shape[2] != config.width:
        raise UserError(f"model.vision.width is {config.width}, but the encoder gives {tokens.shape[2]} channels.")
    counts = {name: float(sum(ops.values())) for name, ops in counter.get_flop_counts().items()}
    names = {id(module): name for name, module in encoder.named_modules()}
    blocks = tuple(counts.get(f"HfVision.{names[id(block)]}", 0.0) for block in encoder.blocks)
    return Measured(tokens.shape[1], counts["Global"], blocks)


def published_class(folder: Path, tower: type) -> tuple[Any, str]:
    """The whole model whose weights a folder holds, of all its blocks, and before which names its tower stands.

    That of the class that config.json names, where this has a tower of the class `tower`; else the tower alone.
    """
    import transformers
    from transformers import CONFIG_MAPPING

    content = read_object(folder / CONFIG)
    names = [str(name) for name in content.get("architectures") or ()]
    whole = getattr(transformers, names[0], None) if names else None
    if inspect.isclass(whole) and issubclass(whole, transformers.PreTrainedModel):
        plain = {key: value for key, value in content.items() if key not in ("auto_map", "dtype", "torch_dtype")}
        shape = CONFIG_MAPPING[str(content["model_type"])].from_dict(plain)
        model = whole._from_config(shape)
        inside = [name for name, module in model.named_modules() if type(module) is tower]
        if inside:
            return model, f"{inside[0]}." if inside[0] else ""
    return tower._from_config(published(read_encoder(folder))), ""  # type: ignore[attr-defined]


def _inner(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, list | tuple) else value)


def _described(shape: Any) -> str:
    said = {key: value for key, value in shape.to_dict().items() if key not in UNNAMED}
    return json.dumps(said, sort_keys=True, default=str)


def read_config(folder: Path, family: str) -> dict[str, Any]:
    """The vision part of a Hugging Face folder's config.json. UserError if there is none, or of another family."""
    path = folder / "config.json"
    require(folder, "vision")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.vision.weights: cannot read {path} ({error}). Give a folder with config.json and model.safetensors."
        ) from error
    kind = encoder_type(content)
    if kind in TAKEN and kind != f"{family}_vision_model":
        raise UserError(
            f"model.vision.weights: {folder} holds an image encoder of another family ({TAKEN[kind]}): set "
            "model.vision.family=auto, and leave out the numbers of its shape."
        )
    vision: dict[str, Any] = content.get("vision_config", content)
    return vision


def check_shape(config: Vision, published: dict[str, Any]) -> None:
    """Raises UserError where our numbers are not those of config.json (absent numbers say nothing)."""
    for ours, hf in NAMES.items():
        if hf in published and published[hf] != getattr(config, ours):
            raise UserError(
                f"model.vision.{ours} is {getattr(config, ours)}, but {config.weights}/config.json says "
                f"{hf} {published[hf]}: set model.vision.{ours}={published[hf]}."
            )
    layers = published.get("num_hidden_layers", config.depth)
    if config.depth > layers:
        raise UserError(f"model.vision.depth is {config.depth}, but {config.weights} has only {layers} blocks.")
