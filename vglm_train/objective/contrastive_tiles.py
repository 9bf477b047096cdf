"""ITC over very many pairs: value, gradient and hard negatives without any B x B matrix in memory.

The images of this rank meet the texts of all ranks, tile by tile. One similarity serves both directions: along a row it
is an image among texts, along a column a text among images. A rank sees only its own images of a column, so `merge`
puts the ranks' statistics of the columns together. Two passes over the tiles: `scan` for the softmaxes' denominators
and the hard negatives, `gradients` in closed form from these.

R images of this rank, B texts of all ranks, q queries, e width of the embeddings. A tile is r images and c texts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import isqrt
from types import ModuleType
from typing import Self

import torch
from torch import Tensor

from vglm_train.model.launch import builds
from vglm_train.objective.contrastive import MASKED
from vglm_train.objective.matching import IMAGE_FOR_TEXT, TEXT_FOR_IMAGE, gumbel_noise

TILE = 2**26  # cosines of queries and texts held at once: 256 MiB in fp32
SCANNED = 8  # values of a pair that `scan` holds once its cosines are gone: logits, and on a CPU noise of 64 bits
Two = tuple[Tensor, Tensor]  # of a tile's images [r] and of its texts [c]


def tile_bytes(pairs: float, queries: int) -> float:
    """Of a tile at most, with what else is computed of it, where so many pairs are compared."""
    return 8 * min(TILE, pairs * max(SCANNED, queries))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """What is compared: own images with all texts, and which of the B pairs each image is of."""

    images: Tensor  # [R,q,e] unit vectors
    texts: Tensor  # [B,e] unit vectors
    own: Tensor  # [R] int64: the images' pairs
    image_ids: Tensor  # [B] int64: equal ones are positives
    valid: Tensor  # [B] bool
    temperature: Tensor  # [1]
    first_row: int  # position of pair 0 in the stream; the others follow it
    tf32: bool = False  # products on tensor cores, where the embeddings come of bf16 anyway
    tile: int = TILE

    def tiles(self, values: int) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each tile. values: how many of them are held of each pair in it."""
        columns = min(len(self.texts), isqrt(self.tile))
        for row in _slices(slice(0, len(self.images)), self.tile // (values * columns)):
            for column in _slices(slice(0, len(self.texts)), columns):
                yield row, column

    def cosines(self, rows: slice, columns: slice) -> Tensor:
        """Of every query: [r,q,c]."""
        images = self.images[rows]
        return (images.flatten(0, 1) @ self.texts[columns].T).view(*images.shape[:2], -1)

    def best(self, rows: slice, columns: slice) -> Tensor:
        """Of the best query: [r,c]."""
        number = self.tile // (self.images.shape[1] * len(self.texts[columns]))
        return torch.cat([self.cosines(part, columns).amax(1) for part in _slices(rows, number)])

    def same(self, rows: slice, columns: slice) -> Tensor:
        """Which show the same picture: [r,c] bool."""
        return self.image_ids[self.own[rows]][:, None] == self.image_ids[columns]

    def both_valid(self, rows: slice, columns: slice) -> Tensor:
        """Which may be compared: [r,c] bool."""
        return self.valid[self.own[rows]][:, None] & self.valid[columns]


@dataclass(slots=True)
class Statistics:
    """Of n anchors, over the candidates seen so far; [n] each. Only `score` and `negative` leave out positives."""

    top: Tensor  # the largest logit
    mass: Tensor  # sum of exp(logit - top)
    total: Tensor  # sum of the logits
    positive: Tensor  # sum of the logits of positives
    positives: Tensor  # their number
    right: Tensor  # 1 where `top` is of a positive, else 0
    score: Tensor  # the largest logit plus noise
    negative: Tensor  # the pair that it is of, float64

    @classmethod
    def empty(cls, n: int, like: Tensor) -> Self:
        made = {field.name: like.new_zeros(n) for field in fields(cls)}
        made |= {"top": like.new_full((n,), MASKED), "score": like.new_full((n,), float("-inf"))}
        return cls(**{**made, "negative": made["negative"].double()})

    def add(self, anchors: slice, logits: Tensor, positive: Tensor, known: Tensor, dim: int) -> None:
        """Candidates of the anchors of a tile [r,c], along `dim`.

        logits: MASKED where one of the two is not valid; positive: bool; known: logits, of those that are not valid 0.
        """
        before, (best, where) = self.top[anchors], logits.max(dim)
        top = torch.maximum(before, best)
        right = positive.gather(dim, where.unsqueeze(dim)).squeeze(dim).to(logits.dtype)
        self.right[anchors] = torch.where(best > before, right, self.right[anchors])
        mass = (logits - top.unsqueeze(dim)).exp_().sum(dim)
        self.mass[anchors] = self.mass[anchors] * torch.exp(before - top) + mass
        self.top[anchors] = top
        self.total[anchors] += known.sum(dim)
        self.positives[anchors] += positive.sum(dim)

    def sample(self, anchors: slice, scores: Tensor, candidates: Tensor, dim: int) -> None:
        """Keep the best negative along `dim`. scores [r,c]: logit plus noise, -inf if it is none; candidates: pairs."""
        score, where = scores.max(dim)
        better = score > self.score[anchors]
        self.score[anchors] = torch.where(better, score, self.score[anchors])
        self.negative[anchors] = torch.where(better, candidates[where].double(), self.negative[anchors])

    def stacked(self) -> Tensor:
        """[1,8,n] float64: one part for `merge`."""
        return torch.stack([getattr(self, field.name).double() for field in fields(self)])[None]

    def log_mass(self) -> Tensor:
        """Logarithm of the softmax's denominator."""
        return self.top + self.mass.log()

    def losses(self, candidates: Tensor, smoothing: float) -> Tensor:
        """Cross entropy with soft targets of each anchor [n], of no meaning for one without a positive.

        candidates []: number of valid ones.
        """
        positive = self.positive / self.positives.clamp(min=1)
        return self.log_mass() - (1 - smoothing) * positive - smoothing * self.total / candidates


def merge(parts: Tensor, like: Tensor) -> Statistics:
    """Statistics over all candidates from those over parts of them, `Statistics.stacked`: [parts,8,n]."""
    of = dict(zip([field.name for field in fields(Statistics)], parts.unbind(1), strict=True))
    top, best = of["top"].max(0)
    score, chosen = of["score"].max(0)
    whole = {name: of[name].sum(0) for name in ("total", "positive", "positives")}
    whole |= {"top": top, "score": score, "mass": (of["mass"] * torch.exp(of["top"] - top)).sum(0)}
    whole["right"] = of["right"].gather(0, best[None])[0]
    whole = {name: value.to(like.dtype) for name, value in whole.items()}
    return Statistics(**whole, negative=of["negative"].gather(0, chosen[None])[0])


@torch.no_grad()
def scan(pairs: Pairs, seed: int | None) -> tuple[Statistics, Statistics]:
    """Statistics of own images among all texts [R], and of all texts among own images [B].

    seed: of the noise by which hard negatives are sampled; None: none are. The noise is a function of the seed and of
    both pairs' positions in the stream, so neither tiles nor ranks change what is sampled.
    """
    images, texts = (Statistics.empty(len(x), pairs.images) for x in (pairs.images, pairs.texts))
    index = torch.arange(len(pairs.texts), device=pairs.texts.device)
    with _products(pairs.tf32):
        for rows, columns in pairs.tiles(SCANNED):
            logits = pairs.best(rows, columns).div_(pairs.temperature)
            same, valid = pairs.same(rows, columns), pairs.both_valid(rows, columns)
            positive, known = same & valid, logits.masked_fill(~valid, 0)
            logits.masked_fill_(~valid, MASKED)
            images.add(rows, logits, positive, known, 1)
            texts.add(columns, logits, positive, known, 0)
            of_positives = known.masked_fill_(~positive, 0)
            images.positive[rows] += of_positives.sum(1)
            texts.positive[columns] += of_positives.sum(0)
            if seed is None:
                continue
            own, other = pairs.own[rows], index[columns]
            logits.masked_fill_(same | ~valid, float("-inf"))  # what is left is a possible negative
            places = pairs.first_row + own, pairs.first_row + other
            images.sample(rows, gumbel_noise(seed, TEXT_FOR_IMAGE, *places).add_(logits), other, 1)
            texts.sample(columns, gumbel_noise(seed, IMAGE_FOR_TEXT, *reversed(places)).T.add_(logits), own, 0)
    return images, texts


@torch.no_grad()
def gradients(pairs: Pairs, images: Statistics, texts: Statistics, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of ITC's sum over all valid pairs, in closed form, through own images alone: the sum over ranks is the whole.

    images [R] and texts [B]: `scan`'s, the texts' merged over all ranks.
    Returns the gradients of own images [R,q,e], all texts [B,e] and the temperature [1].
    """
    image_grad, text_grad = torch.zeros_like(pairs.images), torch.zeros_like(pairs.texts)
    temperature_grad = torch.zeros_like(pairs.temperature, dtype=torch.float64)
    log_mass, share = zip(*((x.log_mass(), (1 - smoothing) / x.positives.clamp(min=1)) for x in (images, texts)))
    even = 2 * smoothing / pairs.valid.sum().clamp(min=1).to(pairs.images.dtype)
    ids, valid = (pairs.image_ids[pairs.own], pairs.image_ids), (pairs.valid[pairs.own], pairs.valid)
    by_cosines = _by_cosines if (built := _kernels_for(pairs.images)) is None else built.gradient_of_cosines
    with _products(pairs.tf32):
        for rows, columns in pairs.tiles(pairs.images.shape[1]):
            cosines = pairs.cosines(rows, columns)
            of = [(of_images[rows], of_texts[columns]) for of_images, of_texts in (ids, valid, log_mass, share)]
            temperature_grad -= by_cosines(cosines, of[0], of[1], of[2], of[3], even, pairs.temperature)
            chosen = cosines.flatten(0, 1)  # [rq,c]
            image_grad[rows].flatten(0, 1).addmm_(chosen, pairs.texts[columns])
            text_grad[columns].addmm_(chosen.T, pairs.images[rows].flatten(0, 1))
            del cosines, chosen  # before the next tile's
    return image_grad, text_grad, temperature_grad.to(pairs.temperature.dtype)


def _by_cosines(
    cosines: Tensor, ids: Two, valid: Two, log_mass: Two, share: Two, even: Tensor, temperature: Tensor
) -> Tensor:
    """Put in place of cosines [r,q,c] their gradients; returns the sum of gradient times logit [] float64.

    The others: of the tile's images [r] and texts [c]; even []: what all targets have.
    """
    best, query = cosines.max(1)
    logits = best / temperature
    # by the logits: of both directions' mean, softmax less target
    target = torch.where(ids[0][:, None] == ids[1], share[0][:, None] + share[1], 0) + even
    softmax = (logits - log_mass[0][:, None]).exp_() + (logits - log_mass[1]).exp_()
    by_cosine = (softmax - target).masked_fill_(~(valid[0][:, None] & valid[1]), 0).div_(2 * temperature)
    cosines.zero_().scatter_(1, query[:, None], by_cosine[:, None])
    return (by_cosine * logits).sum(dtype=torch.float64)


def _kernels_for(x: Tensor) -> ModuleType | None:
    return _kernels() if x.is_cuda and x.dtype == torch.float32 else None


@builds("ITC over many pairs is slower")
def _kernels() -> ModuleType:
    from vglm_train.objective import contrastive_triton

    one, same = torch.ones(1, device="cuda"), torch.ones(1, dtype=torch.int64, device="cuda")
    ones, ids = (one, one), (same, same)
    contrastive_triton.gradient_of_cosines(one.view(1, 1, 1), ids, (same == 1, same == 1), ones, ones, one[0], one)
    return contrastive_triton


def _slices(whole: slice, size: int) -> Iterator[slice]:
    """`whole` in parts of `size`, and of 1 at least."""
    for start in range(whole.start, whole.stop, max(1, size)):
        yield slice(start, min(start + max(1, size), whole.stop))


@contextmanager
def _products(tf32: bool) -> Iterator[None]:
    """fp32 products within it may run as TF32, which rounds their factors to 11 bits; bf16 has 8."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
