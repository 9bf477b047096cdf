"""Writing an answer, one id a step, whatever the family: greedy, sampled, or by beam search.

b prompts, r rows being written (b, or b times the beams), t ids written, v vocabulary.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vglm_train.config.language import Decoding
from vglm_train.model.language.base import OnToken

NEVER = -1e9  # the score of a beam that is out


class Writer(Protocol):
    """What a family gives the loop: logits, from a cache that it keeps. Prompts may differ in length."""

    def start(self) -> Tensor:
        """Read the prompts -> logits [b,v] of the first new ids. Called once."""
        ...

    def step(self, ids: Tensor) -> Tensor:
        """ids [r] int64 just written, one a row -> logits [r,v] of the next ones."""
        ...

    def select(self, rows: Tensor) -> None:
        """The cache's rows become those numbered `rows` [r'] int64, repeats allowed."""
        ...


def write(writer: Writer, decoding: Decoding, end_id: int, pad_id: int, on_token: OnToken | None = None) -> Tensor:
    """New ids [b,t] int64, `pad_id` behind `end_id`; t is the longest answer's, at most `decoding.max_new`.

    Logits are taken in fp32. ValueError for `on_token` with beams: beam search knows its answer only at the end.
    """
    if decoding.beams == 1:
        return _write_one(writer, decoding, end_id, pad_id, on_token)
    if on_token is not None:
        raise ValueError("beam search cannot stream: it knows its answer only at the end")
    return BeamSearch(writer, decoding, end_id, pad_id).run()


def _write_one(writer: Writer, decoding: Decoding, end_id: int, pad_id: int, on_token: OnToken | None) -> Tensor:
    """Greedy or sampled.

    One number is drawn a step, for all rows: each row is what it would be alone, and equal prompts get equal answers.
    """
    generator = torch.Generator().manual_seed(decoding.seed)  # on the CPU: the same draws on every device
    logits = writer.start().float()
    ids = torch.empty(logits.shape[0], 0, dtype=torch.int64, device=logits.device)
    ended = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
    for number in range(decoding.max_new):
        if number:
            logits = writer.step(ids[:, -1]).float()
        logits = penalise_repetition(logits, ids, decoding.repetition_penalty)
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


def penalise_repetition(scores: Tensor, written: Tensor, penalty: float) -> Tensor:
    """Scores [r,v], smaller by `penalty` where an id stands in the answer already, `written` [r,t].

    CTRL, arXiv:1909.05858. The prompt's ids are free to be said again.
    """
    if penalty == 1 or written.shape[1] == 0:
        return scores
    old = scores.gather(1, written)
    return scores.scatter(1, written, torch.where(old < 0, old * penalty, old / penalty))


def sample(logits: Tensor, decoding: Decoding, draw: float) -> Tensor:
    """Logits [r,v] -> ids [r]: temperature, then top-k, then top-p; `draw` in [0,1) picks from what is left."""
    probability, order = (logits / decoding.temperature).softmax(-1).double().sort(stable=True, descending=True)
    if decoding.top_k:
        probability, order = probability[:, : decoding.top_k], order[:, : decoding.top_k]
        probability = probability / probability.sum(-1, keepdim=True)
    before = probability.cumsum(-1) - probability
    kept = probability * (before < decoding.top_p)  # the first always stays
    sums = kept.cumsum(-1)
    place = (sums <= draw * sums[:, -1:]).sum(-1, keepdim=True)
    return order.gather(1, place.clamp(max=order.shape[1] - 1))[:, 0]


class BeamSearch:
    """Beam search as transformers' `generate` does it (early_stopping False, one end token), on new ids alone.

    Twice as many continuations as beams are looked at. One that ends among the best `beams` is finished, with its
    summed log probability divided by its length to the power `length_penalty`; a prompt is done when its best running
    beam, measured at its present length, does not beat the worst of `beams` finished ones.
    """

    def __init__(self, writer: Writer, decoding: Decoding, end_id: int, pad_id: int) -> None:
        self.writer, self.decoding, self.end_id, self.pad_id = writer, decoding, end_id, pad_id
        self.beams = decoding.beams

    def run(self) -> Tensor:
        """Best answers [b,t] int64."""
        logits = self.writer.start().float()
        b, device = logits.shape[0], logits.device
        self.writer.select(torch.arange(b, device=device).repeat_interleave(self.beams))
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
                logits = self.writer.step(running[:, :, number - 1].flatten()).float()
            found, candidates, parents = self._continue(logits, running, scores, number)
            last = number + 1 == self.decoding.max_new
            ended = torch.ones_like(found, dtype=torch.bool) if last else candidates[:, :, number] == self.end_id
            self._finish(found, candidates, ended, improvable, number + 1)
            if last:
                break
            scores, chosen = (found + ended * NEVER).topk(self.beams)
            running, parents = _pick(candidates, chosen), parents.gather(1, chosen)
            self.writer.select((parents + torch.arange(b, device=device)[:, None] * self.beams).flatten())
            worst = torch.where(self.lengths > 0, self.best.amin(1, keepdim=True), NEVER)
            improvable &= (scores[:, :1] / (number + 1) ** self.decoding.length_penalty > worst).any(1, keepdim=True)
            if not bool(improvable.any()):
                break
        answers = self.answers[:, 0]
        return answers[:, : int(self.lengths[:, 0].max())]

    def _continue(self, logits: Tensor, running: Tensor, scores: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """The 2*beams best continuations of each prompt: scores [b,2k], ids [b,2k,max_new], beams they go on from."""
        b, k = scores.shape
        written = running[:, :, :number].flatten(0, 1)
        step = penalise_repetition(F.log_softmax(logits, -1), written, self.decoding.repetition_penalty)
        total = (step.view(b, k, -1) + scores[..., None]).flatten(1)  # [b,k*v]
        found, place = total.topk(2 * k)
        parents, ids = place // logits.shape[-1], place % logits.shape[-1]
        candidates = _pick(running, parents)
        candidates[:, :, number] = ids
        return found, candidates, parents

    def _finish(self, found: Tensor, candidates: Tensor, ended: Tensor, improvable: Tensor, length: int) -> None:
        """Keep the best of what was finished before and what ended now, among the first `beams` of each prompt."""
        ended = ended.clone()
        ended[:, self.beams :] = False
        new = found / length**self.decoding.length_penalty + (~improvable) * NEVER + (~ended) * NEVER
        self.best, chosen = torch.cat((self.best, new), 1).topk(self.beams)
        lengths = torch.cat((self.lengths, ended * length), 1)
        self.lengths = lengths.gather(1, chosen)
        self.answers = _pick(torch.cat((self.answers, candidates), 1), chosen)


def _pick(sequences: Tensor, rows: Tensor) -> Tensor:
    """[b,n,t], rows [b,k] int64 -> [b,k,t]."""
    return sequences.gather(1, rows[..., None].expand(-1, -1, sequences.shape[2]))
