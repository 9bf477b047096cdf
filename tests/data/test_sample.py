"""Training, both evaluations and check_shards find the same damage in a stored sample, and say the same of it."""

import json
from pathlib import Path

import pytest
from made_shards import jpeg, sample, write_manifest, write_shard

from data_tools.check_shards.check import check_shard
from vglm_train.config.data import Source
from vglm_train.data.eval_captions import EvalSet
from vglm_train.data.eval_questions import QuestionSet
from vglm_train.data.record import DamagedSample, RecordError, content_id
from vglm_train.data.sample import StoredSample, read_sample, use_sample
from vglm_train.data.shards.reader import ShardReader
from vglm_train.errors import UserError


def record(**fields: object) -> bytes:
    return json.dumps({"id": "x", "captions": {"en": ["a photo"]}} | fields).encode()


DAMAGED = {
    "not JSON": ({"json": b"{"}, "record"),
    "no caption": ({"json": record(captions={"en": [" "]})}, "caption"),
    "no such picture": ({"jpg": None}, "image"),
    "half a picture": ({"jpg": jpeg(1)[:300]}, "image"),
    "fewer pictures than named": ({"json": record(image=["a.jpg", "b.jpg"])}, "image"),
    "more pictures than named": (
        {"1.jpg": jpeg(1), "2.jpg": jpeg(2), "json": record(image=["a.jpg", "b.jpg"])},
        "image",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = [sample(number, **members) for number, (members, _) in enumerate(DAMAGED.values())]
    write_shard(tmp_path / "a.tar", [*samples, sample(len(samples))])
    write_manifest(tmp_path, {"a.tar": len(samples) + 1})
    return tmp_path


def test_all_readers_find_the_same(folder: Path, loader_of) -> None:
    dataset = loader_of(folder, global_batch=1, micro=1).dataset
    trained = {}
    for number in range(len(DAMAGED) + 1):
        try:
            read_sample(dataset.reader, dataset.mixture.at(number), dataset.builder)
        except DamagedSample as damage:
            trained[damage.key] = (damage.cause, damage.reason)
    source = [Source(name="s", shards=str(folder))]
    captions, questions = EvalSet(source, 16, ("en",)), QuestionSet(source, 16, ("en",))
    checked = check_shard(folder, False, "a.tar")
    expected = {f"{number:06d}": cause for number, (_, cause) in enumerate(DAMAGED.values())}
    assert {key: cause for key, (cause, _) in trained.items()} == expected
    for items in (captions, questions):
        found = [item for item in (items[number] for number in range(len(items))) if isinstance(item, DamagedSample)]
        assert {item.key: (item.cause, item.reason) for item in found} == trained
    assert {key: (cause, reason) for cause, key, reason in checked.named} == trained
    assert sum(checked.damage.values()) == len(DAMAGED)


def test_what_a_use_raises_names_the_sample(folder: Path) -> None:
    reader, shard = ShardReader(1), write_manifest(folder, {"a.tar": len(DAMAGED) + 1}).shards[0]

    def refuse(stored: StoredSample) -> None:
        raise RecordError("caption", f"{len(stored.images)} picture")

    def mistaken(stored: StoredSample) -> None:
        raise UserError("prompt is wrong")

    last = len(DAMAGED)
    with pytest.raises(DamagedSample, match=rf"a\.tar, key 00000{last} \(caption\): 1 picture"):
        use_sample(reader, shard, last, refuse)
    with pytest.raises(UserError, match=rf"a\.tar, sample 00000{last}: prompt is wrong"):
        use_sample(reader, shard, last, mistaken)


def test_the_hash_of_the_picture_stands_in_for_a_missing_image_id(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [sample(0), sample(1, json=record())])
    shard = write_manifest(tmp_path, {"a.tar": 2}).shards[0]
    ids = [use_sample(ShardReader(1), shard, index, lambda stored: stored.image_id) for index in range(2)]
    assert ids == [0, content_id(jpeg(1))]
