"""The demo's image encoder: a small EVA ViT trained on the training pictures, then frozen.

A random ViT shows colours but drowns shapes and places. So each patch of this one learns to tell of what stands on it
the colour, the shape, and on which side of the picture it is. It sees no sentence and no held-out picture.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.checkpoint.resume import save_tensors
from vglm_train.config.data import Image
from vglm_train.config.model import Vision
from vglm_train.folders import replace_path
from vglm_train.model.vision.eva import EvaVit

ON = 0.2  # share of a patch from which an object stands on it
OFF = 0.02  # share up to which nothing does; in between the patch is not asked
IGNORED = -100
SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Pictures:
    """n pictures with what stands where: pixels uint8 [n,3,h,w]; owners uint8 [n,h,w], 0 nothing, 1 and 2 the objects;
    labels by attribute, int64 [n,3] each: class of nothing (0) and of both objects (from 1)."""

    pixels: Tensor
    owners: Tensor
    labels: dict[str, Tensor]


class PatchReader(nn.Module):
    """The encoder, read through fixed directions, one a class.

    With them and smoothed targets every attribute ends up with the same share of the features. Learned heads let
    shapes, which take longest, fill nearly all of them, and a Q-Former then finds no colours for hundreds of steps.
    """

    directions: Tensor  # [classes of all attributes, c], orthonormal

    def __init__(self, config: Vision, classes: dict[str, int]) -> None:
        super().__init__()
        self.encoder = EvaVit(config)
        with torch.no_grad():
            self.encoder.positions[1:] = _waves(config)
        self.classes = classes
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.register_buffer("directions", nn.init.orthogonal_(torch.empty(sum(classes.values()), config.width)))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Normalised pixels [n,3,h,w] -> logits [n,p,classes] of every attribute."""
        read = self.norm(self.encoder(pixels)[:, 1:]) @ self.directions.T
        return dict(zip(self.classes, read.split(list(self.classes.values()), -1)))


def train_encoder(
    pictures: Pictures, config: Vision, image: Image, *, steps: int, seed: int, batch: int = 32, lr: float = 3e-3
) -> tuple[EvaVit, dict[str, float]]:
    """The trained encoder, and of its last tenth of steps the share of objects' patches that tell each attribute."""
    torch.manual_seed(seed)
    reader = PatchReader(config, {name: int(labels.max()) + 1 for name, labels in pictures.labels.items()})
    optimizer = torch.optim.AdamW(reader.parameters(), lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rise_and_fall(step, steps))
    told, asked = dict.fromkeys(pictures.labels, 0), 0
    for step, (pixels, covered, rows) in enumerate(_batches(pictures, config, image, steps, batch, seed)):
        owner = _owners(covered)
        true = {name: labels[rows].gather(1, owner.clamp(min=0)) for name, labels in pictures.labels.items()}
        says = reader(pixels)
        loss = torch.stack([_told_loss(says[name], true[name], owner) for name in says]).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step >= 0.9 * steps:
            on = owner > 0
            asked += int(on.sum())
            for name, logits in says.items():
                told[name] += int(((logits.argmax(-1) == true[name]) & on).sum())
    return reader.encoder, {name: right / max(1, asked) for name, right in told.items()}


def _rise_and_fall(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over 50 steps, then half a cosine to a tenth."""
    return min(1.0, (step + 1) / 50) * (0.55 + 0.45 * math.cos(math.pi * step / steps))


def _told_loss(says: Tensor, true: Tensor, owner: Tensor) -> Tensor:
    """Mean cross-entropy over the clear patches: logits [b,p,k], classes [b,p], owners [b,p]."""
    asked = true.masked_fill(owner < 0, IGNORED).flatten()
    return F.cross_entropy(says.flatten(0, 1), asked, ignore_index=IGNORED, label_smoothing=SMOOTHING)


def _batches(
    pictures: Pictures, config: Vision, image: Image, steps: int, batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Normalised pixels [b,3,s,s], share of each patch that each object covers [b,2,p], and the rows [b]."""
    generator = torch.Generator().manual_seed(seed)
    mean, std = (torch.tensor(values)[:, None, None] for values in (image.mean, image.std))
    side, grid = pictures.owners.shape[-1], config.image_size // config.patch
    for _ in range(steps):
        rows = torch.randint(len(pictures.pixels), (batch,), generator=generator)
        low, high = image.crop_scale
        crop = int(side * math.sqrt(low + (high - low) * float(torch.rand((), generator=generator))))
        top, left = (int(torch.randint(side - crop + 1, (), generator=generator)) for _ in range(2))
        window = (..., slice(top, top + crop), slice(left, left + crop))
        pixels = pictures.pixels[rows][window].float() / 255
        owners = pictures.owners[rows][window]
        pixels = F.interpolate(pixels, (config.image_size,) * 2, mode="bilinear", antialias=True)
        covered = F.interpolate(torch.stack((owners == 1, owners == 2), 1).float(), (grid, grid), mode="area")
        yield (pixels - mean) / std, covered.flatten(2), rows


def _owners(covered: Tensor) -> Tensor:
    """Shares [b,2,p] -> what stands on each patch [b,p]: 0 nothing, 1 or 2 an object, -1 too little to be asked."""
    most, which = covered.max(1)
    return torch.where(most >= ON, which + 1, torch.where(most <= OFF, 0, -1))


def _waves(config: Vision) -> Tensor:
    """Sines and cosines of each patch's column and row [p,c]: places to start from, as in MAE (arXiv:2111.06377)."""
    grid, quarter = config.image_size // config.patch, config.width // 4
    # few patches a side, so the slowest wave is 100 patches long, not 10,000
    angles = torch.arange(grid)[:, None] / 100 ** (torch.arange(quarter) / quarter)  # [grid,c/4]
    waves = torch.cat((angles.sin(), angles.cos()), 1)
    columns, rows = waves.repeat(grid, 1), waves.repeat_interleave(grid, 0)
    return 0.5 * torch.cat((columns, rows), 1)


def save_encoder(encoder: EvaVit, file: Path) -> None:
    """Write weights that model.vision.weights reads."""
    with replace_path(file) as new:
        save_tensors({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, new)
