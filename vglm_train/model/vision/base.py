"""The contract of every image encoder: frozen in its own dtype, except for last blocks that a run may train."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from vglm_train.model.recorder import Recorder
from vglm_train.model.vision.fp8 import VERSION, Fp8Linear

# tokens x width x width, as a block's arithmetic: below, a block is launched slower than it runs (`python -m
# benchmarks.vision`); that of 64 pictures of ViT-g/14
LAUNCHED_SLOWER = 64 * 257 * 1408**2
KERNELS = 3  # 1: sums and norms in one kernel; 2: sums inside of the products as well; 3: attention of its own


class Encoder(nn.Module):
    """A stack of blocks over tokens. Calling it runs all of them."""

    blocks: Sequence[nn.Module]
    fused: bool = False  # whether a GPU computes it in fewer kernels in 16 bits, see `fused`
    recordable: bool = False  # whether it can be a CUDA graph: it waits for nothing, and its kernels depend on shapes

    def tuned(self, pixels: Tensor, trained: Sequence[nn.Module]) -> Tensor:
        """As calling it, normalised pixels [n,3,h,w] -> [n,p,c], where the last blocks, `trained`, are in fp32.

        These alone run with gradient, and under the autocast that surrounds the encoder.
        """
        raise NotImplementedError


class VisionEncoder(nn.Module):
    """A frozen image encoder, without gradient or dropout, in its own dtype even under autocast.

    After `train_last` this holds for the blocks below those that train, which are fp32 and run under autocast.

    `width` is the number of channels c of its output, `num_patches` the number of its tokens p
    (class token included, where there is one).
    """

    def __init__(self, encoder: Encoder, width: int, num_patches: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder: Encoder = _cast(encoder, dtype).requires_grad_(False).eval()
        self.width, self.num_patches, self.dtype = width, num_patches, dtype
        self.trained: list[nn.Module] = []
        self.recorder = Recorder()

    @property
    def fused(self) -> int:
        """Which version of a GPU's fused kernels, which round in other places, gives its numbers; 0: none."""
        on_gpu = next(self.encoder.parameters()).is_cuda
        return KERNELS if self.encoder.fused and on_gpu and self.dtype in (torch.float16, torch.bfloat16) else 0

    @property
    def fp8(self) -> int:
        """Which version of products in eight bits it has; 0: none."""
        return VERSION if any(isinstance(module, Fp8Linear) for module in self.encoder.modules()) else 0

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: `model.train()` must not switch on a frozen tower's dropout."""
        return super().train(False)

    def train_last(self, count: int) -> list[nn.Module]:
        """Let the last `count` blocks train, in fp32: gradients of fp16 weights would vanish. Returns them in order."""
        self.widen(count)
        for block in self.trained:
            block.requires_grad_(True)
        return self.trained

    def widen(self, count: int) -> None:
        """The last `count` blocks in fp32, since what was trained can be smaller than half precision resolves."""
        for block in self.trained:
            block.to(self.dtype)
        blocks = list(self.encoder.blocks)
        self.trained = [block.float() for block in blocks[len(blocks) - count :]]

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [n,3,h,w] -> [n,p,c] before any final norm, in the encoder's own dtype.

        Of an encoder with trained blocks in fp32, and with gradient.
        """
        pixels = pixels.to(self.dtype)
        return self.encoder.tuned(pixels, self.trained) if self.trained else self._frozen(pixels)

    @torch.no_grad()
    def _frozen(self, pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, enabled=False):
            if self.encoder.recordable and len(pixels) * self.num_patches * self.width**2 <= LAUNCHED_SLOWER:
                return self.recorder(self.encoder, [self.encoder], pixels)
            tokens: Tensor = self.encoder(pixels)
        return tokens


def _cast(encoder: Encoder, dtype: torch.dtype) -> Encoder:
    """In `dtype`, but for tables of modules without weights, such as the frequencies of rotary positions."""
    tables = [
        (module, name, table)
        for module in encoder.modules()
        for name, table in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set and next(module.parameters(), None) is None
    ]
    encoder.to(dtype)
    for module, name, table in tables:
        setattr(module, name, table)
    return encoder
