"""Gradient caching (Gao et al. 2021, arXiv:2101.06983): ITC over more pairs than run at once.

A group is what ITC compares, `objective.itc.batch` rows of all ranks: several micro-batches of each. A first pass
embeds them one after the other. ITC of all embeddings gives each its gradient. The second pass runs the micro-batches
again, with the same dropout, and sends these gradients on.

R rows of this rank in the group, B of all ranks, b of a micro-batch, q queries, e embedding width, p image tokens, c
image width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vglm_train.autograd import apply
from vglm_train.batch import PairBatch
from vglm_train.distributed import Ranks, Requests
from vglm_train.objective.contrastive_tiles import Pairs, gradients, merge, scan
from vglm_train.objective.rows import gather_in_order, gather_rows


@dataclass(frozen=True, slots=True)
class Contrast:
    """What ITC says of R rows, or of those of a micro-batch. Gradients and losses are None where ITC has no weight."""

    text: Tensor  # [R] int64: the hard negative of each image, one of the B rows
    image: Requests  # the hard negative of each text: its image
    losses: Tensor | None = None  # [R], mean of both directions, 0 for damaged rows
    right: Tensor | None = None  # [R]: in how many of the two directions a positive came first
    grads: tuple[Tensor, Tensor, Tensor] | None = None  # of images [R,q,e], texts [R,e] and the temperature [1]

    def part(self, number: int, of: int) -> "Contrast":
        """Of micro-batch `number`. Each has an equal part of the temperature's gradient."""
        b = len(self.text) // of
        rows = slice(number * b, (number + 1) * b)
        if self.losses is None or self.right is None or self.grads is None:
            return Contrast(self.text[rows], self.image.part(rows))
        images, texts, temperature = self.grads
        grads = images[rows], texts[rows], temperature / of
        return Contrast(self.text[rows], self.image.part(rows), self.losses[rows], self.right[rows], grads)

    def sum(self, image: Tensor, text: Tensor, temperature: Tensor) -> Tensor:
        """ITC's sum over these rows [], whose gradient goes to image [b,q,e], text [b,e] and temperature [1]."""
        assert self.losses is not None
        total: Tensor = apply(_Known, self.losses.sum(), self.grads, image, text, temperature)
        return total


class Group:
    """This rank's micro-batches whose rows are compared with each other and with those of all ranks."""

    def __init__(self, batches: Sequence[PairBatch], ranks: Ranks) -> None:
        self.batches, self.ranks = batches, ranks
        self.rows = gather_rows(batches, ranks)
        self.features: list[Tensor] = []  # [b,p,c] of each micro-batch, kept from the first pass on
        self.contrast: Contrast | None = None

    def has_negative(self, number: int) -> Tensor:
        """Which rows of micro-batch `number` are valid and have a possible negative [b] bool."""
        rows, b = self.rows, len(self.batches[number].valid)
        least, most = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
        first = rows.image_ids.masked_fill(~rows.valid, most).min()
        last = rows.image_ids.masked_fill(~rows.valid, least).max()
        own = rows.own[number * b : (number + 1) * b]
        ids = rows.image_ids[own]
        return rows.valid[own] & ((ids != first) | (ids != last))

    def embed(self, embed: Callable[[PairBatch], tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The first pass -> images [R,q,e], texts [R,e].

        embed: a micro-batch -> features [b,p,c], images [b,q,e], texts [b,e], without gradient.
        """
        images = texts = None
        for number, batch in enumerate(self.batches):
            features, image, text = embed(batch)
            self.features.append(features)
            if images is None or texts is None:  # one buffer from the start: joining parts would need two
                images, texts = (x.new_empty(len(self.batches), *x.shape) for x in (image, text))
            images[number], texts[number] = image, text
        assert images is not None
        assert texts is not None
        return images.flatten(0, 1), texts.flatten(0, 1)

    def compare(
        self,
        images: Tensor,
        texts: Tensor,
        temperature: Tensor,
        *,
        smoothing: float | None,
        seed: int | None,
        tf32: bool,
    ) -> None:
        """Set `contrast` by what the first pass embedded: images [R,q,e], texts [R,e].

        smoothing: None where ITC has no weight; seed: None where ITM has none; tf32: as of `Pairs`.
        """
        rows = self.rows
        everyone = gather_in_order(texts, len(self.batches), self.ranks)
        pairs = Pairs(
            images=images, texts=everyone, own=rows.own, image_ids=rows.image_ids, valid=rows.valid,
            temperature=temperature.detach(), first_row=rows.first_row, tf32=tf32,
        )  # fmt: skip
        of_images, of_texts = scan(pairs, seed)
        of_texts = merge(self.ranks.gather(of_texts.stacked()), images)
        text = of_images.negative.long()
        image = self.ranks.request(self._exchanged(of_texts.negative[rows.own].long()))
        if smoothing is None:
            self.contrast = Contrast(text, image)
            return
        image_grad, text_grad, temperature_grad = gradients(pairs, of_images, of_texts, smoothing)
        grads = image_grad, self.ranks.all_sum(text_grad)[rows.own], temperature_grad
        own, valid = rows.own, rows.valid[rows.own]
        losses = [x.losses(rows.valid.sum(), smoothing) for x in (of_images, of_texts)]
        both = torch.where(valid, (losses[0] + losses[1][own]) / 2, 0)
        right = (of_images.right + of_texts.right[own]) * valid
        self.contrast = Contrast(text, image, both, right, grads)

    def _exchanged(self, rows: Tensor) -> Tensor:
        """Rows among the B as `Ranks.request` counts them: those of rank 0, then those of rank 1."""
        world, b = self.ranks.world, len(self.batches[0].valid)
        return (rows // b % world * len(self.batches) + rows // (b * world)) * b + rows % b


class _Known(torch.autograd.Function):
    """A number that was computed before, and its gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: tuple[Tensor, ...], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, *(grad * known for known in ctx.saved_tensors)
