"""What both stages' models share: a frozen image encoder, the trained norm after it, and the Q-Former.

n images, p image tokens, c image width.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MethodType

import torch
from torch import Tensor, nn

from vglm_train.batch import Batch
from vglm_train.model.norm import LayerNorm
from vglm_train.model.qformer import kernels
from vglm_train.model.qformer.cuda_graphs import PassGraphs
from vglm_train.model.qformer.layers import Block
from vglm_train.model.qformer.qformer import Keys, QFormer
from vglm_train.model.vision import VisionEncoder


class VisualModel(nn.Module):
    """From pixels to the Q-Former's keys. Each stage's model continues from the queries."""

    mean: Tensor
    std: Tensor
    rates: Mapping[str, float] = {}  # parameter name -> factor of its learning rate, where that is not 1

    def __init__(self, vision: VisionEncoder, qformer: QFormer, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.vision = vision
        self.vision_norm = LayerNorm(vision.width, 1e-5)
        self.qformer = qformer
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[n,3,h,w] -> frozen features [n,p,c] without gradient, in the encoder's dtype.

        uint8 pixels are normalised here, on the device; floating point ones are taken as normalised.
        """
        if pixels.dtype == torch.uint8:
            pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format)  # planes
            pixels = pixels.div_(255).sub_(self.mean).div_(self.std)
        tokens: Tensor = self.vision(pixels)
        return tokens

    def image_features(self, batch: Batch) -> Tensor:
        """Frozen features [n,p,c] of a batch's pictures: stored ones that came with it, or the encoder's."""
        return self.encode_image(batch.pixels) if batch.features is None else batch.features

    def image_keys(self, features: Tensor, beside: bool = False) -> Keys:
        """Frozen features [n,p,c], normed and projected for every pass of the Q-Former over these images.

        `beside`: see `QFormer.image_keys`.
        """
        weight = self.vision_norm.weight
        return self.qformer.image_keys(self.vision_norm(features.to(weight.dtype)), beside)

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of all that trains, in the module's order."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def stacks(self) -> list[Sequence[nn.Module]]:
        """The blocks of the frozen towers, in the order in which they run; some of the image encoder's may train."""
        return [self.vision.encoder.blocks]

    def recompute(self, on: bool) -> None:
        """Whether the Q-Former's activations are computed again in backward instead of kept."""
        self.qformer.recompute = on

    def compile_blocks(self) -> None:
        """torch.compile the Q-Former's blocks in place. Weights keep their names.

        The frozen encoder is not compiled: its time is spent in matrix products, which compiling does not change.
        """
        kernels.ask_once()
        # one function for all blocks: each pass, with and without gradient, compiles once and not once a block
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        forward = torch.compile(Block.forward, dynamic=False)
        for block in self.qformer.blocks:
            block.forward = MethodType(forward, block)  # type: ignore[method-assign]

    def graph_passes(self) -> None:
        """Record the Q-Former's passes over images and text, with their gradients, as CUDA graphs while it trains."""
        self.qformer.graphs = PassGraphs(self.qformer.blocks)

    def record_nothing(self) -> None:
        """Launch what is frozen kernel by kernel, too."""
        self.vision.recorder.on = False
