"""Adapters: small trained modules inside a frozen language model."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.model.language.fp16_gradients import GradientScaling


class Adapter(nn.Module):
    """fp32 weights of few numbers inside a frozen model of any dtype, as a child of the module that it changes.

    `scaling` is the gradient scaling of the running forward pass, see `LanguageModel.gradient_scaling`; None: a plain
    cast.
    """

    scaling: GradientScaling | None = None

    def cast(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """A weight of this adapter in the frozen model's dtype. Its gradient comes back in fp32 and exact."""
        if self.scaling is None or self.scaling.dtype != dtype:
            return weight.to(dtype)
        return self.scaling.enter(weight)


class Prefix(Adapter):
    """p more keys and values that every token of one attention sees (P-tuning v2, arXiv:2110.07602).

    They come after all others, are in no cache and have no position. b rows, h heads, t tokens, d width of a head.
    """

    def __init__(self, heads: int, length: int, width: int) -> None:
        super().__init__()
        self.length = length
        self.prefix_keys = nn.Parameter(torch.zeros(heads, length, width))
        self.prefix_values = nn.Parameter(torch.zeros(heads, length, width))

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [b,h,t,d] -> [b,h,t+p,d]."""
        own = (self.cast(weight, key.dtype) for weight in (self.prefix_keys, self.prefix_values))
        keys, values = (weight.expand(len(key), -1, -1, -1) for weight in own)
        return torch.cat((key, keys), 2), torch.cat((value, values), 2)

    def extend_mask(self, mask: Tensor) -> Tensor:
        """A mask [...,t], boolean or added to the scores -> [...,t+p]: every token sees the prefix."""
        return F.pad(mask, (0, self.length), value=float(mask.dtype == torch.bool))
