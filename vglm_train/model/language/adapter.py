"""What is added to a frozen language model in order to train it a little."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.model.language.fp16_gradients import GradientScaling


class Adapter(nn.Module):
    """fp32 weights of few numbers inside a frozen model of any dtype, as a child of the module that it changes.

    `gate` is the way into the frozen model of the pass that runs, see `LanguageModel.gate`; none: a plain cast.
    """

    gate: GradientScaling | None = None

    def entered(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """A weight of this adapter in the dtype of what stands around it; its gradient comes back exact."""
        if self.gate is None or self.gate.dtype != dtype:
            return weight.to(dtype)
        return self.gate.enter(weight)


class Prefix(Adapter):
    """Keys and values of p places more that every place of one attention sees (P-tuning v2, arXiv:2110.07602).

    They stand behind all others, in no cache and at no position. b rows, h heads, t places, d width of a head.
    """

    def __init__(self, heads: int, length: int, width: int) -> None:
        super().__init__()
        self.length = length
        self.prefix_keys = nn.Parameter(torch.zeros(heads, length, width))
        self.prefix_values = nn.Parameter(torch.zeros(heads, length, width))

    def appended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [b,h,t,d] -> [b,h,t+p,d]."""
        own = (self.entered(weight, key.dtype) for weight in (self.prefix_keys, self.prefix_values))
        keys, values = (weight.expand(len(key), -1, -1, -1) for weight in own)
        return torch.cat((key, keys), 2), torch.cat((value, values), 2)

    def seen(self, mask: Tensor) -> Tensor:
        """A mask [...,t], boolean or added to the scores -> [...,t+p], by which every place sees the prefix."""
        return F.pad(mask, (0, self.length), value=float(mask.dtype == torch.bool))
