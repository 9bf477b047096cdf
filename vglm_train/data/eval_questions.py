"""Held-out questions with their true answers, as an evaluation asks them."""

import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vglm_train.config.data import Source
from vglm_train.data.eval_choice import Candidates, choose
from vglm_train.data.prefetch import read_ahead
from vglm_train.data.record import DamagedSample, Record, RecordError, parse
from vglm_train.data.rules import dialogue_of
from vglm_train.data.sample import StoredSample, use_sample
from vglm_train.data.shards.index import LANGUAGES
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.data.splits import SplitSource, name_of, open_part
from vglm_train.data.tables.table import TableSlice
from vglm_train.errors import UserError
from vglm_train.image import Decoder, Fit, open_image, whole_pixels
from vglm_train.prompt.dialogue import Dialogue

Kind = Literal["closed", "open", "report"]
POLAR = frozenset(
    ("yes", "no", "true", "false", "是", "否", "不是", "是的", "有", "没有", "无", "对", "不对", "正确", "错误")
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EvalQuestion:
    """One question about a row's pictures."""

    key: str  # of the row; its second question has :1, and so on
    image_id: int  # of the first picture
    group: str | None
    pixels: Tensor  # [k,3,h,w] uint8, eval transform: the pictures that the dialogue shows
    dialogue: Dialogue  # its answer is None; true answers in the history; no question: the picture is described
    kind: Kind
    answers: tuple[str, ...]  # that are right: one, VQAv2's ten, a picture's captions
    type: str | None = None  # what the row calls it: plane, abnormality, ...
    picture: str = ""  # the first picture, as the row names it
    source: str = ""
    options: tuple[str, ...] = ()  # the choices that the question gives, in order
    index: int = -1  # in its QuestionSet


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with what is right, without its pictures; fields as of EvalQuestion."""

    dialogue: Dialogue  # neither history nor pictures
    kind: Kind
    answers: tuple[str, ...]
    type: str | None = None


class QuestionSet(Dataset[Any]):
    """`limit` questions of `sources` (all, if None) in one of `languages`, spread over sources and languages as
    `eval_choice` says, in the order of the sources.

    A dialogue asks once a turn; captions are the answers to no question, once a language. `kind` is what the row says
    (under kind, answer_type or type), else closed where it gives options or every answer is a yes or no, else open;
    of captions it is report. Iterating leaves out damaged rows, counts them in `damaged` by cause and names them in
    the log. `unasked` counts the rows in which there is nothing to ask. Raises UserError as training does.
    """

    def __init__(
        self,
        sources: Sequence[Source | SplitSource],
        size: int,
        languages: Sequence[str],
        limit: int | None = None,
        decoder: Decoder | None = None,
        fit: Fit | None = None,
    ) -> None:
        manifests = [open_part(source, languages) for source in sources]
        self.shards = [shard for manifest in manifests for shard in manifest.shards]
        self.names = [name_of(source) for source, manifest in zip(sources, manifests) for _ in manifest.shards]
        self.size, self.languages, self.decoder, self.fit = size, tuple(languages), decoder, fit
        self.reader = ShardReader(capacity=2)
        self.damaged: Counter[str] = Counter()
        self.unasked: Counter[str] = Counter()  # language (another one), picture (names none) -> rows
        questions = [self._languages(shard) for shard in self.shards]
        self.ends = [np.cumsum([len(row) for row in rows]) for rows in questions]  # questions up to each record
        self.starts = list(accumulate((int(ends[-1]) for ends in self.ends), initial=0))
        self.positions: Sequence[int] = range(self.starts[-1])
        if limit is not None and limit < len(self.positions):
            self.positions = choose(map(self._candidates, range(len(self.shards)), questions), limit)
        silent = sum(int((np.diff(ends, prepend=0) == 0).sum()) for ends in self.ends)
        tables = {shard.table for shard in self.shards if isinstance(shard, TableSlice)}
        self.unasked["language"], self.unasked["picture"] = silent, sum(t.index.count("text") for t in tables)

    def __len__(self) -> int:
        """Questions; a damaged row counts as one."""
        return len(self.positions)

    def __getitem__(self, index: int) -> EvalQuestion | DamagedSample:
        number, row, nth = self._position_of(index)
        source = self.names[number]
        try:
            return use_sample(
                self.reader, self.shards[number], row, lambda stored: self._question(stored, nth, index, source)
            )
        except DamagedSample as damage:
            return damage

    def pictures(self, item: EvalQuestion) -> list[Image.Image]:
        """The pictures of one of its questions, upright and whole, of their own size. UserError if they are gone."""
        number, row, _ = self._position_of(item.index)
        count = len(item.pixels)
        try:
            return use_sample(
                self.reader, self.shards[number], row, lambda s: [open_image(i) for i in s.images[:count]]
            )
        except DamagedSample as damage:
            raise UserError(f"a picture cannot be read any more: {damage}") from damage

    def items(self, workers: int = 0, part: int = 0, parts: int = 1) -> Iterator[EvalQuestion]:
        """The usable ones of questions part, part + parts, ... in order; `workers` processes decode (0: this one)."""
        self.damaged.clear()
        indices = range(part, len(self), parts)
        for item in read_ahead(self, indices, workers):
            if isinstance(item, EvalQuestion):
                yield item
            else:
                self.damaged[item.cause] += 1
                logger.warning("left out of the evaluation: %s", item)

    def answers(self) -> Iterator[Answered]:
        """All that `items` would ask were no picture damaged, without reading any; `damaged` counts as there."""
        self.damaged.clear()
        for index in range(len(self)):
            number, row, nth = self._position_of(index)
            try:
                record = parse(self.reader.record_json(self.shards[number], row))
            except (DamagedSample, RecordError) as damage:
                self.damaged[damage.cause] += 1
                continue
            yield self._answered(record, nth)

    def _position_of(self, index: int) -> tuple[int, int, int]:
        """The number of a question's shard, its row there, and which of the row's questions it is."""
        position = self.positions[index]
        number = bisect_right(self.starts, position) - 1
        ends, position = self.ends[number], position - self.starts[number]
        row = int(np.searchsorted(ends, position, side="right"))
        return number, row, position - (int(ends[row - 1]) if row else 0)

    def _candidates(self, number: int, questions: Sequence[Sequence[str]]) -> Candidates:
        """`questions`: the language of each question of each row of shard `number`."""
        try:
            keys, _ = self.reader.keys_and_languages(self.shards[number])
        except DamagedSample:  # the shard cannot be fetched
            keys = []
        keys = [_key(key, nth) for key, row in zip(keys, questions) for nth in range(len(row))]
        bits = [1 << LANGUAGES.index(name) if name else 0 for row in questions for name in row]
        return Candidates.of(self.names[number], self.starts[number], keys, bits)

    def _languages(self, shard: Shard) -> list[list[str]]:
        """The language of each question of each row. A damaged row has one of none, so that it is counted."""
        if not isinstance(shard, TableSlice):
            return [self._languages_of(shard, row) for row in range(shard.samples)]
        index, rows = shard.table.index, shard.rows
        columns = (index.languages[rows], index.turn_languages[rows], index.turns[rows])
        found = []
        for bits, turn_bits, turns in zip(*(column.tolist() for column in columns)):
            dialogue = [name for name in self.languages if turn_bits >> LANGUAGES.index(name) & 1]
            captions = [name for name in self.languages if bits >> LANGUAGES.index(name) & 1]
            found.append((dialogue * turns or captions) if bits else [""])
        return found

    def _languages_of(self, shard: Shard, row: int) -> list[str]:
        try:
            record = parse(self.reader.record_json(shard, row))
        except (DamagedSample, RecordError):
            return [""]
        return [asked if isinstance(asked, str) else str(record.language) for asked in self._askable(record)]

    def _askable(self, record: Record) -> list[int | str]:
        """What can be asked: turns, or languages of captions, as training learns them."""
        if record.turns and record.language in self.languages:
            return list(range(len(record.turns)))
        return [name for name in self.languages if name in record.captions]

    def _question(self, stored: StoredSample, nth: int, index: int, source: str) -> EvalQuestion:
        record, images = stored.record, stored.images
        answered, asked = self._answered(record, nth), self._askable(record)[nth]
        if isinstance(asked, str):
            dialogue = replace(answered.dialogue, images=len(images))
        else:
            dialogue = dialogue_of(record, asked, len(images))
        pixels = [whole_pixels(image, self.size, self.decoder, self.fit) for image in images[: dialogue.images]]
        return EvalQuestion(
            key=_key(stored.key, nth),
            image_id=stored.image_id,
            group=record.group,
            pixels=torch.stack(pixels),
            dialogue=replace(dialogue, answer=None),
            kind=answered.kind,
            answers=answered.answers,
            type=answered.type,
            picture=record.image,
            source=source,
            options=record.options if asked == len(record.turns) - 1 else (),
            index=index,
        )

    def _answered(self, record: Record, nth: int) -> Answered:
        asked = self._askable(record)[nth]
        if isinstance(asked, str):
            return Answered(Dialogue("", None, language=asked), "report", record.captions[asked], record.type)
        question, _ = record.turns[asked]
        answers = record.answers_to(asked)
        kind = record.kind if record.kind in get_args(Kind) else _kind(answers)
        dialogue = Dialogue(question, None, language=record.language or "en")
        return Answered(dialogue, cast(Kind, kind), answers, record.type)


def _key(key: str, nth: int) -> str:
    """Of a row's question."""
    return f"{key}:{nth}" if nth else key


def _kind(answers: Sequence[str]) -> Kind:
    polar = all(answer.strip().strip(".!。！").lower() in POLAR for answer in answers)
    return "closed" if polar else "open"
