"""Filling a store: each picture once, only what is missing, what the encoder gave, and clear refusals."""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import tiny
import torch
from made_shards import jpeg, sample, write_manifest, write_shard
from torch import Tensor

from vglm_train.batch import PairBatch
from vglm_train.config.data import Data, Features, Image, Source
from vglm_train.config.model import Text
from vglm_train.config.run import Config
from vglm_train.data import loader
from vglm_train.data.features import FeatureStore, prepare
from vglm_train.data.features.jobs import Items
from vglm_train.data.loader import Loader
from vglm_train.data.processors import PairProcessor
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.image import eval_pixels, open_image
from vglm_train.prompt.qformer_text import build_text

SAMPLES, SAME, WIDE, DAMAGED = 70, 5, 6, 9  # sample 5 shows the picture of sample 4
PICTURES = SAMPLES - 1
WHOLE = Image(crop_scale=(1.0, 1.0), flip=False)
MODEL = tiny.alignment()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    changed = {
        SAME: {"jpg": jpeg(SAME - 1)},
        WIDE: {"jpg": jpeg(WIDE, (60, 20))},
        DAMAGED: {"jpg": jpeg(DAMAGED)[:300]},
    }
    samples = [sample(n, **changed.get(n, {})) for n in range(SAMPLES)]
    write_shard(folder / "a.tar", samples[:40])
    write_shard(folder / "b.tar", samples[40:])
    write_manifest(folder, {"a.tar": 40, "b.tar": SAMPLES - 40})
    return folder


ConfigOf = Callable[..., Config]


@pytest.fixture
def config_of(shards: Path, vocabulary: Path, tmp_path: Path) -> ConfigOf:
    def build(image: Image = WHOLE, folder: Path = tmp_path / "features", source: Path = shards, **options) -> Config:
        data = Data(
            train=(Source(name="a", shards=str(source)),),
            features=Features(folder=str(folder), **options),
            image=image,
            global_batch=10,
            workers=0,
        )
        text = Text(tokenizer=str(vocabulary), max_length=8, processor="plain")
        return tiny.config(data=data, model=replace(tiny.MODEL, text=text))

    return build


class Encode:
    """The tiny encoder, which counts what it is given, and may fail after some batches."""

    def __init__(self, batches: int | None = None) -> None:
        self.pictures, self.left = 0, batches

    def __call__(self, pixels: Tensor) -> Tensor:
        if self.left is not None:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
        self.pictures += len(pixels)
        return MODEL.encode_image(pixels)


def load(config: Config) -> Loader:
    return loader.build(config, PairProcessor(build_text(config.model.text, ("en",)), ("en",)), Ranks())


def fill(config: Config, encode: Encode | None = None, vision=MODEL.vision) -> FeatureStore:
    return prepare(config, vision, encode or Encode(), load(config).dataset.mixture.shards(), Ranks())


def stored_batches(config: Config, count: int) -> list[PairBatch]:
    reading = load(config)
    reading.use_features(fill(config))
    return list(islice(reading.batches(0), count))


def test_batches_hold_what_the_encoder_gives(config_of: ConfigOf) -> None:
    config = config_of()
    plain = list(islice(load(config).batches(0), 7))
    for stored, pixels in zip(stored_batches(config, 7), plain):
        assert stored.pixels.numel() == 0
        assert torch.equal(stored.image_ids, pixels.image_ids)
        assert torch.equal(stored.text_ids, pixels.text_ids)
        assert torch.equal(stored.valid, pixels.valid)
        for name in ("damaged", "sample_counts", "epoch"):
            assert getattr(stored, name) == getattr(pixels, name)
        expected = MODEL.encode_image(pixels.pixels)[pixels.valid]
        assert torch.allclose(stored.features[stored.valid], expected, atol=1e-5)
        assert not stored.features[~stored.valid].any()
    assert sum(batch.damaged.get("image", 0) for batch in plain) == 1


def test_one_view_is_the_picture_as_it_is_evaluated(config_of: ConfigOf) -> None:
    picture = jpeg(WIDE, (60, 20))
    expected = MODEL.encode_image(eval_pixels(open_image(picture), 16)[None])[0]
    assert torch.allclose(fill(config_of()).read(picture, epoch=7), expected, atol=1e-5)


def test_each_picture_is_encoded_once_for_all_runs(config_of: ConfigOf) -> None:
    first, second, other_seed = Encode(), Encode(), Encode()
    assert len(fill(config_of(), first)) == PICTURES
    fill(config_of(), second)
    fill(replace(config_of(), run=replace(config_of().run, seed=7)), other_seed)
    assert (first.pictures, second.pictures, other_seed.pictures) == (PICTURES - 1, 0, 0)


def test_another_encoder_or_transform_has_a_store_of_its_own(config_of: ConfigOf, tmp_path: Path) -> None:
    config = config_of()
    other = tiny.alignment(seed=1).vision
    stores = [
        fill(config),
        fill(config, vision=other),
        fill(replace(config, data=replace(config.data, image=replace(WHOLE, mean=(0.5, 0.5, 0.5))))),
    ]
    assert len({store.folder for store in stores}) == 3
    assert set(stores[0].used()) == {store.folder.name for store in stores}


def test_what_was_computed_before_an_end_is_not_computed_again(
    config_of: ConfigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Items, "size", 8)
    config, first, rest = config_of(), Encode(batches=5), Encode()
    with pytest.raises(KeyboardInterrupt):
        fill(config, first)
    assert len(fill(config, rest)) == PICTURES
    assert 0 < first.pictures + rest.pictures - (PICTURES - 1) <= 8, "the last batch was not written yet"


def test_views_are_crops_of_their_own(config_of: ConfigOf) -> None:
    image = Image(crop_scale=(0.3, 0.6), flip=True)
    two, more = Encode(), Encode()
    store = fill(config_of(image, views=2), two)
    zero, one = store.read(jpeg(0), 0), store.read(jpeg(0), 1)
    assert not torch.allclose(zero, one, atol=1e-3)
    assert torch.equal(store.read(jpeg(0), 2), zero)
    assert torch.equal(store.read(jpeg(0), 5), one)
    three = fill(config_of(image, views=3), more)
    assert (two.pictures, more.pictures) == (2 * (PICTURES - 1), PICTURES - 1)
    assert torch.equal(three.read(jpeg(0), 3), zero)


def test_odd_views_are_mirrored(config_of: ConfigOf) -> None:
    store = fill(config_of(Image(crop_scale=(1.0, 1.0), flip=True), views=2))
    pixels = eval_pixels(open_image(jpeg(WIDE, (60, 20))), 16)
    for view, expected in enumerate(MODEL.encode_image(torch.stack((pixels, pixels.flip(-1))))):
        assert torch.allclose(store.read(jpeg(WIDE, (60, 20)), view), expected, atol=1e-5)


def test_the_stream_reads_the_view_of_its_epoch(config_of: ConfigOf) -> None:
    config = config_of(Image(crop_scale=(0.3, 0.6), flip=True), views=2)
    batches = stored_batches(config, 3 * SAMPLES // 10)
    seen = [
        {int(i): f for b in batches if b.epoch == epoch for i, f in zip(b.image_ids, b.features)} for epoch in range(3)
    ]
    assert not torch.allclose(seen[0][0], seen[1][0], atol=1e-3)
    assert torch.equal(seen[0][0], seen[2][0])


def test_a_picture_that_changed_is_told_and_made_at_the_next_start(
    config_of: ConfigOf,
) -> None:
    config = config_of()
    store = fill(config)
    with pytest.raises(UserError, match=r"must have changed.*Start again"):
        store.read(jpeg(200), 0)
    assert not store.done()
    again = Encode()
    assert len(fill(config, again)) == PICTURES
    assert again.pictures == 0


def test_a_damaged_row_is_told_and_made_again(config_of: ConfigOf) -> None:
    config = config_of()
    store = fill(config)
    (rows,) = store.folder.glob("part-*.rows")
    content = bytearray(rows.read_bytes())
    content[store.row_bytes + 3] ^= 1
    rows.write_bytes(content)
    assert store.read(jpeg(0), 0).isfinite().all()
    with pytest.raises(UserError, match=r"row 1 is not what was written to it.*start again"):
        store.read(jpeg(1), 0)
    again = Encode()
    fill(config, again)
    assert again.pictures == PICTURES - 1


def test_what_a_cut_file_lost_is_made_at_the_next_start_and_then_no_more(config_of: ConfigOf) -> None:
    config = config_of()
    store = fill(config)
    (rows,) = store.folder.glob("part-*.rows")
    os.truncate(rows, store.row_bytes + 3)
    again, later = Encode(), Encode()
    fill(config, again)
    assert again.pictures == PICTURES - 2, "one row is left, and one picture cannot be decoded"
    assert (store.folder / "done").exists()
    fill(config, later)
    assert later.pictures == 0
    assert (store.folder / "done").exists(), "the entries without rows do not make each start look at every picture"


def test_a_limit_that_is_too_small(config_of: ConfigOf) -> None:
    encode = Encode()
    with pytest.raises(UserError, match=r"data.features.limit_gib: 1e-06 is not enough: .*Raise the limit"):
        fill(config_of(limit_gib=1e-6), encode)
    assert encode.pictures == 0


def test_an_encoder_that_trains(config_of: ConfigOf) -> None:
    vision = tiny.alignment().vision
    next(vision.parameters()).requires_grad_(True)
    with pytest.raises(UserError, match="the image encoder trains in this run"):
        fill(config_of(), vision=vision)


def test_a_folder_that_cannot_be(config_of: ConfigOf, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.features.folder .*file"):
        fill(config_of(folder=tmp_path / "file"))
