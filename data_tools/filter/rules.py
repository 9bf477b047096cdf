"""What a record and its captions must be to stay: the rules of `filter`, and what its workers run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_tools.common.models import Devices, ModelSpec, Scorer, load_scorer
from data_tools.common.records import Block, RecordItem, moved, read_block
from data_tools.common.text import caption_length, detect_language
from vglm_train.config.data import Image as ImageSection
from vglm_train.data.record import RecordError
from vglm_train.image import ImageError, eval_pixels, read_header

AT_ONCE = 32  # pictures scored in one go


@dataclass(frozen=True, slots=True)
class Rules:
    """None, or empty: no such rule. Sizes in pixels; lengths in words, Chinese in characters, by language."""

    min_width: int | None = None
    max_width: int | None = None
    min_height: int | None = None
    max_height: int | None = None
    max_aspect: float | None = None  # longer side over shorter
    min_length: Mapping[str, int] = field(default_factory=dict)
    max_length: Mapping[str, int] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    match_language: bool = False  # the caption's letters are those of its language
    min_similarity: float | None = None  # ITC, from -1 to 1
    min_match: float | None = None  # ITM, a probability

    @property
    def sizes(self) -> bool:
        """Whether a rule looks at the picture's size."""
        return any((self.min_width, self.max_width, self.min_height, self.max_height, self.max_aspect))

    def broken_size(self, width: int, height: int) -> tuple[str, Any] | None:
        """The first rule on the picture that is broken, and the value."""
        aspect = max(width, height) / min(width, height)
        limits = (("min_width", width, self.min_width), ("max_width", width, self.max_width),
                  ("min_height", height, self.min_height), ("max_height", height, self.max_height),
                  ("max_aspect", round(aspect, 3), self.max_aspect))  # fmt: skip
        for name, value, limit in limits:
            if limit is not None and (value < limit if name.startswith("min") else value > limit):
                return name, value
        return None

    def broken_text(self, text: str, language: str) -> tuple[str, Any] | None:
        """The first rule on a caption that is broken, and the value."""
        if self.languages and language not in self.languages:
            return "language", language
        if self.match_language and (letters := detect_language(text)) != language:
            return "match_language", letters
        length = caption_length(text, language)
        if length < self.min_length.get(language, 0):
            return "min_length", length
        if language in self.max_length and length > self.max_length[language]:
            return "max_length", length
        return None


@dataclass(frozen=True, slots=True)
class Filtering:
    """Everything that workers need."""

    rules: Rules
    out: Path
    model: ModelSpec | None
    devices: Devices


@dataclass(slots=True)
class Candidate:
    """A record under judgement. `lost`: captions that go, with rule and value; `gone`: why the whole record goes."""

    item: RecordItem
    captions: dict[str, list[str]] = field(default_factory=dict)
    lost: list[tuple[str, str, str, Any]] = field(default_factory=list)  # language, caption, rule, value
    gone: tuple[str, Any] | None = None

    def drop(self, language: str, caption: str, rule: str, value: Any) -> None:
        self.captions[language].remove(caption)
        self.lost.append((language, caption, rule, value))


def filter_block(filtering: Filtering, block: Block) -> bytes:
    """What becomes of a block's records, as a part: lines `[where it goes, line]`, see `data_tools.common.results`."""
    candidates = [_candidate(item, filtering) for item in read_block(block)]
    scores: list[tuple[str, float]] = []
    if filtering.model is not None:
        judging = load_scorer(filtering.model, filtering.devices)
        alive = [candidate for candidate in candidates if candidate.gone is None]
        threads = max(1, 8 // filtering.devices.processes) if filtering.devices.gpus else 1
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(alive), AT_ONCE):
                scores += _score(alive[start : start + AT_ONCE], filtering.rules, judging, pool)
    lines = [line for candidate in candidates for line in _outcome(candidate, filtering.out)]
    lines += [json.dumps(["score", score]) for score in scores]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _candidate(item: RecordItem, filtering: Filtering) -> Candidate:
    """A record after the rules that need no model."""
    candidate, rules = Candidate(item), filtering.rules
    try:
        candidate.captions = {language: list(texts) for language, texts in item.record.captions.items()}
        for language, texts in item.record.captions.items():
            for text in texts:
                if (broken := rules.broken_text(text, language)) is not None:
                    candidate.drop(language, text, *broken)
        if not any(candidate.captions.values()):
            candidate.gone = "no caption left", None
        elif rules.sizes:
            header = read_header(item.image())
            candidate.gone = rules.broken_size(header.width, header.height)
    except (RecordError, ImageError) as error:
        candidate.gone = error.cause, str(error)
    return candidate


def _score(
    candidates: Sequence[Candidate], rules: Rules, judging: Scorer, pool: ThreadPoolExecutor
) -> Iterator[tuple[str, float]]:
    """Drop captions by the model; yields every score. Languages that it was not trained on are left alone."""
    made = pool.map(partial(_pixels, judging.size, judging.image), candidates)
    decoded = [(candidate, pixels) for candidate, pixels in zip(candidates, made) if pixels is not None]
    if not decoded:
        return
    raw, features = judging.see(torch.stack([pixels for _, pixels in decoded]))
    for language in judging.languages:
        pairs = [(n, text) for n, (candidate, _) in enumerate(decoded) for text in candidate.captions.get(language, ())]
        owners, texts = [n for n, _ in pairs], [text for _, text in pairs]
        if pairs and rules.min_similarity is not None:
            values = judging.similarity(features, owners, texts, language)
            yield from _apply("min_similarity", rules.min_similarity, language, values, pairs, decoded)
        if pairs and rules.min_match is not None:
            values = judging.match(raw, owners, texts, language)
            yield from _apply("min_match", rules.min_match, language, values, pairs, decoded)
    for candidate, _ in decoded:
        if not any(candidate.captions.values()):
            candidate.gone = "no caption left", None


def _pixels(size: int, image: ImageSection, candidate: Candidate) -> Tensor | None:
    """uint8 [3,size,size], or none and the candidate knows why."""
    try:
        return eval_pixels(candidate.item.picture(image.resize or size), size, image.decoder, image)
    except RecordError as error:
        candidate.gone = error.cause, str(error)
        return None


def _apply(
    rule: str,
    limit: float,
    language: str,
    values: Sequence[float],
    pairs: Sequence[tuple[int, str]],
    decoded: Sequence[tuple[Candidate, Tensor]],
) -> Iterator[tuple[str, float]]:
    """Drop the captions whose value is below the limit; yields every value."""
    for value, (owner, text) in zip(values, pairs):
        yield rule, round(value, 4)
        candidate = decoded[owner][0]
        if value < limit and text in candidate.captions[language]:
            candidate.drop(language, text, rule, round(value, 4))


def _outcome(candidate: Candidate, out: Path) -> Iterator[str]:
    item = candidate.item
    origin = {"id": item.id, "place": item.where}
    for language, caption, rule, value in candidate.lost:
        entry = {**origin, "what": "caption", "rule": rule, "value": value, "language": language, "caption": caption}
        yield json.dumps(["dropped", entry], ensure_ascii=False)
    if candidate.gone is not None:
        rule, value = candidate.gone
        yield json.dumps(["dropped", {**origin, "what": "record", "rule": rule, "value": value}], ensure_ascii=False)
        return
    captions = {language: texts for language, texts in candidate.captions.items() if texts}
    yield json.dumps(["kept", moved(item, out, captions=captions)], ensure_ascii=False)
