"""Captions from a stage-two model: how close they come to the references, and whether the model looks at the picture.

The second is told by the loss gap: how much more an image's reference costs when another image is shown. A model that
only knows how captions sound has none, and good n-gram scores all the same.
"""

import logging
import random
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from tqdm import tqdm

from vglm_train.config.language import Decoding
from vglm_train.data.eval_captions import EvalItem
from vglm_train.distributed import Ranks
from vglm_train.evaluate.base import ImageTable, picture
from vglm_train.evaluate.generator import Generator
from vglm_train.evaluate.metrics import missing, text_scores
from vglm_train.evaluate.metrics.base import TextScores
from vglm_train.evaluate.metrics.bootstrap import mean_interval

logger = logging.getLogger(__name__)

COLUMNS = ("image", "reference", "output")


@dataclass(frozen=True, slots=True)
class Caption:
    """What was said about one image in one language, and what its first reference cost."""

    item: int  # place in the items
    output: str
    loss: float
    shuffled_loss: float | None  # with another image; none where there is no other


@dataclass(frozen=True, slots=True)
class Captions:
    """The result of an evaluation. Dictionaries go by language."""

    scores: dict[str, float]  # eval/LANGUAGE_cider, ...
    captions: dict[str, list[Caption]]  # in the items' order; languages that have captions
    made_by: dict[str, dict[str, str]]  # what made the text scores: segmenter, libraries, versions
    notes: dict[str, tuple[str, ...]]  # what could not be measured, and why


@dataclass(frozen=True, slots=True)
class Captioner:
    """Captions held-out `items`, shared out over the ranks, and scores them; every rank gets the same result.

    Metric names are `eval/LANGUAGE_cider`, `_bleu4`, `_rouge_l`, `_meteor` (English, with Java) and the like, and
    `_distinct`, the share of outputs that differ from all before, all in per cent; in nats `_loss`, `_shuffled_loss`
    and `_loss_gap`, the mean over images of their difference, with the ends of its 95 % interval `_low` and `_high`.
    Without the libraries for text scores the others are given, and the log says so once.
    """

    speaker: Generator
    items: Sequence[EvalItem]
    languages: Sequence[str]
    decoding: Decoding
    examples: int  # images of each language to show
    ranks: Ranks
    batch: int = 32  # images at once; beams share it
    progress: bool = False  # a bar on stderr, if that is a terminal
    said: set[str] = field(default_factory=set)  # notes that the log has

    def __post_init__(self) -> None:
        """What cannot work is known before the first step: UserError for a question that is too long."""
        for language in self.languages:
            self.speaker.prompt(language)
        error = missing()
        if error is not None:
            self._note(str(error))

    def __call__(self) -> tuple[dict[str, float], list[ImageTable]]:
        """(scores, a table of examples for each language)."""
        result = self.measure()
        tables = []
        for language, captions in result.captions.items():
            shown = [(self.items[caption.item], caption.output) for caption in captions[: self.examples]]
            rows = [(picture(item.pixels), item.captions[language][0], output) for item, output in shown]
            if rows:
                tables.append(ImageTable(f"captions_{language}", COLUMNS, rows))
        return result.scores, tables

    def measure(self) -> Captions:
        """Everything there is to tell."""
        owners = {lang: [n for n, i in enumerate(self.items) if i.captions.get(lang)] for lang in self.languages}
        total = sum(len(own[self.ranks.rank :: self.ranks.world]) for own in owners.values())
        result = Captions({}, {}, {}, {})
        with tqdm(total=total, desc="captions", unit="image", disable=None if self.progress else True) as bar:
            for language, own in owners.items():
                if own:
                    result.captions[language] = self._language(language, own, bar)
        for language, captions in result.captions.items():
            found = self._text_scores(language, captions)
            numbers = found.scores | _distinct(captions) | _losses(captions)
            result.scores.update({f"eval/{language}_{name}": value for name, value in numbers.items()})
            result.made_by[language], result.notes[language] = found.made_by, found.notes
            for note in found.notes:
                self._note(note)
        return result

    def _language(self, language: str, own: Sequence[int], bar: tqdm) -> list[Caption]:
        """The captions of the items `own`, each made by one rank."""
        others = [None if n is None else own[n] for n in derangement([self.items[i].image_id for i in own])]
        pairs = list(zip(own, others))[self.ranks.rank :: self.ranks.world]
        made: list[Caption] = []
        for part in _split(pairs, max(1, self.batch // self.decoding.beams)):
            made += self._part(language, part)
            bar.update(len(part))
        gathered = [caption for share in self.ranks.gather_objects(made) for caption in share]
        return sorted(gathered, key=lambda caption: caption.item)

    def _part(self, language: str, pairs: Sequence[tuple[int, int | None]]) -> list[Caption]:
        pixels = torch.stack([self.items[i].pixels for i, _ in pairs])
        references = [self.items[i].captions[language][0] for i, _ in pairs]
        outputs = self.speaker.captions(pixels, language, self.decoding)
        losses = self.speaker.losses(pixels, references, language)
        swapped = torch.stack([self.items[i if other is None else other].pixels for i, other in pairs])
        shuffled = self.speaker.losses(swapped, references, language)
        return [
            Caption(i, output, loss, None if other is None else far)
            for (i, other), output, loss, far in zip(pairs, outputs, losses, shuffled)
        ]

    def _text_scores(self, language: str, captions: Sequence[Caption]) -> TextScores:
        """By rank 0, for all: the libraries keep one core and, for English, a Java program busy."""
        error = missing()
        if error is not None:
            return TextScores({}, {}, (str(error),))
        own = None
        if self.ranks.main:
            references = [self.items[caption.item].captions[language] for caption in captions]
            own = text_scores(language, references, [caption.output for caption in captions])
        found = self.ranks.from_main(own)
        assert isinstance(found, TextScores)
        return found

    def _note(self, note: str) -> None:
        if self.ranks.main and note not in self.said:
            logger.warning("%s", note)
        self.said.add(note)


def derangement(image_ids: Sequence[Hashable], seed: int = 0) -> list[int | None]:
    """Another image for each, every one used once: place [n] -> place, the same at every call.

    None where only the same image (by `image_ids`) was to be had, as when there is one alone.
    """
    places = list(range(len(image_ids)))
    best: list[int | None] = [None] * len(places)
    for attempt in range(20):
        order = random.Random(seed + attempt).sample(places, len(places))
        found: list[int | None] = [None] * len(places)
        for here, there in zip(order, [*order[1:], *order[:1]]):
            found[here] = there if image_ids[here] != image_ids[there] else None
        if None not in found:
            return found
        best = found
    return best


def _split(pairs: Sequence, size: int) -> Iterator[Sequence]:
    return (pairs[start : start + size] for start in range(0, len(pairs), size))


def _distinct(captions: Sequence[Caption]) -> dict[str, float]:
    return {"distinct": 100 * len({caption.output for caption in captions}) / len(captions)}


def _losses(captions: Sequence[Caption]) -> dict[str, float]:
    found = {"loss": fmean(caption.loss for caption in captions)}
    pairs = [(c.loss, c.shuffled_loss) for c in captions if c.shuffled_loss is not None]
    if pairs:
        gaps = [shuffled - loss for loss, shuffled in pairs]
        low, high = mean_interval(gaps)
        found |= {"shuffled_loss": fmean(shuffled for _, shuffled in pairs), "loss_gap": fmean(gaps)}
        found |= {"loss_gap_low": low, "loss_gap_high": high}
    return found
