"""Held-out pictures come in shard order with the captions asked for."""

import logging
from pathlib import Path

import pytest
import torch
from made_shards import jpeg, sample, write_manifest, write_shard, write_source

from vglm_train.config.data import Source
from vglm_train.data.eval_captions import EvalSet
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


def test_first_images_workers_and_parts(uneven: Path, tmp_path: Path) -> None:
    second = write_source(tmp_path / "b", [4])
    whole = evalset(uneven, second, languages=("zh",), images=33)
    assert len(whole) == 33
    expected = [*range(31), 0, 1]
    assert [item.image_id for item in whole.items(workers=2)] == expected
    assert [[item.image_id for item in whole.items(0, part, 3)] for part in range(3)] == [
        expected[part::3] for part in range(3)
    ]
    assert set(next(iter(whole)).captions) == {"zh"}


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
