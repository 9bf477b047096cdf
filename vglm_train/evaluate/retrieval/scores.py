"""Recalls of a ranking, and of a random one. n images, m texts of one language."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from vglm_train.config.metric_names import RECALL_AT
from vglm_train.data.eval_captions import EvalItem


def captioned(items: Sequence[EvalItem], language: str) -> list[int]:
    """Indices of the items that have a caption in a language: they alone are images of its retrieval, as in LAVIS.

    Empty if they show fewer than two different pictures, since there is nothing to choose from.
    """
    indices = [index for index, item in enumerate(items) if item.captions.get(language)]
    return indices if len({items[index].image_id for index in indices}) > 1 else []


def similarities(images: Tensor, texts: Tensor, chunk: int = 256) -> Tensor:
    """images [n,q,e], texts [m,e] -> [n,m]: the similarity of the image's best query (BLIP-2)."""
    return torch.cat([torch.einsum("nqe,me->nqm", part, texts).amax(1) for part in images.split(chunk)])


def ranks(by_image: Tensor, by_text: Tensor, correct: Tensor) -> dict[str, list[int]]:
    """Direction -> the rank of each query's first right candidate, from 1; 0 where none is among the best ten.

    All arguments are [n,m]; each direction ranks by its own scores. A query with a score that is not finite finds
    nothing.
    """
    found = {}
    for name, scores, hits in (("i2t", by_image, correct), ("t2i", by_text.T, correct.T)):
        best = scores.topk(min(max(RECALL_AT), scores.shape[1]), dim=1).indices
        right = hits.gather(1, best) & scores.isfinite().all(1, keepdim=True)
        first = torch.where(right.any(1), right.double().argmax(1) + 1, 0)
        found[name] = first.tolist()
    return found


def recall(found: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """i2t_r1 ... t2i_r10 in per cent, of `ranks`."""
    return {
        f"{name}_r{k}": 100 * sum(0 < rank <= k for rank in each) / len(each)
        for name, each in found.items()
        for k in RECALL_AT
    }


def chance(items: Sequence[EvalItem], language: str) -> dict[str, float]:
    """Recalls of a random ranking, in per cent; empty for a language without retrieval.

    Of m texts c are right for an image, so it misses them with probability C(m-c,k) / C(m,k). t2i is the same among n
    images, of which those of the same picture are right.
    """
    own = captioned(items, language)
    images: dict[int, int] = {}  # picture -> its images
    texts: dict[int, int] = {}  # picture -> its captions
    for item in (items[index] for index in own):
        images[item.image_id] = images.get(item.image_id, 0) + 1
        texts[item.image_id] = texts.get(item.image_id, 0) + len(item.captions[language])
    i2t = _random_recall([texts[items[index].image_id] for index in own], sum(texts.values()))
    right = [images[items[index].image_id] for index in own for _ in items[index].captions[language]]
    t2i = _random_recall(right, len(own))
    recalls = (("i2t", i2t), ("t2i", t2i)) if own else ()
    return {f"{name}_r{k}": of(k) for name, of in recalls for k in RECALL_AT}


def _random_recall(right: Sequence[int], candidates: int) -> Callable[[int], float]:
    """k -> per cent. `right` [queries]: how many of the candidates are right for each."""

    def of(k: int) -> float:
        k = min(k, candidates)
        missed = sum(math.comb(candidates - count, k) for count in right) / math.comb(candidates, k)
        return 100 * (1 - missed / len(right))

    return of
