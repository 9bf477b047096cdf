"""Frozen image encoders: EVA, and those of transformers."""

import torch

from vglm_train.config.model import Vision
from vglm_train.config.validation import FieldError
from vglm_train.model.vision.base import VisionEncoder
from vglm_train.model.vision.eva import EvaVit
from vglm_train.model.vision.fp8 import has_fp8
from vglm_train.model.vision.hf import HfVision, measure, source_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DTYPES["fp8"] = torch.bfloat16  # of what is not in eight bits

__all__ = ["VisionEncoder", "build_vision", "check_card", "measure", "source_of"]


def build_vision(config: Vision) -> VisionEncoder:
    """The frozen encoder of this shape, with random weights, on torch's current default device."""
    encoder = EvaVit(config) if config.family == "eva" else HfVision(config)
    return VisionEncoder(encoder, config.width, encoder.num_patches, DTYPES[config.dtype])


def check_card(config: Vision, device: torch.device) -> None:
    """FieldError where training with this encoder makes no sense on `device`: see `fp8`."""
    if config.dtype != "fp8" or has_fp8(device):
        return
    found = "this machine would train on its CPU"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        found = f"this one is {torch.cuda.get_device_name(device)} of {major}.{minor}"
    reason = f"fp8 trains on NVIDIA's Hopper GPUs (H100, H200: compute capability 9.0), and {found}. Set bf16"
    raise FieldError("model.vision.dtype", reason=reason)
