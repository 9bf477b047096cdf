"""Shards that are made when they are looked up are those that were put in."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vglm_train.data.shards.shard import Shard
from vglm_train.data.shards.shard_list import KEPT, JoinedShards, ShardList

FOLDER = Path("somewhere")
NAMES = st.text(st.characters(exclude_characters="\0/"), min_size=1, max_size=12).filter(lambda name: name != ".")
LANGUAGES = st.none() | st.dictionaries(st.sampled_from(["en", "zh"]), st.integers(0, 2**40), max_size=2)
COUNTS = st.integers(0, 2**60)


@st.composite
def shards(draw: st.DrawFn) -> tuple[Shard, ...]:
    names = draw(st.lists(NAMES, unique=True, max_size=6))
    hashes = st.text("0123456789abcdef", max_size=64)
    made = ((name, FOLDER / name, draw(COUNTS), draw(COUNTS), draw(hashes), draw(LANGUAGES)) for name in names)
    return tuple(Shard(*fields) for fields in made)


def with_address(shard: Shard) -> Shard:
    return replace(shard, url=f"https://host/{shard.name}")


@given(shards(), shards())
def test_what_is_put_in_comes_out(few: tuple[Shard, ...], more: tuple[Shard, ...]) -> None:
    made = ShardList(iter(few), FOLDER)
    assert tuple(made) == few
    assert [made[number] for number in range(len(made))] == list(few)
    assert [shard.languages for shard in made] == [shard.languages for shard in few]
    assert made.samples == [shard.samples for shard in few]
    assert made[1:] == few[1:]
    assert made == few
    assert pickle.loads(pickle.dumps(made)) == few
    assert tuple(ShardList(few, FOLDER, with_address)) == tuple(map(with_address, few))
    joined = JoinedShards([made, (), more])
    assert tuple(joined) == tuple(joined[number] for number in range(len(joined))) == few + more
    assert joined[-2:] == (few + more)[-2:]
    assert (made == few[:-1]) == (not few)


def test_beyond_the_last() -> None:
    made = ShardList([Shard("a", FOLDER / "a", 1, 2, "")], FOLDER)
    assert made[-1].name == "a"
    for number in (1, -2):
        with pytest.raises(IndexError):
            made[number]
    with pytest.raises(IndexError):
        JoinedShards([made])[1]


def test_few_of_many_are_kept() -> None:
    made = ShardList((Shard(str(number), FOLDER / str(number), 1, 2, "") for number in range(3 * KEPT)), FOLDER)
    assert made[5] is made[5]
    assert [made[number].name for number in range(3 * KEPT)] == [str(number) for number in range(3 * KEPT)]
    assert len(made._last) == KEPT
