"""The stream: exactly once, the same for every number of ranks and workers, from any step on."""

import errno
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator
from itertools import count, islice
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from made_shards import sample, write_manifest, write_shard, write_source
from torch.utils.data import Dataset

from vglm_train import errors
from vglm_train.batch import PairBatch
from vglm_train.config.model import Text
from vglm_train.data.dataset import StreamDataset
from vglm_train.data.loader import Loader
from vglm_train.data.prefetch import read_ahead
from vglm_train.errors import UserError, explain_dead_processes

N, G = 31, 12  # samples of `uneven`, rows of a step


def take(loader: Loader, count: int, consumed: int = 0) -> list[PairBatch]:
    return list(islice(loader.batches(consumed), count))


def line(batches: Iterable[PairBatch]) -> dict[int, int]:
    """Place in the stream -> image id."""
    return {batch.first_row + row: int(image_id) for batch in batches for row, image_id in enumerate(batch.image_ids)}


def equal(one: PairBatch, other: PairBatch) -> bool:
    tensors = all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("pixels", "text_ids", "text_mask", "image_ids", "valid")
    )
    return tensors and (one.first_row, one.epoch, one.damaged) == (other.first_row, other.epoch, other.damaged)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 2), (3, 1)])
def test_every_sample_of_an_epoch_once(loader_of, uneven: Path, world: int, workers: int) -> None:
    """Three epochs of 31 in steps of 12: most steps that end an epoch begin the next one."""
    steps = 8  # 96 places
    batches = []
    for rank in range(world):
        loader = loader_of(uneven, rank=rank, world=world, workers=workers, micro=2)
        assert loader.epoch_samples == N
        batches += take(loader, steps * G // world // 2)
    found = line(batches)
    assert sorted(found) == list(range(steps * G))
    for epoch in range(3):
        assert sorted(found[epoch * N + place] for place in range(N)) == list(range(N))
    assert found == line(take(loader_of(uneven), steps))
    assert all(batch.epoch == batch.first_row // N for batch in batches)
    assert all(batch.valid.all() for batch in batches)


def test_epochs_differ(loader_of, uneven: Path) -> None:
    found = line(take(loader_of(uneven), 6))
    first, second = ([found[epoch * N + place] for place in range(N)] for epoch in range(2))
    assert sum(a == b for a, b in zip(first, second)) < 8


def test_micro_batches_of_a_step_follow_the_ranks(loader_of, uneven: Path) -> None:
    rows = [[batch.first_row for batch in take(loader_of(uneven, rank=r, world=2, micro=3), 4)] for r in range(2)]
    assert rows == [[0, 6, 12, 18], [3, 9, 15, 21]]


def test_same_batches_for_any_number_of_workers(loader_of, uneven: Path) -> None:
    expected = take(loader_of(uneven, micro=4), 20)
    for workers in (1, 3):
        found = take(loader_of(uneven, micro=4, workers=workers), 20)
        assert all(equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_in_the_middle(loader_of, uneven: Path, workers: int) -> None:
    expected = take(loader_of(uneven, micro=4), 20)
    for step in (1, 2, 5):  # in an epoch, across its end, in a later one
        found = take(loader_of(uneven, micro=4, workers=workers), 20 - 3 * step, consumed=step * G)
        assert all(equal(one, other) for one, other in zip(expected[3 * step :], found, strict=True))


def test_another_micro_batch_or_world_reads_the_same_rows(loader_of, uneven: Path) -> None:
    """Pixels and ids too: nothing of a sample depends on where it is read."""
    whole = take(loader_of(uneven), 4)
    for rank in range(2):
        for batch in take(loader_of(uneven, rank=rank, world=2, micro=2), 4 * 3):
            step, row = divmod(batch.first_row, G)
            for name in ("pixels", "text_ids", "image_ids"):
                assert torch.equal(getattr(batch, name), getattr(whole[step], name)[row : row + 2])


@pytest.mark.parametrize(("world", "micro"), [(5, None), (8, 1), (9, 2), (14, None)])
def test_a_world_that_does_not_divide_the_batch_reads_the_same_rows(loader_of, uneven: Path, world, micro) -> None:
    """Places without a row are as a damaged sample's, at the end, and count as no damage."""
    whole, found = take(loader_of(uneven), 3), []
    loaders = [loader_of(uneven, rank=rank, world=world, micro=micro) for rank in range(world)]
    cut = loaders[0].dataset.cut
    read = [take(loader, 3 * cut.accumulation) for loader in loaders]
    for number in range(3 * cut.accumulation):
        for batch in (each[number] for each in read):
            rows = int(batch.valid.sum())
            assert len(batch.pixels) == len(batch.text_ids) == len(batch.valid) == cut.micro
            assert batch.valid[:rows].all()
            assert not batch.damaged
            found += [(ids, pixels) for ids, pixels in zip(batch.image_ids[:rows].tolist(), batch.pixels)]
    assert [ids for ids, _ in found] == torch.cat([batch.image_ids for batch in whole]).tolist()
    assert all(torch.equal(a, b) for (_, a), b in zip(found, torch.cat([batch.pixels for batch in whole]), strict=True))


def test_a_sample_changes_from_epoch_to_epoch_and_with_the_seed(loader_of, uneven: Path) -> None:
    def views(loader: Loader) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = {}
        for batch in take(loader, 5):
            for image_id, pixels in zip(batch.image_ids.tolist(), batch.pixels):
                found.setdefault(image_id, []).append(pixels.numpy().tobytes())
        return found

    own, other = views(loader_of(uneven)), views(loader_of(uneven, seed=8))
    twice = [seen for seen in own.values() if len(seen) > 1]
    assert len(twice) > 20
    assert all(seen[0] != seen[1] for seen in twice)
    assert all(own[image_id][0] != other[image_id][0] for image_id in own)


def test_what_a_batch_is(loader_of, uneven: Path) -> None:
    loader = loader_of(uneven)
    batch = take(loader, 1)[0]
    text = loader.dataset.builder.processor.text
    assert (batch.pixels.shape, batch.pixels.dtype) == ((G, 3, 16, 16), torch.uint8)
    assert (batch.text_ids.shape, batch.text_mask.shape) == ((G, 12), (G, 12))
    for ids, mask, image_id in zip(batch.text_ids, batch.text_mask, batch.image_ids):
        n = int(image_id)
        expected = {"en": [f"a photo number {n}", f"photo {n}"], "zh": [f"第 {n} 张照片"]}
        language = {number: name for name, number in text.language_ids.items()}[int(ids[1])]
        assert text.decode(ids[mask].tolist()) in expected[language]
        assert ids[0] == text.cls_id
        assert ids[mask][-1] == text.sep_id
        assert (ids[~mask] == text.pad_id).all()


def test_several_sources_are_read_as_one(loader_of, uneven: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_shard(other / "a.tar", [sample(100 + n) for n in range(5)])
    write_manifest(other, {"a.tar": 5})
    loader = loader_of(uneven, other)
    assert loader.epoch_samples == N + 5
    assert sorted(line(take(loader, 3)).values()) == [*range(N), *range(100, 105)]


def test_consecutive_micro_batches_touch_few_shards(loader_of, tmp_path: Path) -> None:
    folder = write_source(tmp_path / "many", [3] * 40)
    found = line(take(loader_of(folder, shuffle_shards=3), 10))
    shards = [found[place] // 3 for place in range(120)]
    for start in range(0, 117, 9):  # whole windows
        assert len(set(shards[start : start + 9])) == 3
    assert max(len(set(shards[start : start + G])) for start in range(120 - G)) <= 2 * 3


def test_torch_global_generator_is_left_alone(loader_of, uneven: Path) -> None:
    before = torch.get_rng_state()
    take(loader_of(uneven, workers=1), 2)
    take(loader_of(uneven), 2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_chinese_with_the_english_processor(loader_of, uneven: Path, vocabulary: Path, workers: int) -> None:
    """One message from a worker as well: no traceback in it."""
    text = Text(tokenizer=str(vocabulary), processor="blip")
    with pytest.raises(UserError) as caught:
        take(loader_of(uneven, text=text, workers=workers), 9)
    message = str(caught.value)
    assert "Set model.text.processor to plain" in message
    assert "shard-00000" in message
    assert "\n" not in message


def test_wrong_manifest_found_by_a_worker(loader_of, tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [sample(n) for n in range(3)])
    write_manifest(tmp_path, {"a.tar": 2})
    with pytest.raises(UserError, match="holds 3 samples, its manifest says 2"):
        take(loader_of(tmp_path, workers=1), 1)


class _Batches(Dataset):
    """Of tensors, for which the reader asks the worker when it takes a batch."""

    def __init__(self, torn: bool = False) -> None:
        self.torn = torn

    def __getitem__(self, number: int) -> list[object]:
        return [torch.full((100,), number), _Torn() if self.torn else number]


class _Torn:
    """Cannot be taken from the worker, whose end of the connection is closed."""

    def __reduce__(self) -> tuple[object, ...]:
        return _close, ()


def _close() -> None:
    raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def test_a_worker_whose_connection_closes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch sees that it is dead."""
    monkeypatch.setattr(errors, "WAIT", 0)
    with pytest.raises(UserError, match=r"a loader worker died .*Connection reset"), explain_dead_processes():
        next(iter(read_ahead(_Batches(torn=True), count(), 1)))


def test_a_worker_killed_at_any_moment_is_one_error() -> None:
    """Its end shows as a signal or as a closed connection, whichever comes first.

    Two contexts, as in a run, around the loader and around the training: the signal may come while the first is left.
    """
    for _ in range(20):
        before = set(multiprocessing.active_children())  # of other tests, and of the round before
        batches = iter(read_ahead(_Batches(), count(), 1))
        next(batches)
        died = pytest.raises(UserError, match="a loader worker died")
        with died, explain_dead_processes(), explain_dead_processes():
            _kill_and_go_on(batches, before)
        del batches


def _kill_and_go_on(batches: Iterator[object], before: set[BaseProcess]) -> None:
    (worker,) = set(multiprocessing.active_children()) - before
    worker.kill()
    for _ in batches:
        pass


def test_another_closed_connection_is_not_of_a_worker() -> None:
    with pytest.raises(ConnectionResetError), explain_dead_processes():
        _close()


def test_dead_worker_is_one_clear_message(loader_of, uneven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StreamDataset, "__getitem__", lambda self, number: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"a loader worker died .* Lower data\.workers"):
        take(loader_of(uneven, workers=1), 1)


def test_languages_that_no_source_has(loader_of, tmp_path: Path) -> None:
    folder = write_source(tmp_path / "a", [12], captions={"en": 24})
    with pytest.raises(UserError, match=r"data\.languages asks for zh, but no source has captions in it"):
        loader_of(folder)
    assert loader_of(folder, languages=("en",)).epoch_samples == 12


def test_missing_manifest_is_found_before_anything_is_read(loader_of, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no manifest"):
        loader_of(tmp_path)


def test_fewer_shards_than_workers_and_fewer_samples_than_a_step(loader_of, tmp_path: Path) -> None:
    """One shard of five samples, two ranks with three workers each, steps of twelve: two epochs and more in a step."""
    folder = write_source(tmp_path / "one", [5])
    batches = [b for rank in range(2) for b in take(loader_of(folder, rank=rank, world=2, workers=3, micro=2), 6)]
    found = line(batches)
    assert sorted(found) == list(range(24))
    for epoch in range(4):
        assert sorted(found[epoch * 5 + place] for place in range(5)) == list(range(5))
