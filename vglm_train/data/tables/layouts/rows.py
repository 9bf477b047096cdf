"""Rows of data sets whose keys nobody else uses, with the usual keys beside them.

A data set is told by keys that only it has, so that no other table is touched. Keys that a row has already stay.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from vglm_train.config.data import Fields
from vglm_train.data.tables.base import Row, RowReader, TableFile

Values = dict[str, Any]
_SHARD_DIGITS = 4  # of a key of img2dataset: the number within its shard


def _gqa(row: Values) -> Values:
    """`imageId` names N.jpg; the structural type of a question is its type."""
    types = row.get("types")
    kind = types.get("structural") if isinstance(types, dict) else None
    return {"image": row.get("imageId"), "type": kind}


def _karpathy(row: Values) -> Values:
    """Pictures stand in the folder `filepath`; restval is trained on with train, as everybody does."""
    sentences = row.get("sentences")
    texts = sentences if isinstance(sentences, list) else []
    return {
        "id": row.get("cocoid", row.get("imgid")),
        "image": "/".join(str(row[key]) for key in ("filepath", "filename") if row.get(key)) or None,
        "captions": [each.get("raw") for each in texts if isinstance(each, dict)],
        "split": "train" if row.get("split") == "restval" else row.get("split"),
    }


def _flickr30k(row: Values) -> Values:
    return {"image": row.get("image_name"), "caption": row.get("comment")}


def _token(row: Values) -> Values:
    """A picture's name is followed by # and the number of its caption."""
    return {"image": re.sub(r"#\w*$", "", str(row.get("image", ""))) or None}


def _aokvqa(row: Values) -> Values:
    """The direct answers are learned, without the choices, which are for another task: with fields: {answer:
    correct_choice_idx} they stay."""
    return {"answers": row.get("direct_answers")}


def _textvqa(row: Values) -> Values:
    return {"split": row.get("set_name")}


def _vqa_rad(row: Values) -> Values:
    """Its test questions are marked within one file."""
    phrase = row.get("phrase_type")
    return {"split": None if phrase is None else "test" if str(phrase).startswith("test") else "train"}


def _llava_med(row: Values) -> Values:
    """Its files spell the key without an i."""
    return {"conversations": row.get("conversatons")}


def _img2dataset(row: Values) -> Values:
    """A row of its tables names the file that was written beside it, where the download succeeded."""
    key = str(row.get("key") or "")
    named = f"{key[:-_SHARD_DIGITS]}/{key}.jpg" if len(key) > _SHARD_DIGITS else None
    return {"id": key or None, "image": named if row.get("status", "success") == "success" else None}


class DataSet(NamedTuple):
    """A data set, told by its keys."""

    marks: frozenset[str]  # keys that all of its rows have
    without: frozenset[str]  # keys that say that somebody gave the rows the usual keys already
    adds: tuple[str, ...]  # the usual keys that `adapt` gives
    adapt: Callable[[Values], Values]
    drops: tuple[str, ...] = ()  # keys that rows lose, where nobody names the key of their answer

    @property
    def name(self) -> str:
        return f"{self.adapt.__name__} {self.drops}"

    def __call__(self, row: Values) -> Values:
        kept = {key: held for key, held in row.items() if key not in self.drops}
        return kept | {key: held for key, held in self.adapt(row).items() if held is not None}


def _data_set(marks: str, without: str, adds: str, adapt: Callable[[Values], Values]) -> DataSet:
    return DataSet(frozenset(marks.split(",")), frozenset(without.split(",")), tuple(adds.split(",")), adapt)


TOKEN = _data_set("image,caption", "", "image", _token)
DATA_SETS = (
    _data_set("imageId,question", "image", "image,type", _gqa),
    _data_set("sentences,filename", "image,captions", "id,image,captions,split", _karpathy),
    _data_set("image_name,comment_number,comment", "caption", "image,caption", _flickr30k),
    _data_set("direct_answers,question_id", "answers", "answers", _aokvqa)._replace(drops=("choices",)),
    _data_set("set_name,question_id", "split", "split", _textvqa),
    _data_set("phrase_type,qid", "split", "split", _vqa_rad),
    _data_set("conversatons", "conversations", "conversations", _llava_med),
    _data_set("key,url,status", "image,jpg,png,webp", "id,image", _img2dataset),
)


class Step(Protocol):
    """Something that is done to each row."""

    @property
    def adds(self) -> tuple[str, ...]:
        """Keys that rows may have afterwards."""

    @property
    def name(self) -> str:
        """Of the step and its options."""

    def __call__(self, row: Values) -> Values: ...


Reader = TypeVar("Reader", bound=RowReader)


class AdaptedRows(Generic[Reader]):
    """Rows after a step."""

    def __init__(self, rows: Reader, step: Step) -> None:
        self.rows, self.step, self.unit = rows, step, rows.unit

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.rows.columns, *self.step.adds)))

    @property
    def size(self) -> int | None:
        return self.rows.size

    def scan(self) -> Iterator[Row]:
        for row in self.rows.scan():
            yield row if row.values is None else row._replace(values=self.step(row.values))

    def where(self, offset: int, size: int, number: int) -> str:
        return self.rows.where(offset, size, number)


class AdaptedTable(AdaptedRows[TableFile]):
    """A table after a step on each row."""

    def __init__(self, rows: TableFile, step: Step) -> None:
        super().__init__(rows, step)
        self.path: Path = rows.path

    @property
    def size(self) -> int:
        return self.rows.size

    @property
    def identity(self) -> str:
        return f"{self.rows.identity} {self.step.name}"

    def row(self, offset: int, size: int) -> Values:
        return self.step(self.rows.row(offset, size))


def find_data_set(columns: Sequence[str], named: Fields) -> DataSet | None:
    """The data set whose rows have these columns, if it is one of DATA_SETS. `named`: the keys that a person names."""
    keys = frozenset(columns)
    found = next((each for each in DATA_SETS if each.marks <= keys and not each.without & keys), None)
    return found if found is None or named.answer is None else found._replace(drops=())
