"""Each kind of damage is counted under its cause, named in the log, and harms no other sample."""

import io
import json
import logging
import math
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from made_shards import jpeg, sample, write_manifest, write_shard
from PIL import Image

from vglm_train.batch import CAUSES
from vglm_train.data.loader import Loader
from vglm_train.data.processors import draw_caption
from vglm_train.data.record import RecordError, parse
from vglm_train.data.sample import sample_rng
from vglm_train.data.shards.tar import read_tar_index

PER_SHARD, SHARDS = 8, 3
N = PER_SHARD * SHARDS


def bomb() -> bytes:
    out = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(out, "PNG")
    return out.getvalue()


def record(captions: object) -> bytes:
    return json.dumps({"id": "x", "image_id": 1, "captions": captions}).encode()


DAMAGE = {
    1: ({"jpg": jpeg(1)[:300]}, "image"),
    4: ({"jpg": b"not a picture"}, "image"),
    6: ({"jpg": None}, "image"),
    8: ({"jpg": None, "png": bomb()}, "bomb"),
    9: ({"json": record({})}, "caption"),
    11: ({"json": record({"en": [" "]})}, "caption"),
    14: ({"json": record({"fr": ["un chien"]})}, "caption"),
    15: ({"json": b"{"}, "record"),
    17: ({"json": None}, "record"),
    N - 1: ({}, "truncated"),
}


def write(folder: Path, damage: dict) -> Path:
    folder.mkdir()
    for shard in range(SHARDS):
        numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
        write_shard(folder / f"{shard}.tar", [sample(n, **damage.get(n, ({},))[0]) for n in numbers])
    if N - 1 in damage:
        last = folder / f"{SHARDS - 1}.tar"
        image = read_tar_index(last).offsets[PER_SHARD - 1][0]
        last.write_bytes(last.read_bytes()[: int(image) + 100])
    write_manifest(folder, {f"{shard}.tar": PER_SHARD for shard in range(SHARDS)})
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_counted_by_cause_and_nothing_else_changes(loader_of, tmp_path: Path, workers: int) -> None:
    options = {"workers": workers, "micro": 4}
    damaged = list(islice(loader_of(write(tmp_path / "damaged", DAMAGE), **options).batches(0), N // 4))
    whole = list(islice(loader_of(write(tmp_path / "whole", {}), **options).batches(0), N // 4))
    counts: Counter[str] = Counter()
    for bad, good in zip(damaged, whole):
        rows = bad.valid
        assert torch.equal(rows, torch.tensor([int(n) not in DAMAGE for n in good.image_ids]))
        assert sum(bad.damaged.values()) == int((~rows).sum())
        counts.update(bad.damaged)
        for name in ("pixels", "text_ids", "text_mask", "image_ids"):
            assert torch.equal(getattr(bad, name)[rows], getattr(good, name)[rows])
        assert not bad.pixels[~rows].any()
        assert not bad.text_mask[~rows].any()
        assert good.valid.all()
        assert not good.damaged
    assert counts == Counter(cause for _, cause in DAMAGE.values())
    assert set(counts) == set(CAUSES) - {"unreachable"}


def test_named_in_the_log_at_most_ten_times_an_epoch(loader_of, tmp_path: Path, caplog) -> None:
    everything = {n: ({"jpg": b"not a picture"}, "image") for n in range(N - 1)}
    loader: Loader = loader_of(write(tmp_path / "a", everything))
    with caplog.at_level(logging.WARNING, logger="vglm_train"):
        list(islice(loader.batches(0), math.ceil(2 * N / 12)))
    lines = [
        message for message in caplog.messages if message.startswith("damaged sample in ") and "(image)" in message
    ]
    assert len(lines) == 2 * 10
    assert lines[0].startswith("damaged sample in source0: "), "two sources may have files of one name"
    assert "0.tar" in "".join(lines)
    assert ", key 0000" in lines[0]
    assert sum("only counted" in message for message in caplog.messages) == 2


def test_captions_are_drawn_at_equal_weight() -> None:
    """4,000 epochs of one record: languages half and half though one has four captions; captions alike in each."""
    captions = {"zh": ["一"], "en": ["a", "b", "c", "d"]}
    drawn = Counter(
        draw_caption(parse({"captions": captions}), ("en", "zh"), sample_rng(1, epoch, "key")) for epoch in range(4000)
    )
    assert drawn["zh", "一"] == pytest.approx(2000, abs=4 * math.sqrt(1000))
    for caption in "abcd":
        assert drawn["en", caption] == pytest.approx(500, abs=4 * math.sqrt(500 * 7 / 8))


def test_only_languages_asked_for_and_there() -> None:
    both, english = parse({"captions": {"en": ["a"], "zh": ["一"]}}), parse({"captions": {"en": ["a"]}})
    for epoch in range(20):
        assert draw_caption(both, ("zh",), sample_rng(0, epoch, "k")) == ("zh", "一")
        assert draw_caption(english, ("en", "zh"), sample_rng(0, epoch, "k")) == ("en", "a")
    with pytest.raises(RecordError, match=r"its captions are in en, data\.languages is \[zh\]"):
        draw_caption(english, ("zh",), sample_rng(0, 0, "k"))


def test_randomness_of_a_sample_is_a_function_of_seed_epoch_and_key() -> None:
    assert sample_rng(42, 0, "000001").random() == 0.014276086094773599
    rolls = {sample_rng(seed, epoch, key).random() for seed in (1, 2) for epoch in (1, 2) for key in ("1", "2", "图")}
    assert len(rolls) == 12
