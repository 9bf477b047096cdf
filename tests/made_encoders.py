"""Image encoders of transformers, small and random, as folders that their publishers could have written."""

import json
from pathlib import Path
from typing import Any

import torch

PLAIN = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48,
         "image_size": 32, "patch_size": 8}  # fmt: skip
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "image_size": 64}
WINDOWS = {"embed_dim": 8, "depths": [1, 2, 1], "num_heads": [1, 2, 2], "window_size": 4, "image_size": 64}
BIAS = {"use_relative_position_bias": True}
SHAPES: dict[str, dict[str, Any]] = {
    "aimv2_vision_model": PLAIN,
    "beit": {**PLAIN, **BIAS},
    "chinese_clip_vision_model": PLAIN,
    "clip_vision_model": PLAIN,
    "convnext": STAGES,
    "convnextv2": STAGES,
    "data2vec-vision": {**PLAIN, "use_shared_relative_position_bias": True},
    "deit": PLAIN,
    "dinov2": PLAIN,
    "dinov2_with_registers": {**PLAIN, "num_register_tokens": 4},
    "dinov3_convnext": STAGES,
    "dinov3_vit": {**PLAIN, "num_register_tokens": 4},
    "donut-swin": WINDOWS,
    "focalnet": {"embed_dim": 8, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "image_size": 64},
    "hiera": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "image_size": [64, 64]},
    "ijepa": PLAIN,
    "mlcd_vision_model": PLAIN,
    "pixio": PLAIN,
    "sapiens2": PLAIN,
    "siglip_vision_model": PLAIN,
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "tipsv2_vision_model": PLAIN,
    "vit": PLAIN,
    "vit_msn": PLAIN,
}
FIXED = {"aimv2_vision_model"}  # whose positions are of one size
PROCESSOR = {"image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"shortest_edge": 32},
             "resample": 3, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "do_rescale": True,
             "rescale_factor": 0.00392156862745098, "do_normalize": True, "do_convert_rgb": True,
             "image_mean": [0.5307, 0.5307, 0.5307], "image_std": [0.2583, 0.2583, 0.2583]}  # fmt: skip
"""RAD-DINO's, but for its sizes."""


def tower(kind: str, seed: int = 0, **changes: Any) -> Any:
    """transformers' model of it; no weight is zero or one, so that each has a say."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    shape = CONFIG_MAPPING[kind](**{**SHAPES[kind], **changes})
    torch.manual_seed(seed)
    return spoilt(MODEL_MAPPING[type(shape)]._from_config(shape))


def spoilt(model: Any) -> Any:
    """In eval mode, with noise on every weight."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def write(folder: Path, kind: str = "dinov2", processor: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A folder with such an encoder and an image processor of the same size."""
    return save(tower(kind, **changes), folder, processor)


def save(model: Any, folder: Path, processor: dict[str, Any] | None = None) -> Path:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR if processor is None else processor))
    return folder


def reference(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' own reading of a folder."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=dtype)
    return getattr(model, "vision_model", model).eval()
