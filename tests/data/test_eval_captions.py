"""Held-out pictures come in shard order with the captions asked for."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from made_shards import jpeg, sample, write_manifest, write_shard, write_source

from vglm_train.config.data import Source
from vglm_train.data.eval_captions import EvalSet
from vglm_train.data.eval_choice import examples, few, share_out
from vglm_train.data.shards.shard import Shard
from vglm_train.errors import UserError
from vglm_train.image import eval_pixels, open_image


def evalset(*folders: Path, languages=("en", "zh"), images: int | None = None) -> EvalSet:
    return EvalSet([Source(name=f"s{n}", shards=str(f)) for n, f in enumerate(folders)], 16, languages, images)


def test_all_in_order(uneven: Path) -> None:
    items = list(evalset(uneven))
    assert [item.image_id for item in items] == list(range(31))
    assert items[3].key == "000003"
    assert items[3].captions == {"en": ("a photo number 3", "photo 3"), "zh": ("第3张照片",)}
    assert torch.equal(items[3].pixels, eval_pixels(open_image(jpeg(3)), 16))


def test_workers_and_parts(uneven: Path, tmp_path: Path) -> None:
    second = write_source(tmp_path / "b", [4])
    whole = evalset(uneven, second, languages=("zh",), images=33)
    assert len(whole) == 33
    expected = [(item.source, item.image_id) for item in whole.items()]
    assert expected[-4:] == [("s1", number) for number in range(4)], "all of the smaller source"
    assert [number for _, number in expected[:-4]] == sorted(set(range(31)) & {number for _, number in expected[:-4]})
    assert [(item.source, item.image_id) for item in whole.items(workers=2)] == expected
    assert [[(item.source, item.image_id) for item in whole.items(0, part, 3)] for part in range(3)] == [
        expected[part::3] for part in range(3)
    ]
    assert set(next(iter(whole)).captions) == {"zh"}


def in_language(folder: Path, language: str, first: int, count: int) -> list[dict[str, Any]]:
    numbers = range(first, first + count)
    return [sample(n, json=json.dumps({"image_id": n, "captions": {language: [f"{n}"]}}).encode()) for n in numbers]


def write(folder: Path, *shards: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, samples in enumerate(shards):
        write_shard(folder / f"{number}.tar", samples)
    write_manifest(folder, {f"{number}.tar": len(samples) for number, samples in enumerate(shards)})
    return folder


def chosen(found: EvalSet) -> dict[str, list[int]]:
    names: dict[str, list[int]] = {}
    for item in found:
        names.setdefault(item.source, []).append(item.image_id)
    return names


def test_a_choice_is_spread_over_sources_and_languages(tmp_path: Path) -> None:
    english = write(tmp_path / "en", in_language(tmp_path, "en", 0, 40), in_language(tmp_path, "en", 40, 30))
    both = write(tmp_path / "both", in_language(tmp_path, "en", 100, 40), in_language(tmp_path, "zh", 140, 5))
    small = write(tmp_path / "small", in_language(tmp_path, "zh", 200, 4))
    found = chosen(evalset(english, both, small, images=24))
    assert {source: len(items) for source, items in found.items()} == {"s0": 10, "s1": 10, "s2": 4}
    assert [number for number in found["s1"] if number >= 140] == list(range(140, 145)), "half of it, in Chinese"
    assert found["s0"] != list(range(10))
    assert any(number >= 40 for number in found["s0"]), "not from one shard"


def test_a_choice_is_stable(tmp_path: Path) -> None:
    """Whatever is added elsewhere, and whatever the order."""
    first = write(tmp_path / "a", in_language(tmp_path, "en", 0, 40))
    before = chosen(evalset(first, images=20))["s0"]
    assert chosen(evalset(first, images=20))["s0"] == before
    assert set(chosen(evalset(first, images=10))["s0"]) < set(before), "fewer are among those"
    second = write(tmp_path / "b", in_language(tmp_path, "zh", 50, 30))
    added = chosen(evalset(first, second, images=40))
    assert added["s0"] == before
    sources = [Source(name=name, shards=str(folder)) for name, folder in (("s1", second), ("s0", first))]
    assert chosen(EvalSet(sources, 16, ("zh", "en"), 40)) == added
    more = write(tmp_path / "a", in_language(tmp_path, "en", 0, 40), in_language(tmp_path, "en", 40, 20))
    kept = set(chosen(evalset(more, images=20))["s0"])
    assert kept - set(range(40, 60)) <= set(before)
    assert len(kept & set(before)) > 8
    packed = write(tmp_path / "c", in_language(tmp_path, "en", 30, 10), in_language(tmp_path, "en", 0, 30))
    assert sorted(chosen(evalset(packed, images=20))["s0"]) == before


def test_what_cannot_be_used_is_chosen_last(tmp_path: Path) -> None:
    members = [{"json": b"{"} if n % 2 else {} for n in range(20)]
    write_shard(tmp_path / "a.tar", [sample(n, **changes) for n, changes in enumerate(members)])
    write_manifest(tmp_path, {"a.tar": 22})  # two more than are there
    found = evalset(tmp_path, images=10)
    assert [item.image_id for item in found] == list(range(0, 20, 2))
    assert not found.damaged
    found = evalset(tmp_path, images=15)
    assert len(found) == 15
    assert len(list(found)) == 10
    assert sum(found.damaged.values()) == 5


def test_few_remote_shards_are_looked_at() -> None:
    def shard(number: int, url: str | None, **languages: int) -> Shard:
        name = f"{number}.tar"
        return Shard(name, Path(name), 100, 1, "", languages, url)

    remote = [shard(n, f"http://x/{n}.tar", en=100) for n in range(50)] + [shard(50, "http://x/50.tar", zh=100)]
    taken = few(remote, 150, ("en", "zh"))
    assert 2 <= len(taken) <= 4
    assert remote[50] in taken
    assert taken == few([*remote, shard(51, None, en=100)], 150, ("en", "zh"))[:-1]


def test_all_pictures_of_a_sample_where_they_are_looked_at(tmp_path: Path) -> None:
    several = [{"1.jpg": jpeg(50 + n), **({"2.jpg": jpeg(70 + n)} if n == 2 else {})} if n else {} for n in range(3)]
    write_shard(tmp_path / "a.tar", [sample(n, **more) for n, more in enumerate(several)])
    write_manifest(tmp_path, {"a.tar": 3})
    source = [Source(name="a", shards=str(tmp_path))]
    found = EvalSet(source, 16, ("en", "zh"), pictures=2)
    one, two = found.items()
    assert found.damaged == {"record": 1}, "of three pictures"
    assert one.pictures.shape == (1, 3, 16, 16)
    assert torch.equal(two.pictures[1], eval_pixels(open_image(jpeg(51)), 16))
    assert [len(item.pictures) for item in EvalSet(source, 16, ("en", "zh"))] == [1, 1, 1]


def test_shares() -> None:
    assert share_out([100, 100, 2], 10) == [4, 4, 2]
    assert share_out([5, 5], 100) == [5, 5]
    assert share_out([3, 3, 3], 2) == [1, 1, 0]
    assert share_out([], 5) == []
    assert share_out([0, 4], 3) == [0, 3]


def test_examples_take_turns() -> None:
    keys, groups = [str(n) for n in range(20)], ["b"] * 18 + ["a"] * 2
    taken = examples(keys, groups, 6)
    assert [groups[index] for index in taken] == ["a", "b", "a", "b", "b", "b"]
    assert taken[1] != 0
    turned = examples(keys[::-1], groups[::-1], 6)
    assert [keys[::-1][index] for index in turned] == [keys[index] for index in taken]
    assert examples([], [], 3) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_left_out_and_counted(tmp_path: Path, caplog, workers: int) -> None:
    members = [{}, {"jpg": b"x"}, {"json": b"{"}, {"json": b'{"captions": {"de": ["x"]}}'}, {}]
    write_shard(tmp_path / "a.tar", [sample(n, **changes) for n, changes in enumerate(members)])
    write_manifest(tmp_path, {"a.tar": 5})
    found = evalset(tmp_path)
    with caplog.at_level(logging.WARNING, logger="vglm_train"):
        assert [item.image_id for item in found.items(workers)] == [0, 4]
    assert found.damaged == {"image": 1, "record": 1, "caption": 1}
    assert sum("left out of the evaluation" in message for message in caplog.messages) == 3


def test_user_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no manifest"):
        evalset(tmp_path)


def test_global_generator_is_left_alone(uneven: Path) -> None:
    before = torch.get_rng_state()
    list(evalset(uneven, images=4).items(workers=1))
    assert torch.equal(before, torch.get_rng_state())
