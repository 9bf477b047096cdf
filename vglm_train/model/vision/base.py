"""The contract of every image encoder: frozen for good, in its own dtype."""

from typing import Self

import torch
from torch import Tensor, nn


class VisionEncoder(nn.Module):
    """A frozen image encoder. Holds no gradient, no dropout and keeps its dtype whatever happens around it.

    `width` is the number of channels c of its output, `num_patches` the number of its tokens p
    (class token included, where there is one).
    """

    def __init__(self, encoder: nn.Module, width: int, num_patches: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = encoder.to(dtype).requires_grad_(False).eval()
        self.width, self.num_patches, self.dtype = width, num_patches, dtype

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: `model.train()` must not wake a frozen tower's dropout."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [n,3,h,w] -> [n,p,c] in the encoder's own dtype, before any final norm."""
        with torch.autocast(pixels.device.type, enabled=False):
            return self.encoder(pixels.to(self.dtype))
