"""Held-out questions with their true answers, as an evaluation asks them."""

import json
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vglm_train.config.data import Source
from vglm_train.data.index import LANGUAGES
from vglm_train.data.manifest import Shard
from vglm_train.data.prompt_rows import dialogue_of
from vglm_train.data.raw import DamagedSample, RawSample
from vglm_train.data.record import Record, RecordError, content_id, parse
from vglm_train.data.shards import ShardReader
from vglm_train.data.sources import Part, open_part
from vglm_train.data.tables.table import TableShard
from vglm_train.data.workers import read_ahead
from vglm_train.image import ImageError, eval_pixels, open_image
from vglm_train.prompt.dialogue import Dialogue, MarkMismatch

Kind = Literal["closed", "open", "report"]
POLAR = frozenset(
    ("yes", "no", "true", "false", "是", "否", "不是", "是的", "有", "没有", "无", "对", "不对", "正确", "错误")
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
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


class QuestionSet(Dataset):
    """The first `limit` questions of `sources` (all, if None) in one of `languages`, in the order of the sources.

    A dialogue asks once a turn; captions are the answers to no question, once a language. `kind` is what the row says
    (under kind, answer_type or type), else closed where it gives options or every answer is a yes or no, else open;
    of captions it is report. Iterating leaves out damaged rows, counts them in `damaged` by cause and names them in
    the log. Raises UserError as training does.
    """

    def __init__(
        self, sources: Sequence[Source | Part], size: int, languages: Sequence[str], limit: int | None = None
    ) -> None:
        manifests = [open_part(source, languages) for source in sources]
        self.shards = [shard for manifest in manifests for shard in manifest.shards]
        self.size, self.languages = size, tuple(languages)
        self.reader = ShardReader(capacity=2)
        self.damaged: Counter[str] = Counter()
        self.ends = [np.cumsum(self._counts(shard)) for shard in self.shards]  # questions up to each record
        self.starts = list(accumulate((int(ends[-1]) for ends in self.ends), initial=0))
        self.questions = self.starts[-1] if limit is None else min(limit, self.starts[-1])

    def __len__(self) -> int:
        """Questions; a damaged row counts as one."""
        return self.questions

    def __getitem__(self, index: int) -> Asked | DamagedSample:
        place = range(self.questions)[index]
        number = bisect_right(self.starts, place) - 1
        shard, ends, place = self.shards[number], self.ends[number], place - self.starts[number]
        row = int(np.searchsorted(ends, place, side="right"))
        nth = place - (int(ends[row - 1]) if row else 0)
        try:
            raw = self.reader.read(shard, row)
        except DamagedSample as damage:
            return damage
        try:
            return self._asked(raw, nth)
        except (RecordError, MarkMismatch) as error:
            cause = error.cause if isinstance(error, RecordError) else "record"
            return DamagedSample(cause, shard.name, raw.key, str(error))
        except ImageError as error:
            return DamagedSample("bomb" if error.cause == "bomb" else "image", shard.name, raw.key, str(error))

    def items(self, workers: int = 0, part: int = 0, parts: int = 1) -> Iterator[Asked]:
        """The usable ones of questions part, part + parts, ... in order; `workers` processes decode (0: this one)."""
        self.damaged.clear()
        places = range(part, self.questions, parts)
        for item in read_ahead(self, places, workers):
            if isinstance(item, Asked):
                yield item
            else:
                self.damaged[item.cause] += 1
                logger.warning("left out of the evaluation: %s", item)

    def _counts(self, shard: Shard) -> NDArray[np.int64]:
        """[samples] questions of each record; one of a damaged record, so that it is told."""
        if isinstance(shard, TableShard):
            index, rows = shard.table.index, shard.rows
            spoken, turns = index.languages[rows], index.turns[rows].astype(np.int64)
            wanted = np.stack([spoken >> LANGUAGES.index(name) & 1 for name in self.languages])
            asked = np.where(turns > 0, turns * wanted.any(0), wanted.sum(0))
            return np.where(spoken == 0, 1, asked)
        return np.array([self._count(shard, row) for row in range(shard.samples)], dtype=np.int64)

    def _count(self, shard: Shard, row: int) -> int:
        try:
            return len(self._places(parse(self.reader.read(shard, row).json)))
        except (DamagedSample, RecordError):
            return 1

    def _places(self, record: Record) -> list[int | str]:
        """What can be asked: turns, or languages of captions."""
        if record.turns:
            return list(range(len(record.turns))) if record.language in self.languages else []
        return [name for name in self.languages if name in record.captions]

    def _asked(self, raw: RawSample, nth: int) -> Asked:
        record, fields = parse(raw.json), json.loads(raw.json)
        images = (raw.image, *raw.more)
        place = self._places(record)[nth]
        if isinstance(place, str):
            dialogue = Dialogue("", None, language=place, images=len(images))
            answers, kind = record.captions[place], "report"
        else:
            dialogue = dialogue_of(record, place, len(images))
            answers = _answers(fields, dialogue)
            kind = record.kind or _kind(answers)
        pixels = [eval_pixels(open_image(image), self.size) for image in images[: dialogue.images]]
        return Asked(
            key=f"{raw.key}:{nth}" if nth else raw.key,
            image_id=content_id(raw.image) if record.image_id is None else record.image_id,
            group=record.group,
            pixels=torch.stack(pixels),
            dialogue=replace(dialogue, answer=None),
            kind=cast(Kind, kind if kind in get_args(Kind) else _kind(answers)),
            answers=answers,
            type=None if fields.get("type") is None else str(fields["type"]),
            picture=record.image,
        )


def _answers(fields: Any, dialogue: Dialogue) -> tuple[str, ...]:
    """All that are right of a row that gives several, else the dialogue's own."""
    several = fields.get("answers")
    return tuple(map(str, several)) if several else (dialogue.answer or "",)


def _kind(answers: Sequence[str]) -> Kind:
    polar = all(answer.strip().strip(".!。！").lower() in POLAR for answer in answers)
    return "closed" if polar else "open"
