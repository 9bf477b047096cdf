"""Like lengths meet: the same samples, the same loss, less padding."""

import itertools
import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_language
import torch
from made_shards import sample, write_manifest, write_shard
from precision import EXACT, in_float64
from torch import Tensor

from vglm_train.batch import PromptBatch
from vglm_train.config.check import check, length_window
from vglm_train.config.data import Data, Source
from vglm_train.config.run import Objective, Run
from vglm_train.config.validation import FieldError
from vglm_train.data.record import DamagedSample
from vglm_train.data.sample import read_sample
from vglm_train.data.sampling.length_buckets import LengthBuckets, TextLengths
from vglm_train.data.shards.index import estimate_tokens, index_path, make_index, read_index, write_index
from vglm_train.objective.generation import GenerationObjective


def length(row: int) -> int:
    return row * 7919 % 101


def test_a_window_of_one_keeps_each_batch_and_sorts_it() -> None:
    seats = LengthBuckets(length, 12, 1, 0)
    for step in (0, 5, 2):
        places = seats.batch(step).tolist()
        assert sorted(places) == list(range(12 * step, 12 * step + 12))
        lengths = [length(place) for place in places]
        assert lengths == sorted(lengths, reverse=True)


def test_blocks_stay_together() -> None:
    places = LengthBuckets(length, 12, 1, 0, block=4).batch(3)
    assert [sorted(block) for block in places.reshape(3, 4).tolist()] == [
        list(range(start, start + 4)) for start in (36, 40, 44)
    ]


def test_a_longer_window_has_batches_of_like_lengths_in_no_order() -> None:
    seats = LengthBuckets(length, 8, 6, 0)
    means = []
    for window in range(20):
        batches = [seats.batch(6 * window + nth).tolist() for nth in range(6)]
        assert sorted(itertools.chain(*batches)) == list(range(48 * window, 48 * window + 48))
        means.append([np.mean([length(place) for place in batch]) for batch in batches])
        spread = np.mean([np.ptp([length(place) for place in batch]) for batch in batches])
        assert spread < 30
    ranks = np.argsort(np.argsort(means, axis=1), axis=1)
    assert abs(ranks.mean(0) - 2.5).max() < 1.2  # deviation of a mean of 20 even draws of 0..5: 0.38
    assert len({tuple(row) for row in ranks.tolist()}) > 15


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """40 samples in 3 shards, captions of unequal lengths and numbers in one language or both; one is damaged."""
    number = 0
    for shard, count in enumerate((15, 20, 5)):
        content = []
        for _ in range(count):
            captions = {"en": [f"a photo number {number} " * (1 + k) for k in range(number % 4)]}
            captions["zh"] = ["第张照片" * (1 + (number + k) % 5) for k in range((number + 1) % 3)]
            record = {"id": str(number), "image_id": number, "captions": captions if number != 7 else {}}
            content.append(sample(number, json=json.dumps(record).encode()))
            number += 1
        write_shard(tmp_path / f"{shard}.tar", content)
    manifest = write_manifest(tmp_path, {"0.tar": 15, "1.tar": 20, "2.tar": 5})
    for entry in manifest.shards:
        write_index(entry.path, make_index(entry.path), entry.sha256)
    return tmp_path


@pytest.mark.parametrize("indexed", [2, 1, 0])
def test_the_length_is_that_of_the_caption_drawn(loader_of, source: Path, indexed: int, monkeypatch) -> None:
    """With an index, with one of version 1, which knows no lengths, and with none."""
    for path in source.glob("*.idx"):
        if indexed == 1:
            older(path)
        elif indexed == 0:
            path.unlink()
    if indexed == 2:
        monkeypatch.setattr("vglm_train.data.shards.reader.read_caption_counts", None)
    dataset = loader_of(source).dataset
    lengths = TextLengths(dataset.mixture, dataset.reader, dataset.builder.seed, ("en", "zh"))
    found = Counter()
    for row in range(80):
        place = dataset.mixture.at(row)
        try:
            text = read_sample(dataset.reader, place, dataset.builder).processed.text
        except DamagedSample:
            found["damaged"] += 1
            assert lengths(row) == 0
            continue
        assert lengths(row) == estimate_tokens(text)
        found["read"] += 1
    assert found["read"] > 70
    assert found["damaged"] >= 2


def older(path: Path) -> None:
    """Write an index as version 1 did."""
    head, _, body = path.read_bytes().partition(b"\n")
    fields = json.loads(head)
    tail = 2 * fields["samples"] + fields.pop("captions")
    path.write_bytes(json.dumps(fields | {"version": 1}).encode() + b"\n" + body[:-tail])


def test_balanced_languages_have_the_lengths_of_their_language(loader_of, source: Path) -> None:
    content = json.loads((source / "manifest.json").read_text())
    for entry in content["shards"]:
        table = read_index(index_path(source / entry["name"]), entry["sha256"])
        assert table is not None
        assert table.caption_counts is not None
        spoken = (table.caption_counts.counts > 0).sum(0).tolist()
        entry["languages"] = dict(zip(("en", "zh"), spoken))
    (source / "manifest.json").write_text(json.dumps(content))
    dataset = loader_of(source, balance={"zh": 1, "en": 1}).dataset
    lengths = TextLengths(dataset.mixture, dataset.reader, dataset.builder.seed, ("en", "zh"))
    for row in range(60):
        drawn = read_sample(dataset.reader, dataset.mixture.at(row), dataset.builder).processed
        assert lengths(row) == estimate_tokens(drawn.text)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("abc", 1), ("a cat on", 2), ("一只猫", 3), ("一只 cat!", 4)])
def test_tokens_without_a_tokenizer(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


def test_same_loss_and_gradient_and_less_padding() -> None:
    """A global batch in micro-batches of 3, as it comes and by lengths: one mean over all of its tokens."""
    model = tiny_language.build(tiny_language.CHATGLM).eval()
    rows = [tiny_language.prompts(1, number) for number in range(24)]
    seats = LengthBuckets(lambda row: int(rows[row].attention_mask.sum()), 24, 1, 0).batch(0).tolist()
    with in_float64(model):
        found = [learned(model, [rows[place] for place in order]) for order in (range(24), seats)]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, **EXACT)
    assert found[1][2] < found[0][2] / 2


def learned(model, rows: list[PromptBatch]) -> tuple[float, list[Tensor], float]:
    """Loss, gradients and share of padding."""
    model.zero_grad()
    objective = GenerationObjective(model)
    parts = [joined(rows[start : start + 3]) for start in range(0, len(rows), 3)]
    count = sum(float(objective.units(part)["lm"]) for part in parts)
    loss = 0.0
    for part in parts:
        share = objective(part).sums["lm"] / count
        share.backward()
        loss += float(share.detach())
    places = sum(part.attention_mask.numel() for part in parts)
    padding = 1 - sum(int(part.attention_mask.sum()) for part in parts) / places
    return loss, [p.grad.clone() for _, p in model.trained_parameters()], padding


def joined(rows: list[PromptBatch]) -> PromptBatch:
    """Rows of one batch, padded to the longest."""
    longest = max(row.input_ids.shape[1] for row in rows)
    fill = {"input_ids": tiny_language.PAD, "labels": -100}
    values = {}
    for name in (field.name for field in fields(PromptBatch)):
        parts = [getattr(row, name) for row in rows]
        if isinstance(parts[0], Tensor):
            if parts[0].dim() == 2:
                pad = torch.nn.functional.pad
                parts = [pad(part, (0, longest - part.shape[1]), value=fill.get(name, 0)) for part in parts]
            values[name] = torch.cat(parts)
    return replace(rows[0], **values)


@pytest.mark.parametrize("mix", [{}, {"mix": "batch", "mix_rows": 6}])
def test_the_loader_deals(loader_of, source: Path, mix: dict, monkeypatch) -> None:
    """Other ranks and workers have the same rows, and a micro-batch is padded less."""
    from vglm_train.data import loader

    taken = {}
    for window in (0, 1):
        monkeypatch.setattr(loader, "length_window", lambda config, window=window: window)
        batches = list(itertools.islice(loader_of(source, micro=3, **mix).batches(0), 8))
        taken[window] = [sorted(ids for b in batches[s : s + 4] for ids in b.image_ids.tolist()) for s in (0, 4)]
        ranks = [itertools.islice(loader_of(source, micro=3, rank=rank, world=2, workers=rank, **mix).batches(0), 4)
                 for rank in range(2)]  # fmt: skip
        parts = [list(rank) for rank in ranks]
        for number, batch in enumerate(batches):
            assert torch.equal(batch.image_ids, parts[number % 2][number // 2].image_ids)
            assert batch.first_row == 3 * number
    assert taken[0] == taken[1]


def test_where_it_is_on() -> None:
    data = Data(train=(Source(name="a", shards="nowhere"),), global_batch=8)
    speaks = {"model": tiny_language.CHATGLM, "data": data}
    generate = Run(name="x", stage="generate")
    assert length_window(tiny.config()) == 0
    assert length_window(tiny.config(run=generate, **speaks)) == 1
    assert length_window(tiny.config(run=generate, objective=Objective(mean="micro"), **speaks)) == 0
    assert length_window(tiny.config(run=generate, **speaks | {"data": replace(data, length_window=4)})) == 4
    with pytest.raises(FieldError, match="ITC and ITM"):
        check(tiny.config(data=replace(data, length_window=1)), 1)
    with pytest.raises(FieldError, match="mix the sources"):
        check(tiny.config(run=generate, **speaks | {"data": replace(data, length_window=2, mix="batch")}), 1)
