"""Image-text retrieval from a stage-one model: ITC scores, re-ranked by ITM, and ITM accuracy.

Conventions of LAVIS (lavis/tasks/retrieval.py, compute_sim_matrix): t2i looks for the image of a text, i2t for any text
of an image. The re-ranked score is ITM's log odds of 'match' plus the ITC similarity. Candidates beyond k come last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from vglm_train.config.metric_names import (
    ITM_ACCURACY,
    MEAN_RECALL,
    RECALL_AT,
    RECALLS,
    RERANK,
    SHUFFLED_IMAGES,
    language_metric,
)
from vglm_train.data.eval_captions import EvalItem
from vglm_train.distributed import Ranks
from vglm_train.evaluate.base import ImageTable, to_pil
from vglm_train.model.alignment import Alignment
from vglm_train.prompt.qformer_text import QFormerTokenizer

LAST = -100.0  # score of a pair that was not re-ranked
COLUMNS = ("image", "language", "caption", "best caption for the image", "best image for the caption")


class Embedder:
    """Runs a stage-one model over images, texts and pairs in batches, without gradient."""

    def __init__(
        self, model: Alignment, text: QFormerTokenizer, device: torch.device, autocast: bool = False, batch: int = 64
    ) -> None:
        """autocast: compute in bf16 what is stored in fp32, as training does with engine.precision bf16."""
        self.model, self.text, self.device, self.batch = model, text, device, batch
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=autocast)

    @torch.no_grad()
    def images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [n,3,h,w] -> raw frozen features [n,p,c] on the CPU, query features [n,q,e] of unit length."""
        raw, features = [], []
        for part in pixels.split(self.batch):
            with self.autocast:
                frozen, embeds = self.model.embed_images(part.to(self.device))
            raw.append(frozen.cpu())
            features.append(embeds)
        return torch.cat(raw), torch.cat(features)

    @torch.no_grad()
    def texts(self, captions: Sequence[str], language: str) -> tuple[Tensor, Tensor, Tensor]:
        """Captions -> ids [m,t], mask [m,t], features [m,e] of unit length."""
        ids, mask = self.text.batch([self.text.encode(caption, language) for caption in captions])
        ids, mask = ids.to(self.device), mask.to(self.device)
        parts = zip(ids.split(4 * self.batch), mask.split(4 * self.batch))
        with self.autocast:
            return ids, mask, torch.cat([self.model.embed_texts(i, m) for i, m in parts])

    @torch.no_grad()
    def match(self, raw: Tensor, rows: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Log odds of 'match' [k] of k pairs: image `rows[k]` of raw [n,p,c] with text k of ids and mask [k,t]."""
        scores = []
        for r, i, m in zip(rows.cpu().split(self.batch), ids.split(self.batch), mask.split(self.batch)):
            with self.autocast:
                logits = self.model.match_logits(self.model.image_keys(raw[r].to(self.device)), i, m)
            scores.append(logits[:, 1] - logits[:, 0])
        return torch.cat(scores) if scores else torch.empty(0, device=self.device)


@dataclass(frozen=True, slots=True)
class RetrievalEvaluator:
    """Scores held-out `items`. The ranks share the images, and every rank gets the same result.

    Metrics, in per cent, named as `config/metric_names.py` says: recall at 1, 5 and 10 in both directions by ITC, the
    same re-ranked by ITM (`rerank_`) and with each image replaced by its neighbour (`shuffled_`), ITM accuracy, and the
    mean of all ITC recalls.
    """

    embedder: Embedder
    items: Sequence[EvalItem]
    languages: Sequence[str]
    rerank: int  # candidates of each query that ITM scores again; 0: none
    examples: int  # images of each language to show
    ranks: Ranks

    def __call__(self) -> tuple[dict[str, float], list[ImageTable]]:
        """(scores, one table of examples)."""
        mine = torch.arange(self.ranks.rank, len(self.items), self.ranks.world)
        raw, own = self.embedder.images(torch.stack([self.items[i].pixels for i in mine]))
        parts = self.ranks.gather_objects((mine, own.cpu()))
        order = torch.cat([part[0] for part in parts]).argsort()  # from the order of ranks to the order of items
        images = torch.cat([part[1] for part in parts])[order].to(self.embedder.device)
        scores: dict[str, float] = {}
        recalls: list[float] = []
        rows: list[list[Image.Image | str | float]] = []
        for language in self.languages:
            captions, owners = _captions(self.items, language)
            if captions:
                found, shown = self._language(language, captions, owners, images, raw, mine)
                scores |= {language_metric(language, name): value for name, value in found.items()}
                recalls += [found[name] for name in RECALLS]
                rows += shown
        scores[MEAN_RECALL] = sum(recalls) / max(1, len(recalls))
        return scores, [ImageTable("retrieval", COLUMNS, rows)] if rows else []

    def _language(
        self, language: str, captions: list[str], owners: Tensor, images: Tensor, raw: Tensor, mine: Tensor
    ) -> tuple[dict[str, float], list[list[Image.Image | str | float]]]:
        """(scores of one language, rows of examples).

        `owners` [m]: the item of each caption; `images` [n,q,e] of all items; `raw` [k,p,c] of this rank's `mine` [k].
        """
        ids, mask, texts = self.embedder.texts(captions, language)
        similarity = similarities(images, texts)
        image_ids = torch.tensor([item.image_id for item in self.items])
        correct = (image_ids[:, None] == image_ids[owners][None]).to(similarity.device)
        scores = recall(similarity, similarity, correct)
        shifted = similarity.roll(1, 0)
        scores |= {SHUFFLED_IMAGES + name: value for name, value in recall(shifted, shifted, correct).items()}
        if self.rerank:
            by_image, by_text = self._rerank(raw, mine, ids, mask, similarity)
            scores |= {RERANK + name: value for name, value in recall(by_image, by_text, correct).items()}
        scores |= self._matching(raw, mine, ids, mask, owners)
        return scores, _examples(self.items[: self.examples], self.items, captions, owners, similarity, language)

    def _rerank(
        self, raw: Tensor, mine: Tensor, ids: Tensor, mask: Tensor, similarity: Tensor
    ) -> tuple[Tensor, Tensor]:
        """ITM + ITC scores of each query's best candidates, LAST for all other pairs: [n,m] by image and [n,m] by text.

        The rank that holds the image of a pair scores it, once.
        """
        chosen = []
        for dim in (1, 0):
            best = similarity.topk(min(self.rerank, similarity.shape[dim]), dim=dim).indices
            chosen.append(torch.zeros_like(similarity, dtype=torch.bool).scatter_(dim, best, True))
        own = mine.to(similarity.device)
        local, text = (chosen[0] | chosen[1])[own].nonzero().unbind(1)
        scores = torch.zeros_like(similarity)
        scores[own[local], text] = self.embedder.match(raw, local, ids[text], mask[text])
        scores = self.ranks.all_sum(scores) + similarity
        return scores.where(chosen[0], LAST), scores.where(chosen[1], LAST)

    def _matching(self, raw: Tensor, mine: Tensor, ids: Tensor, mask: Tensor, owners: Tensor) -> dict[str, float]:
        """ITM accuracy over as many matched as mismatched pairs (with a text of the image half the set away).

        In the shuffled variant each pair has the neighbour's image. Then no pair matches, and accuracy is 50 %.
        """
        first = {int(owner): n for n, owner in reversed(list(enumerate(owners)))}
        rows: list[int] = []
        texts: list[int] = []
        for local, item in enumerate(mine.tolist()):
            far, near = (item + len(self.items) // 2) % len(self.items), (item + 1) % len(self.items)
            others = (self.items[far].image_id, self.items[near].image_id)
            if {item, far, near} <= first.keys() and self.items[item].image_id not in others:
                rows += [local] * 3
                texts += [first[item], first[far], first[near]]
        log_odds = self.embedder.match(raw, torch.tensor(rows, dtype=torch.int64), ids[texts], mask[texts])
        predicted = (log_odds > 0).view(-1, 3)  # match or not: with the own text, the far one, the near one
        own, of_far, of_near = predicted.double().sum(0).unbind()
        count = torch.full_like(own, len(predicted))
        totals = torch.stack([own + count - of_far, of_near + count - of_far, 2 * count])
        right, shuffled, pairs = self.ranks.all_sum(totals).tolist()
        pairs = max(1.0, pairs)
        return {ITM_ACCURACY: 100 * right / pairs, SHUFFLED_IMAGES + ITM_ACCURACY: 100 * shuffled / pairs}


def similarities(images: Tensor, texts: Tensor, chunk: int = 256) -> Tensor:
    """images [n,q,e], texts [m,e] -> [n,m]: the similarity of the image's best query (BLIP-2)."""
    return torch.cat([torch.einsum("nqe,me->nqm", part, texts).amax(1) for part in images.split(chunk)])


def recall(by_image: Tensor, by_text: Tensor, correct: Tensor) -> dict[str, float]:
    """i2t_r1 ... t2i_r10 in per cent. All arguments are [n images, m texts]; each direction ranks by its own scores."""
    found = {}
    for name, scores, hits in (("i2t", by_image, correct), ("t2i", by_text.T, correct.T)):
        for k in RECALL_AT:
            best = scores.topk(min(k, scores.shape[1]), dim=1).indices
            found[f"{name}_r{k}"] = 100 * hits.gather(1, best).any(1).float().mean().item()
    return found


def chance(items: Sequence[EvalItem], language: str) -> dict[str, float]:
    """Recalls of a random ranking, in per cent: t2i k of n images; i2t, with c of m texts, 1 - C(m-c,k)/C(m,k)."""
    counts = [len(item.captions.get(language, ())) for item in items]
    texts, images = sum(counts), len(items)
    found = {}
    for k in RECALL_AT:
        missed = [math.comb(texts - c, k) / math.comb(texts, k) if texts >= k else 0.0 for c in counts]
        found[f"i2t_r{k}"] = 100 * (1 - sum(missed) / max(1, images))
        found[f"t2i_r{k}"] = 100 * min(1.0, k / max(1, images))
    return found


def _captions(items: Sequence[EvalItem], language: str) -> tuple[list[str], Tensor]:
    """All m captions of a language, and the item of each [m]."""
    pairs = [(caption, n) for n, item in enumerate(items) for caption in item.captions.get(language, ())]
    return [caption for caption, _ in pairs], torch.tensor([n for _, n in pairs], dtype=torch.int64)


def _examples(
    shown: Sequence[EvalItem],
    items: Sequence[EvalItem],
    captions: list[str],
    owners: Tensor,
    similarity: Tensor,
    language: str,
) -> list[list[Image.Image | str | float]]:
    """Rows of COLUMNS for the first images."""
    rows: list[list[Image.Image | str | float]] = []
    for n, item in enumerate(shown):
        own = (owners == n).nonzero().flatten()
        if len(own):
            text = int(own[0])
            best_text, best_image = int(similarity[n].argmax()), int(similarity[:, text].argmax())
            found = to_pil(items[best_image].pixels)
            rows.append([to_pil(item.pixels), language, captions[text], captions[best_text], found])
    return rows
