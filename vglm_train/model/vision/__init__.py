"""Frozen image encoders: EVA, and CLIP and SigLIP of transformers."""

import torch

from vglm_train.config.model import Vision
from vglm_train.model.vision.base import VisionEncoder
from vglm_train.model.vision.eva import EvaVit
from vglm_train.model.vision.hf import HfVision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DTYPES["fp8"] = torch.bfloat16  # of what is not in eight bits

__all__ = ["VisionEncoder", "build_vision"]


def build_vision(config: Vision) -> VisionEncoder:
    """The frozen encoder of this shape, with random weights, on torch's current default device."""
    encoder = EvaVit(config) if config.family == "eva" else HfVision(config)
    return VisionEncoder(encoder, config.width, encoder.num_patches, DTYPES[config.dtype])
