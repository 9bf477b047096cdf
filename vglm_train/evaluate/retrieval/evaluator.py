"""Image-text retrieval from a stage-one model: ITC scores, re-ranked by ITM, and ITM accuracy.

Conventions of LAVIS (lavis/tasks/retrieval.py; lavis/models/blip2_models/blip2.py, compute_sim_matrix): t2i looks for
the image of a text, i2t for any text of an image. A re-ranked score is ITM's logit of 'match', the mean over queries,
plus the ITC similarity, a cosine without the temperature. Candidates that are not re-ranked come last.

n images and m captions of one language; k images of this rank; p image tokens, c image width, q queries, e embedding
width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from vglm_train.config.metric_names import (
    IMAGES,
    ITM_ACCURACY,
    MEAN_RECALL,
    RECALLS,
    RERANK,
    SHUFFLED_IMAGES,
    language_metric,
)
from vglm_train.config.run import RerankScore
from vglm_train.data.eval_captions import EvalItem
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.base import ImageTable, check_same_items, shown, to_pil
from vglm_train.evaluate.retrieval.outcomes import Outcomes
from vglm_train.evaluate.retrieval.scores import captioned, ranks, recall, similarities
from vglm_train.model.alignment import Alignment
from vglm_train.progress import Progress
from vglm_train.prompt.qformer_text import QFormerTokenizer

LAST = -100.0  # added to the similarity of a pair that was not re-ranked
COLUMNS = ("image", "language", "caption", "best caption for the image", "best image for the caption")


class Embedder:
    """Runs a stage-one model over images, texts and pairs in batches, without gradient."""

    def __init__(
        self,
        model: Alignment,
        text: QFormerTokenizer,
        device: torch.device,
        autocast: bool = False,
        batch: int = 64,
        progress: bool = False,
    ) -> None:
        """autocast: compute in bf16 what is stored in fp32, as training does with engine.precision bf16; progress: say
        how far it is.
        """
        self.model, self.text, self.device, self.batch = model, text, device, batch
        self.progress = progress
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=autocast)

    @torch.no_grad()
    def images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [n,3,h,w] -> raw frozen features [n,p,c] on the CPU, query features [n,q,e] of unit length."""
        raw, features = [], []
        with Progress(len(pixels), "image", "images", self.progress) as bar:
            for part in pixels.split(self.batch) if len(pixels) else ():
                with self.autocast:
                    frozen, embeds = self.model.embed_images(part.to(self.device))
                raw.append(frozen.cpu())
                features.append(embeds)
                bar.update(len(part))
        if not raw:
            return torch.empty(0), torch.empty(0, 1, 1, device=self.device)
        return torch.cat(raw), torch.cat(features)

    @torch.no_grad()
    def texts(self, captions: Sequence[str], language: str) -> tuple[Tensor, Tensor, Tensor]:
        """Captions -> ids [m,t], mask [m,t], features [m,e] of unit length."""
        ids, mask = self.text.batch([self.text.encode(caption, language) for caption in captions])
        ids, mask = ids.to(self.device), mask.to(self.device)
        parts = zip(ids.split(4 * self.batch), mask.split(4 * self.batch))
        with self.autocast:
            return ids, mask, torch.cat([self.model.embed_texts(i, m) for i, m in parts])

    def match(self, raw: Tensor, rows: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Log odds of 'match' [k] of k pairs: image `rows[k]` of raw [n,p,c] with text k of ids and mask [k,t]."""
        no, yes = self.match_logits(raw, rows, ids, mask).unbind(1)
        return yes - no

    @torch.no_grad()
    def match_logits(self, raw: Tensor, rows: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The same pairs -> logits [k,2] of 'no match' and 'match', fp32."""
        scores = [torch.empty(0, 2, device=self.device)]
        with Progress(len(rows), "pair", "pairs", self.progress) as bar:
            for r, i, m in zip(rows.cpu().split(self.batch), ids.split(self.batch), mask.split(self.batch)):
                if len(r):
                    with self.autocast:
                        logits = self.model.match_logits(self.model.image_keys(raw[r].to(self.device)), i, m)
                    scores.append(logits)
                bar.update(len(r))
        return torch.cat(scores)


@dataclass(frozen=True, slots=True)
class _Language:
    """What is retrieved in one language."""

    name: str
    items: list[int]  # [n] those that have captions in it
    captions: list[str]  # [m]
    owners: Tensor  # [m] position in `items` of each caption's image
    correct: Tensor  # [n,m] bool: the caption is one of this picture, which may be there several times
    texts: tuple[Tensor, Tensor, Tensor]  # ids and mask [m,t], features [m,e]
    similarity: Tensor  # [n,m]


@dataclass(frozen=True, slots=True)
class _Own:
    """This rank's images."""

    items: list[int]  # [k]
    raw: Tensor  # [k,p,c] frozen features, on the CPU

    def of(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(rows of `raw`, positions among `positions`, which are items) of this rank's images among those items."""
        row_of = {item: row for row, item in enumerate(self.items)}
        pairs = [(row_of[item], position) for position, item in enumerate(positions) if item in row_of]
        rows, found = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
        return rows, found


@dataclass(frozen=True, slots=True)
class RetrievalResult:
    """Scores, what came of each query by language, and rows of examples."""

    scores: dict[str, float]
    outcomes: dict[str, Outcomes]
    rows: list[list[Image.Image | str | float]]


@dataclass(frozen=True, slots=True)
class RetrievalEvaluator:
    """Scores held-out `items`. The ranks share the images, and every rank gets the same result.

    Metrics, in per cent, named as `config/metric_names.py` says: recall at 1, 5 and 10 in both directions by ITC, the
    same re-ranked by ITM (`rerank_`) and with each image replaced by its neighbour (`shuffled_`), ITM accuracy, and the
    mean of all ITC recalls. Images and queries of a language are the items that have captions in it.
    """

    embedder: Embedder
    items: Sequence[EvalItem]
    languages: Sequence[str]
    rerank: int  # candidates of each query that ITM scores again; 0: none
    examples: int  # images of each language to show
    ranks: Ranks
    rerank_score: RerankScore = "match"

    def __post_init__(self) -> None:
        """UserError on all ranks if no language has two pictures to choose from."""
        check_same_items(self.items, self.ranks)
        if not any(captioned(self.items, language) for language in self.languages):
            raise UserError(f"retrieval: {nothing_to_retrieve(self.items, self.languages)}.")

    def available_metrics(self) -> list[str]:
        """Full names of the metrics that these items give, but for the shuffled ones and the number of images."""
        variants = ("", RERANK) if self.rerank else ("",)
        names = [*(variant + name for variant in variants for name in RECALLS), ITM_ACCURACY]
        languages = [language for language in self.languages if captioned(self.items, language)]
        return [MEAN_RECALL, *(language_metric(language, name) for language in languages for name in names)]

    def __call__(self) -> tuple[dict[str, float], list[ImageTable]]:
        """(scores, one table of examples)."""
        result = self.measure()
        return result.scores, [ImageTable("retrieval", COLUMNS, result.rows)] if result.rows else []

    def measure(self) -> RetrievalResult:
        """Scores, and what came of each query."""
        with self.ranks.together():
            mine = list(range(self.ranks.rank, len(self.items), self.ranks.world))
            pixels = [self.items[index].pixels for index in mine]
            raw, features = self.embedder.images(torch.stack(pixels) if pixels else torch.empty(0))
        own = _Own(mine, raw)
        parts = [part for part in self.ranks.gather_objects((mine, features.cpu())) if part[0]]
        order = torch.tensor([index for indices, _ in parts for index in indices]).argsort()  # as the items stand
        images = torch.cat([part for _, part in parts])[order].to(self.embedder.device)
        result, recalls = RetrievalResult({}, {}, []), []
        for name in self.languages:
            if indices := captioned(self.items, name):
                found, result.outcomes[name], examples = self._language(name, indices, images[indices], own)
                result.scores.update({language_metric(name, metric): value for metric, value in found.items()})
                recalls += [found[metric] for metric in RECALLS]
                result.rows.extend(examples)
        result.scores[MEAN_RECALL] = sum(recalls) / len(recalls)
        # cards may differ in a last bit, and a rank with a best step of its own would save it alone
        result.scores.update(self.ranks.from_main(result.scores))
        return result

    def _language(
        self, name: str, indices: list[int], images: Tensor, own: _Own
    ) -> tuple[dict[str, float], Outcomes, list[list[Image.Image | str | float]]]:
        """(scores of one language, what came of each query, rows of examples). `images` [n,q,e]: of `indices`."""
        with self.ranks.together():
            language = self._read(name, indices, images)
            similarity, correct = language.similarity, language.correct
            found = {"": ranks(similarity, similarity, correct)}
            shifted = similarity[[self._of_another_picture(language, n, -1) for n in range(len(indices))]]
            shuffled = recall(ranks(shifted, shifted, correct))
            reranked = self._match_candidates(own, language) if self.rerank else None
            matched = self._count_matches(own, language)
        if reranked is not None:
            by_image, by_text = self._rerank(reranked, language)
            found[RERANK] = ranks(by_image, by_text, correct)
        scores = {variant + name: value for variant, each in found.items() for name, value in recall(each).items()}
        scores |= {SHUFFLED_IMAGES + name: value for name, value in shuffled.items()}
        matches = dict(pair for of_rank in self.ranks.gather_objects(matched) for pair in of_rank)
        right, wrong = (sum(each) for each in zip(*matches.values()))
        scores |= {ITM_ACCURACY: 50 * right / len(matches), SHUFFLED_IMAGES + ITM_ACCURACY: 50 * wrong / len(matches)}
        scores[IMAGES] = float(len(indices))
        outcomes = Outcomes(indices, language.owners.tolist(), language.captions, found, matches)
        return scores, outcomes, self._examples(language)

    def _read(self, name: str, indices: list[int], images: Tensor) -> _Language:
        pairs = [(text, n) for n, index in enumerate(indices) for text in self.items[index].captions[name]]
        captions, owners = [text for text, _ in pairs], torch.tensor([n for _, n in pairs])
        pictures = torch.tensor([self.items[index].image_id for index in indices])
        texts = self.embedder.texts(captions, name)
        correct = (pictures[:, None] == pictures[owners][None]).to(images.device)
        return _Language(name, indices, captions, owners, correct, texts, similarities(images, texts[2]))

    def _candidates(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs [n,m] bool that are re-ranked: the best ones of each image, and of each text."""
        chosen = []
        for dim in (1, 0):
            best = similarity.topk(min(self.rerank, similarity.shape[dim]), dim=dim).indices
            chosen.append(torch.zeros_like(similarity, dtype=torch.bool).scatter_(dim, best, True))
        return chosen[0], chosen[1]

    def _match_candidates(self, own: _Own, language: _Language) -> Tensor:
        """ITM's scores [n,m] of the pairs to re-rank with this rank's images; 0 for all others."""
        by_image, by_text = self._candidates(language.similarity)
        rows, positions = own.of(language.items)
        local, text = (by_image | by_text).cpu()[positions].nonzero().unbind(1)
        ids, mask, _ = language.texts
        no, yes = self.embedder.match_logits(own.raw, rows[local], ids[text], mask[text]).unbind(1)
        scores = torch.zeros_like(language.similarity)
        found = yes if self.rerank_score == "match" else yes - no
        scores[positions[local].to(scores.device), text.to(scores.device)] = found.to(scores.dtype)
        return scores

    def _rerank(self, scores: Tensor, language: _Language) -> tuple[Tensor, Tensor]:
        """This rank's ITM scores [n,m] -> ITM + ITC of each query's best candidates, by image and by text, [n,m] each.

        The others follow in the order of their similarity.
        """
        by_image, by_text = self._candidates(language.similarity)
        scores, last = self.ranks.all_sum(scores) + language.similarity, LAST + language.similarity
        return scores.where(by_image, last), scores.where(by_text, last)

    def _count_matches(self, own: _Own, language: _Language) -> list[tuple[int, tuple[int, int]]]:
        """(position, (right answers of ITM, right ones with images shuffled), of two) of each of this rank's images.

        There are as many matched as mismatched pairs; these have a text of the image half the set away, or the next one
        of another picture. In the shuffled variant each pair has a neighbour's image. Then no pair matches, and
        accuracy is 50 %.
        """
        first = {int(owner): n for n, owner in reversed(list(enumerate(language.owners)))}
        rows, positions = own.of(language.items)
        texts: list[int] = []
        for position in positions.tolist():
            far = self._of_another_picture(language, position, len(language.items) // 2)
            texts += [first[position], first[far], first[self._of_another_picture(language, position, 1)]]
        ids, mask, _ = language.texts
        log_odds = self.embedder.match(own.raw, rows.repeat_interleave(3), ids[texts], mask[texts])
        predicted = (log_odds > 0).view(-1, 3)  # match or not: with the own text, the far one, the near one
        matched, of_far, of_near = predicted.int().unbind(1)
        right, shuffled = (matched + 1 - of_far).tolist(), (of_near + 1 - of_far).tolist()
        return list(zip(positions.tolist(), zip(right, shuffled)))

    def _of_another_picture(self, language: _Language, position: int, away: int) -> int:
        """The first position that far from `position`, or beyond it, whose picture is another one."""
        count, own = len(language.items), self.items[language.items[position]].image_id
        others = ((position + away + (more if away > 0 else -more)) % count for more in range(count))
        return next(other for other in others if self.items[language.items[other]].image_id != own)

    def _examples(self, language: _Language) -> list[list[Image.Image | str | float]]:
        """Rows of COLUMNS."""
        similarity, items = language.similarity, [self.items[index] for index in language.items]
        rows: list[list[Image.Image | str | float]] = []
        for n in shown(items, range(len(items)), self.examples):
            text = int((language.owners == n).nonzero()[0])
            best_text, best_image = int(similarity[n].argmax()), int(similarity[:, text].argmax())
            texts = language.captions[text], language.captions[best_text]
            rows.append([to_pil(items[n].pixels), language.name, *texts, to_pil(items[best_image].pixels)])
        return rows


def nothing_to_retrieve(items: Sequence[EvalItem], languages: Sequence[str]) -> str:
    """Why there is nothing to evaluate."""
    counts = ", ".join(f"{sum(bool(i.captions.get(name)) for i in items)} captioned in {name}" for name in languages)
    return f"of {len(items)} usable pictures {counts}; a language needs two different ones to choose from"
