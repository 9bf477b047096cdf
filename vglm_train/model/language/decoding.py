"""Generation, one token a step, for every family: greedy, sampled, or by beam search.

b prompts, r rows being generated (b, or b times the beams), t tokens generated, v vocabulary.
"""

from collections.abc import Callable
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.config.language import Decoding

OnToken = Callable[
    [Tensor], None
]  # called with the newest id of each row [b] int64, on the CPU, as soon as it is known
NEVER = -1e9  # the score of a beam that takes no part


class Decoder(Protocol):
    """What a family implements: logits, from a cache that it keeps.

    Rows may differ in the length of their prompts and, after `join`, in how far their answers are.
    """

    @property
    def joins(self) -> bool:
        """Whether `join` is possible: not for a model that gives all rows the same position."""
        ...

    def start(self) -> Tensor:
        """Read the prompts -> logits [b,v] of the first new ids. Called once."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """ids [r] int64 just chosen, one a row -> logits [r,v] of the next ones."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keep the cache's rows numbered `rows` [r'] int64, repeats allowed.

        Memory that only the other rows needed is freed.
        """
        ...

    def join(self, other: Self) -> None:
        """Put the rows of `other`, which has read its prompts, behind these. `other` is not used any more."""
        ...


def generate(decoder: Decoder, decoding: Decoding, end_id: int, pad_id: int, on_token: OnToken | None = None) -> Tensor:
    """New ids [b,t] int64, `pad_id` behind `end_id`; t is the longest answer's, at most `decoding.max_new`.

    Logits are taken in fp32. ValueError for `on_token` with beams: beam search knows its answer only at the end.
    """
    if decoding.beams == 1:
        return _generate_one(decoder, decoding, end_id, pad_id, on_token)
    if on_token is not None:
        raise ValueError("beam search cannot stream: it knows its answer only at the end")
    return BeamSearch(decoder, decoding, end_id, pad_id).run()


def _generate_one(decoder: Decoder, decoding: Decoding, end_id: int, pad_id: int, on_token: OnToken | None) -> Tensor:
    """Greedy or sampled.

    One random number a step serves all rows. So a row's answer does not depend on the other rows, and equal prompts get
    equal answers.
    """
    generator = torch.Generator().manual_seed(decoding.seed)  # on the CPU: the same draws on every device
    logits = decoder.start().float()
    ids = torch.empty(logits.shape[0], 0, dtype=torch.int64, device=logits.device)
    ended = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    for number in range(decoding.max_new):
        if number:
            logits = decoder.step(ids[:, -1]).float()
        logits = penalise_repetition(logits, ids, decoding.repetition_penalty)
        if number < decoding.min_new:
            logits = _without(logits, end_id)
        draw = float(torch.rand((), generator=generator, dtype=torch.float64)) if decoding.sample else None
        newest = logits.argmax(-1) if draw is None else sample(logits, decoding, draw)
        newest = newest.masked_fill(ended, pad_id)
        ids = torch.cat((ids, newest[:, None]), 1)
        ended = ended | (newest == end_id)
        if on_token is not None:
            on_token(newest.cpu())
        if bool(ended.all()):
            break
    return ids


def penalise_repetition(scores: Tensor, generated: Tensor, penalty: float | Tensor) -> Tensor:
    """Scores [r,v], lower by `penalty` for ids that the answer has already, `generated` [r,t].

    CTRL, arXiv:1909.05858. The prompt's ids are not penalised. An id may be there several times, and `penalty` be one
    for each row [r,1].
    """
    if generated.shape[1] == 0 or (isinstance(penalty, float) and penalty == 1):
        return scores
    old = scores.gather(1, generated)
    return scores.scatter(1, generated, torch.where(old < 0, old * penalty, old / penalty))


def sample(logits: Tensor, decoding: Decoding, draw: float | Tensor) -> Tensor:
    """Logits [r,v] -> ids [r]: temperature, then top-k, then top-p; `draw` in [0,1) picks from what is left.

    `draw`: one for all rows, or one for each [r,1] float64.
    """
    share = (logits / decoding.temperature).softmax(-1)
    share = share.cpu() if share.device.type == "mps" else share  # Apple's GPUs have no float64
    draw = draw.to(share.device) if isinstance(draw, Tensor) else draw
    probability, order = _likeliest(share, decoding.top_k)
    if decoding.top_k:
        probability = probability / probability.sum(-1, keepdim=True)
    before = probability.cumsum(-1) - probability
    kept = probability * (before < decoding.top_p)  # the first always stays
    sums = kept.cumsum(-1)
    index = (sums <= draw * sums[:, -1:]).sum(-1, keepdim=True)
    return order.gather(1, index.clamp(max=order.shape[1] - 1))[:, 0].to(logits.device)


def _likeliest(probability: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Probabilities [r,v] fp32 -> those of the `most` likeliest ids (0: of all), likeliest first, float64, and the ids.

    Of equally likely ids the lower is first. Sorting the vocabulary would take longer than a step of a small model.
    """
    if not 0 < most < probability.shape[1]:
        order = probability.argsort(stable=True, descending=True)
        return probability.gather(1, order).double(), order
    # bits of positive numbers are ordered as they are; the id below them makes every key another
    ids = torch.arange(probability.shape[1], device=probability.device)
    keys = (probability.view(torch.int32).long() << 32) - ids
    order = (-keys.topk(most, sorted=True).values) & 0xFFFFFFFF
    return probability.gather(1, order).double(), order


class BeamSearch:
    """Beam search as transformers' `generate` does it (early_stopping False, one end token), on new ids alone.

    It considers twice as many continuations as beams. One that ends among the best `beams` is finished, with its
    summed log probability divided by its length to the power `length_penalty`; a prompt is done when its best running
    beam, measured at its present length, does not beat the worst of `beams` finished ones.
    """

    def __init__(self, decoder: Decoder, decoding: Decoding, end_id: int, pad_id: int) -> None:
        self.decoder, self.decoding, self.end_id, self.pad_id = decoder, decoding, end_id, pad_id
        self.beams = decoding.beams

    def run(self) -> Tensor:
        """Best answers [b,t] int64."""
        logits = self.decoder.start().float()
        b, device = logits.shape[0], logits.device
        self.decoder.select(torch.arange(b, device=device).repeat_interleave(self.beams))
        logits = logits.repeat_interleave(self.beams, 0)  # [r,v]
        size = (b, self.beams, self.decoding.max_new)
        running = torch.full(size, self.pad_id, device=device)
        scores = torch.zeros(size[:2], device=device)
        scores[:, 1:] = NEVER  # all beams are the same until the first ids differ
        self.answers, self.best = running.clone(), torch.full_like(scores, NEVER)
        self.lengths = torch.zeros_like(scores, dtype=torch.int64)
        improvable = torch.ones(b, 1, dtype=torch.bool, device=device)
        for number in range(self.decoding.max_new):
            if number:
                logits = self.decoder.step(running[:, :, number - 1].flatten()).float()
            totals, candidates, parents = self._continue(logits, running, scores, number)
            last = number + 1 == self.decoding.max_new
            ended = torch.ones_like(totals, dtype=torch.bool) if last else candidates[:, :, number] == self.end_id
            self._finish(totals, candidates, ended, improvable, number + 1)
            if last:
                break
            scores, chosen = (totals + ended * NEVER).topk(self.beams)
            running, parents = _pick(candidates, chosen), parents.gather(1, chosen)
            self.decoder.select((parents + torch.arange(b, device=device)[:, None] * self.beams).flatten())
            worst = torch.where(self.lengths > 0, self.best.amin(1, keepdim=True), NEVER)
            improvable &= (scores[:, :1] / (number + 1) ** self.decoding.length_penalty > worst).any(1, keepdim=True)
            if not bool(improvable.any()):
                break
        answers = self.answers[:, 0]
        return answers[:, : int(self.lengths[:, 0].max())]

    def _continue(self, logits: Tensor, running: Tensor, scores: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """The 2*beams best continuations of each prompt: scores [b,2k], ids [b,2k,max_new], beams they go on from."""
        b, k = scores.shape
        generated = running[:, :, :number].flatten(0, 1)
        step = penalise_repetition(F.log_softmax(logits, -1), generated, self.decoding.repetition_penalty)
        if number < self.decoding.min_new:
            step = _without(step, self.end_id)
        total = (step.view(b, k, -1) + scores[..., None]).flatten(1)  # [b,k*v]
        totals, index = total.topk(2 * k)
        parents, ids = index // logits.shape[-1], index % logits.shape[-1]
        candidates = _pick(running, parents)
        candidates[:, :, number] = ids
        return totals, candidates, parents

    def _finish(self, totals: Tensor, candidates: Tensor, ended: Tensor, improvable: Tensor, length: int) -> None:
        """Keep the best of what was finished before and what ended now, among the first `beams` of each prompt."""
        ended = ended.clone()
        ended[:, self.beams :] = False
        new = totals / length**self.decoding.length_penalty + (~improvable) * NEVER + (~ended) * NEVER
        self.best, chosen = torch.cat((self.best, new), 1).topk(self.beams)
        lengths = torch.cat((self.lengths, ended * length), 1)
        self.lengths = lengths.gather(1, chosen)
        self.answers = _pick(torch.cat((self.answers, candidates), 1), chosen)


def _without(scores: Tensor, end_id: int) -> Tensor:
    """Scores [r,v] by which no answer ends, as transformers' `min_new_tokens`."""
    return scores.index_fill(1, torch.tensor([end_id], device=scores.device), -torch.inf)


def _pick(sequences: Tensor, rows: Tensor) -> Tensor:
    """[b,n,t], rows [b,k] int64 -> [b,k,t]."""
    return sequences.gather(1, rows[..., None].expand(-1, -1, sequences.shape[2]))
