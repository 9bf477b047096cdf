"""CLIP and SigLIP image towers from transformers, without what follows their last block."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vglm_train.config.model import Vision
from vglm_train.errors import UserError
from vglm_train.model.vision.base import Encoder
from vglm_train.weights.identify import require

# our name -> config.json's, for the same number
NAMES = {
    "image_size": "image_size",
    "patch": "patch_size",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
}


class HfVision(Encoder):
    """The first `depth` blocks of a CLIP or SigLIP tower."""

    def __init__(self, config: Vision) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

        published = read_config(Path(config.weights)) if config.weights else {}
        check_shape(config, published)
        options = {hf: getattr(config, ours) for ours, hf in NAMES.items()}
        options |= {key: published[key] for key in ("hidden_act", "layer_norm_eps") if key in published}
        options |= {"num_hidden_layers": config.depth, "attention_dropout": 0.0, "attn_implementation": "sdpa"}
        tower: Any
        if config.family == "clip":
            tower = CLIPVisionModel(CLIPVisionConfig(**options))
        else:
            tower = SiglipVisionModel(SiglipVisionConfig(**options, vision_use_head=False))
        tower.post_layernorm = nn.Identity()  # the trained vision_norm takes its place
        self.tower = tower
        self.num_patches: int = tower.embeddings.num_positions

    @property
    def blocks(self) -> Sequence[nn.Module]:  # type: ignore[override]
        """The blocks that are kept, in order."""
        layers: Sequence[nn.Module] = self.tower.encoder.layers
        return layers

    def step(self, block: Any, x: Tensor) -> Tensor:
        """One of the blocks: [n,p,c] -> [n,p,c]."""
        hidden: Tensor = block(x, attention_mask=None)
        return hidden

    def stem(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [n,3,h,w] -> [n,p,c], what the first block reads."""
        x = self.tower.embeddings(pixels)
        normed: Tensor = self.tower.pre_layrnorm(x) if hasattr(self.tower, "pre_layrnorm") else x
        return normed

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [n,3,h,w] -> [n,p,c], the output of the last block kept."""
        tokens: Tensor = self.tower(pixel_values=pixels).last_hidden_state
        return tokens


def read_config(folder: Path) -> dict[str, Any]:
    """The vision part of a Hugging Face folder's config.json. Raises UserError if there is none to read."""
    path = folder / "config.json"
    require(folder, "vision")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.vision.weights: cannot read {path} ({error}). Give a folder with config.json and model.safetensors."
        ) from error
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
