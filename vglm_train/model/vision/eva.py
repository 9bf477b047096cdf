"""EVA ViT as BLIP-2 uses it (EVA, arXiv:2211.07636): pre-norm blocks, no bias on keys, no final norm.

n images, p tokens (class token first), c channels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.config.model import Vision
from vglm_train.model.vision import in_place
from vglm_train.model.vision.attention import attend
from vglm_train.model.vision.base import Encoder
from vglm_train.model.vision.fp8 import Fp8Linear, Rows, gelu_rows, norm_rows
from vglm_train.model.vision.fused import add_norm, gelu_linear

EPS = 1e-6
WIDE = 4  # blocks whose MLP stays in bf16 where the rest is in eight bits: see `fp8`
Normed = Tensor | Rows


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, eight_bits: bool) -> None:
        super().__init__()
        self.heads = heads
        # the key third of the bias is zero in every published EVA; a constant on all keys changes no attention
        self.qkv = Fp8Linear(width, 3 * width) if eight_bits else nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)  # quantising what it reads would take as long as it saves

    def forward(self, normed: Normed) -> Tensor:
        qkv: Tensor = self.qkv(normed)
        output: Tensor = self.output(attend(qkv, self.heads))
        return output


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, eight_bits: bool) -> None:
        super().__init__()
        linear = Fp8Linear if eight_bits else nn.Linear
        self.up = linear(width, hidden)
        self.down = linear(hidden, width)

    def forward(self, x: Normed) -> Tensor:
        if isinstance(x, Rows):
            assert isinstance(self.up, Fp8Linear)
            hidden: Normed = gelu_rows(self.up, x)
        else:
            hidden = gelu_linear(self.up, x)
        output: Tensor = self.down(hidden)
        return output


class Block(nn.Module):
    def __init__(self, config: Vision, number: int) -> None:
        super().__init__()
        width, eight_bits = config.width, config.dtype == "fp8"
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attention = Attention(width, config.heads, eight_bits)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = Mlp(width, config.mlp_width, eight_bits and number >= WIDE)

    def forward(self, x: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both parts of the block's output, whose sum the next block takes together with its first norm."""
        x, normed = _add_norm(x, added, self.norm1, self.attention.qkv)
        x, normed = _add_norm(x, self.attention(normed), self.norm2, self.mlp.up)
        return x, self.mlp(normed)


def _add_norm(x: Tensor, added: Tensor | None, norm: nn.LayerNorm, reader: nn.Linear) -> tuple[Tensor, Normed]:
    """As `add_norm`, with the norm as `reader` multiplies it."""
    if isinstance(reader, Fp8Linear) and reader.active:
        return norm_rows(x, added, norm)
    return add_norm(x, added, norm)


class EvaVit(Encoder):
    """EVA ViT of any size; g/14 is 1408 wide, 40 blocks deep (BLIP-2 keeps 39), 16 heads, 6144 in the MLP.

    An ordinary trainable module: `VisionEncoder` freezes it.
    """

    fused = True
    recordable = True

    def __init__(self, config: Vision) -> None:
        super().__init__()
        width, patch = config.width, config.patch
        self.patch = patch
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(1 + (config.image_size // patch) ** 2, width))
        blocks = nn.ModuleList(Block(config, number) for number in range(config.depth))
        self.blocks: Sequence[Block] = blocks  # type: ignore[assignment]
        self.reset()

    @property
    def num_patches(self) -> int:
        return self.positions.shape[0]

    @torch.no_grad()
    def reset(self) -> None:
        """EVA's initialisation: normal of 0.02 cut at two, residual outputs scaled down with depth."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        for number, block in enumerate(self.blocks, 1):
            block.attention.output.weight.div_(math.sqrt(2 * number))
            block.mlp.down.weight.div_(math.sqrt(2 * number))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [n,3,h,w] -> [n,p,c], the output of the last block."""
        x, added = self.stem(pixels), None
        if in_place.applies(self.blocks, x):
            return in_place.run(self.blocks, x)
        for block in self.blocks:
            x, added = block(x, added)
        return x if added is None else x + added

    def tuned(self, pixels: Tensor, trained: Sequence[nn.Module]) -> Tensor:
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            x = self.stem(pixels)
            for block in self.blocks[: -len(trained)]:
                x = self.step(block, x)
        x = x.float()
        for block in self.blocks[-len(trained) :]:
            x = self.step(block, x)
        return x

    def step(self, block: Block, x: Tensor) -> Tensor:
        """One of the blocks: [n,p,c] -> [n,p,c]."""
        x, added = block(x)
        total: Tensor = x + added
        return total

    def stem(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [n,3,h,w] -> [n,p,c], what the first block reads."""
        n, _, h, w = pixels.shape
        s = self.patch
        # a convolution with stride = kernel is a matrix product over cut patches, and faster as one
        cut = pixels.view(n, 3, h // s, s, w // s, s).permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 3 * s * s)
        x = F.linear(cut, self.patches.weight.flatten(1), self.patches.bias)
        return torch.cat((self.class_token.expand(n, 1, -1), x), 1) + self.positions  # [n,p,c]
