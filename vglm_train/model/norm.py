"""Layer norm that does not break out of autocast's dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """LayerNorm with fp32 statistics whose output keeps autocast's dtype.

    Plain autocast runs layer norm in fp32 and hands on fp32, which doubles the bytes of everything between
    two matrix products. Outside autocast this is nn.LayerNorm.
    """

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return super().forward(x)
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            weight, bias = self.weight.to(dtype), self.bias.to(dtype)
            return F.layer_norm(x.to(dtype), self.normalized_shape, weight, bias, self.eps)
