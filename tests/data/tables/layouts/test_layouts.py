"""Each layout of a published data set, drawn as training draws it: these rows, these pictures, these splits."""

import pickle
from pathlib import Path
from typing import Any

import datasets
import pytest
from made_layouts import LAYOUTS, Made, Said
from made_shards import jpeg

from vglm_train.config.data import Source
from vglm_train.data.record import DamagedSample, parse
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError

NUMBERS = {jpeg(number): number for number in range(100)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's copies of Parquet files go with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def source(made: Made) -> Source:
    return Source(name="made", table=str(made.table), **made.options)


def said(raw: Any, split: str | None) -> list[Said]:
    """What a sample says, in the words of `Made.said`."""
    record = parse(raw.json)
    pictures = tuple(NUMBERS[image] for image in raw.images)
    if record.turns:
        return [(split, pictures, "turns", *(text for turn in record.turns for text in turn))]
    return [(split, pictures, "caption", text) for texts in record.captions.values() for text in texts]


def drawn(table: Table, split: str | None) -> tuple[list[Said], int]:
    """Everything that training would draw of a split, and how many samples are damaged."""
    manifest = pickle.loads(pickle.dumps(table.manifest(table.usable(split))))  # as a spawned worker gets it
    reader, found, damaged = ShardReader(1), [], 0
    for shard in manifest.shards:
        for index in range(shard.samples):
            try:
                found += said(reader.read(shard, index), split)
            except DamagedSample:
                damaged += 1
    return found, damaged


@pytest.mark.parametrize("name", LAYOUTS)
def test_training_draws_exactly_these_rows(name: str, tmp_path: Path) -> None:
    made = LAYOUTS[name](tmp_path)
    table = Table(source(made))
    splits = list(dict.fromkeys(each[0] for each in made.said))
    found, damaged = [], 0
    for split in splits:
        own, lost = drawn(table, split)
        found, damaged = found + own, damaged + lost
    assert sorted(found, key=str) == sorted(made.said, key=str)
    assert len(table.index) == made.rows
    if splits == [None]:
        assert damaged + table.index.count("text") == made.bad


@pytest.mark.parametrize("name", ["karpathy", "r2gen", "vqa_rad", "muge", "parquet", "tars_by_pattern"])
def test_a_table_of_several_splits_is_read_one_at_a_time(name: str, tmp_path: Path) -> None:
    table = Table(source(LAYOUTS[name](tmp_path)))
    with pytest.raises(UserError, match="Set split in the source to one"):
        table.usable()
