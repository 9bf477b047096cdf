"""What is added to a frozen language model in order to train it a little."""

import torch
from torch import Tensor, nn

from vglm_train.model.language.gradient import HalfGate


class Adapter(nn.Module):
    """fp32 weights of few numbers inside a frozen model of any dtype, as a child of the module that it changes.

    `gate` is the way into the frozen model of the pass that runs, see `LanguageModel.gate`; none: a plain cast.
    """

    gate: HalfGate | None = None

    def entered(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """A weight of this adapter in the dtype of what stands around it; its gradient comes back exact."""
        if self.gate is None or self.gate.dtype != dtype:
            return weight.to(dtype)
        return self.gate.enter(weight)
