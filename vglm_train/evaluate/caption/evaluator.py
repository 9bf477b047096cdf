"""Captions from a stage-two model: how close they come to the references, and whether the model uses the image.

The loss gap answers the second: how much the loss of an image's reference grows when the model is shown another image.
A model that only knows how captions sound has no gap, and may have good n-gram scores all the same.
"""

import logging
import random
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from vglm_train.config.language import Decoding
from vglm_train.config.metric_names import (
    BEST_CAPTION_SCORES,
    CAPTION_LOSSES,
    DISTINCT,
    IMAGES,
    LOSS,
    LOSS_GAP,
    LOSS_GAP_HIGH,
    LOSS_GAP_LOW,
    SHUFFLED_LOSS,
    language_metric,
)
from vglm_train.data.eval_captions import EvalItem
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.base import ImageTable, check_same_items, shown, to_pil
from vglm_train.evaluate.generator import Generator, as_many
from vglm_train.evaluate.metrics import missing, text_scores
from vglm_train.evaluate.metrics.base import TextScores
from vglm_train.evaluate.metrics.bootstrap import MIN_ITEMS, mean_interval
from vglm_train.progress import Progress

logger = logging.getLogger(__name__)

COLUMNS = ("image", "reference", "output")


@dataclass(frozen=True, slots=True)
class GeneratedCaption:
    """What the model generated for one image in one language, and the loss of the image's first reference."""

    item: int  # index of the item
    output: str
    loss: float
    shuffled_loss: float | None  # with another image; None where there is no other


@dataclass(frozen=True, slots=True)
class CaptionResult:
    """The result of an evaluation. All dictionaries but `scores` are keyed by language."""

    scores: dict[str, float]  # full metric names: eval/LANGUAGE_cider, ...
    captions: dict[str, list[GeneratedCaption]]  # in the order of the items; only languages that have captions
    made_by: dict[str, dict[str, str]]  # what computed the text scores: segmenter, libraries, versions
    notes: dict[str, tuple[str, ...]]  # what could not be measured, and why


@dataclass(frozen=True, slots=True)
class CaptionEvaluator:
    """Generates captions of held-out `items` and scores them. The ranks share the images; all get the same result.

    Metrics are named as `config/metric_names.py` says. In per cent: the scores of texts (cider, bleu4, rouge_l, meteor
    with Java, ...) and `distinct`, the share of different captions. In nats: `loss`, `shuffled_loss`, and `loss_gap`,
    the mean over images of their difference, with its 95 % interval if there are MIN_ITEMS. `images`: how many there
    are.
    Without the libraries for text scores the other scores are computed, and the log says so once.
    """

    generator: Generator
    items: Sequence[EvalItem]
    languages: Sequence[str]
    decoding: Decoding
    examples: int  # images of each language in the table of examples
    ranks: Ranks
    batch: int = 32  # sequences generated at once: images times beams
    progress: bool = False  # show a bar on stderr, if that is a terminal
    logged_notes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """UserError before the first step for a question that is too long, or if no picture has a caption."""
        check_same_items(self.items, self.ranks)
        if not self._captioned():
            reason = f"of {len(self.items)} usable pictures none has a caption in {', '.join(self.languages)}"
            raise UserError(
                f"evaluation: {reason}. The log names what was left out. Captions are scored here: give pictures with "
                "captions as validation, or of questions with answers fine-tune with evaluate.task vqa."
            )
        for language in self.languages:
            self.generator.prompt(language)
        error = missing()
        if error is not None:
            self._log_once(str(error))

    def available_metrics(self) -> list[str]:
        """Full names of the metrics of these items that `checkpoint.best` may name."""
        names = [name for name in BEST_CAPTION_SCORES if name in CAPTION_LOSSES or missing() is None]
        found = []
        for language, own in self._captioned().items():
            different = len({self.items[index].image_id for index in own}) > 1
            absent = ([] if different else [LOSS_GAP]) + (["cider"] if len(own) < 2 else [])
            found += [language_metric(language, name) for name in names if name not in absent]
        return found

    def _captioned(self) -> dict[str, list[int]]:
        """Language -> indices of the items that have captions in it; only languages that there are."""
        found = {lang: [n for n, i in enumerate(self.items) if i.captions.get(lang)] for lang in self.languages}
        return {language: own for language, own in found.items() if own}

    def __call__(self) -> tuple[dict[str, float], list[ImageTable]]:
        """(scores, a table of examples for each language)."""
        result = self.measure()
        tables = []
        for language, captions in result.captions.items():
            examples = choose_examples(captions, self.items, self.examples)
            pairs = [(self.items[caption.item], caption.output) for caption in examples]
            rows = [(to_pil(item.pixels), item.captions[language][0], output) for item, output in pairs]
            if rows:
                tables.append(ImageTable(f"captions_{language}", COLUMNS, rows))
        return result.scores, tables

    def measure(self) -> CaptionResult:
        """Scores, each caption, and what computed the scores."""
        indices = self._captioned()
        total = sum(len(own[self.ranks.rank :: self.ranks.world]) for own in indices.values())
        result = CaptionResult({}, {}, {}, {})
        with Progress(total, "image", "captions", self.progress) as bar:
            for language, own in indices.items():
                result.captions[language] = self._language(language, own, bar)
        for language, captions in result.captions.items():
            texts = self._text_scores(language, captions)
            scores = texts.scores | _distinct(captions) | _losses(captions) | {IMAGES: float(len(captions))}
            result.scores.update({language_metric(language, name): value for name, value in scores.items()})
            result.made_by[language], result.notes[language] = texts.made_by, texts.notes
            for note in texts.notes:
                self._log_once(note)
        return result

    def _language(self, language: str, indices: Sequence[int], bar: Progress) -> list[GeneratedCaption]:
        """The captions of the items with `indices`. One rank generates each, then every rank gets them all."""
        others = [None if n is None else indices[n] for n in derangement([self.items[i].image_id for i in indices])]
        pairs = list(zip(indices, others))[self.ranks.rank :: self.ranks.world]
        generated: list[GeneratedCaption] = []
        with self.ranks.together():
            for part in _split(pairs, max(1, self.batch // self.decoding.beams)):
                generated += self._batch(language, part)
                bar.update(len(part))
        gathered = [caption for of_rank in self.ranks.gather_objects(generated) for caption in of_rank]
        return sorted(gathered, key=lambda caption: caption.item)

    def _batch(self, language: str, pairs: Sequence[tuple[int, int | None]]) -> list[GeneratedCaption]:
        """`pairs`: the index of an item, and of the item whose image is shown instead."""
        pictures = [self.items[i].pictures for i, _ in pairs]
        references = [self.items[i].captions[language][0] for i, _ in pairs]
        outputs = self.generator.captions(pictures, language, self.decoding)
        losses = self.generator.losses(pictures, references, language)
        others = [self.items[i if other is None else other].pictures for i, other in pairs]
        others = [as_many(other, len(own)) for other, own in zip(others, pictures)]
        shuffled_losses = self.generator.losses(others, references, language)
        return [
            GeneratedCaption(i, output, loss, None if other is None else shuffled)
            for (i, other), output, loss, shuffled in zip(pairs, outputs, losses, shuffled_losses)
        ]

    def _text_scores(self, language: str, captions: Sequence[GeneratedCaption]) -> TextScores:
        """Rank 0 computes them for all ranks: the libraries use one core and, for English, a Java program."""
        error = missing()
        if error is not None:
            return TextScores({}, {}, (str(error),))
        of_main = None
        with self.ranks.together():
            if self.ranks.main:
                references = [self.items[caption.item].captions[language] for caption in captions]
                of_main = text_scores(language, references, [caption.output for caption in captions])
        scores = self.ranks.from_main(of_main)
        assert isinstance(scores, TextScores)
        return scores

    def _log_once(self, note: str) -> None:
        if self.ranks.main and note not in self.logged_notes:
            logger.warning("%s", note)
        self.logged_notes.add(note)


def choose_examples(
    captions: Sequence[GeneratedCaption], items: Sequence[EvalItem], count: int
) -> list[GeneratedCaption]:
    """Captions to look at, as `shown` chooses them."""
    of_item = {caption.item: caption for caption in captions}
    return [of_item[index] for index in shown(items, list(of_item), count)]


def derangement(image_ids: Sequence[Hashable], seed: int = 0) -> list[int | None]:
    """For each of n images the index of another one. Each index is used once, and every call returns the same.

    None where only the same image (by `image_ids`) was left, as when there is one image alone.
    """
    indices = list(range(len(image_ids)))
    best: list[int | None] = [None] * len(indices)
    for attempt in range(20):
        order = random.Random(seed + attempt).sample(indices, len(indices))
        others: list[int | None] = [None] * len(indices)
        for index, following in zip(order, [*order[1:], *order[:1]]):
            others[index] = following if image_ids[index] != image_ids[following] else None
        if None not in others:
            return others
        best = others
    return best


def _split(pairs: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (pairs[start : start + size] for start in range(0, len(pairs), size))


def _distinct(captions: Sequence[GeneratedCaption]) -> dict[str, float]:
    return {DISTINCT: 100 * len({caption.output for caption in captions}) / len(captions)}


def _losses(captions: Sequence[GeneratedCaption]) -> dict[str, float]:
    scores = {LOSS: fmean(caption.loss for caption in captions)}
    pairs = [(c.loss, c.shuffled_loss) for c in captions if c.shuffled_loss is not None]
    if pairs:
        gaps = [shuffled - loss for loss, shuffled in pairs]
        scores |= {SHUFFLED_LOSS: fmean(shuffled for _, shuffled in pairs), LOSS_GAP: fmean(gaps)}
        if len(gaps) >= MIN_ITEMS:
            scores[LOSS_GAP_LOW], scores[LOSS_GAP_HIGH] = mean_interval(gaps)
    return scores
