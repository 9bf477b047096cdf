"""Ranges and combinations within a section: each is refused with its field and a reason, its neighbours are taken."""

import pytest

from vglm_train.config.data import Cache, Data, Features, Image, Source
from vglm_train.config.model import Model, QFormer, Text, Vision
from vglm_train.config.run import (
    Captioning,
    Checkpoint,
    Contrastive,
    Engine,
    Evaluate,
    Length,
    Log,
    Matching,
    Objective,
    Optim,
    Run,
    Wandb,
)
from vglm_train.config.tuning import VisionBlocks
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError

BAD = [
    (Vision, {"image_size": 0}, "image_size", "above 0"),
    (Vision, {"image_size": 225}, "image_size", "not a multiple of patch 14"),
    (Vision, {"image_size": 225}, "image_size", "Nearest: 224 or 238"),
    (Vision, {"width": 1400}, "width", "not a multiple of heads 16"),
    (Vision, {"depth": -1}, "depth", "above 0"),
    (Vision, {"weights": ""}, "weights", "empty"),
    (QFormer, {"queries": 0}, "queries", "above 0"),
    (QFormer, {"width": 770}, "width", "Nearest: 768 or 780"),
    (QFormer, {"dropout": 1.0}, "dropout", "below 1"),
    (QFormer, {"vocabulary": 0}, "vocabulary", "above 0"),
    (QFormer, {"cross_every": 0}, "cross_every", "above 0"),
    (Text, {"max_length": 2}, "max_length", "at least 3"),
    (Text, {"max_length": 3, "language_token": True}, "max_length", "at least 4"),
    (Text, {"tokenizer": " "}, "tokenizer", "empty"),
    (Model, {"contrastive_width": 0}, "contrastive_width", "above 0"),
    (Model, {"text": Text(max_length=513)}, "text.max_length", "longer than qformer.positions 512"),
    (Source, {"name": "", "shards": "a"}, "name", "empty"),
    (Source, {"name": "a", "shards": ""}, "shards", "empty"),
    (Source, {"name": "a", "shards": "a", "manifest": ""}, "manifest", "empty"),
    (Source, {"name": "a", "table": "a.csv", "manifest": "m.json"}, "manifest", "the source is a table"),
    (Cache, {"folder": ""}, "folder", "empty"),
    (Cache, {"limit_gib": 0.0}, "limit_gib", "above 0"),
    (Cache, {"retries": -1}, "retries", "negative"),
    (Cache, {"timeout_s": 0.0}, "timeout_s", "above 0"),
    (Image, {"crop_scale": (0.0, 1.0)}, "crop_scale", "0 < smallest"),
    (Image, {"crop_scale": (0.9, 0.5)}, "crop_scale", "smallest <= largest"),
    (Image, {"crop_scale": (0.5, 1.5)}, "crop_scale", "[0.5, 1.5]"),
    (Image, {"mean": (123.675, 116.28, 103.53)}, "mean", "not to 255"),
    (Image, {"std": (0.0, 0.5, 0.5)}, "std", "above 0"),
    (Data, {"train": (Source(name="a", shards="b"), Source(name="a", shards="c"))}, "train.1", "'a' is already"),
    (Data, {"validation": (Source(name="a", shards="b"),) * 2}, "validation.1", "that of entry 0"),
    (Data, {"languages": ()}, "languages", "empty"),
    (Data, {"languages": ("en", "en")}, "languages.1", "the language 'en' is already"),
    (Data, {"global_batch": 0}, "global_batch", "above 0"),
    (Data, {"workers": -1}, "workers", "negative"),
    (Data, {"shuffle_shards": 0}, "shuffle_shards", "above 0"),
    (Source, {"name": "a", "shards": "b", "weight": 0.0}, "weight", "above 0"),
    (Data, {"train": (Source(name="zh", shards="b"),)}, "train.0.name", "is a language"),
    (
        Data,
        {"train": (Source(name="a", shards="b", weight=1.0), Source(name="c", shards="c"))},
        "train.1.weight",
        "or none",
    ),
    (Data, {"balance": {"zh": 1.0}}, "balance", "to each of languages [en], found zh"),
    (Data, {"balance": {"en": -1.0}}, "balance.en", "above 0"),
    (Data, {"mix_rows": 2}, "mix_rows", "mix batch only"),
    (Data, {"mix": "batch", "mix_rows": 7, "global_batch": 16}, "global_batch", "not a multiple"),
    (
        Data,
        {"features": Features(folder="f")},
        "features.views",
        "draw another every epoch; set image.crop_scale [1, 1]",
    ),
    (
        Data,
        {"features": Features(folder="f", views=2), "image": Image(crop_scale=(1.0, 1.0), flip=False)},
        "features.views",
        "2 versions would all be the same",
    ),
    (Features, {"folder": ""}, "folder", "empty"),
    (Features, {"folder": "f", "views": 0}, "views", "above 0"),
    (Data, {"max_damaged": 1.5}, "max_damaged", "fraction"),
    (Length, {}, "epochs", "exactly one of epochs, steps, samples; found none"),
    (Length, {"epochs": 1, "steps": 1}, "epochs", "found epochs and steps"),
    (Length, {"steps": -1}, "steps", "negative"),
    (Run, {"name": ""}, "name", "empty"),
    (Run, {"name": "a/b"}, "name", "run.folder"),
    (Run, {"name": ".."}, "name", "plain name"),
    (Run, {"name": "a", "seed": -1}, "seed", "at least 0"),
    (Run, {"name": "a", "length": Length(steps=0)}, "length", "trains nothing"),
    (Contrastive, {"weight": -0.1}, "weight", "must not be negative, found -0.1"),
    (Contrastive, {"smoothing": 1.0}, "smoothing", "below 1"),
    (Matching, {"weight": -1.0}, "weight", "negative"),
    (Captioning, {"weight": -1.0}, "weight", "negative"),
    (Captioning, {"smoothing": -0.1}, "smoothing", "at least 0"),
    (
        Objective,
        {k: v(weight=0) for k, v in (("itc", Contrastive), ("itm", Matching), ("itg", Captioning))},
        "itc.weight",
        "all",
    ),
    (Optim, {"lr": 0.0, "min_lr": 0.0, "warmup_lr": 0.0}, "lr", "above 0"),
    (Optim, {"min_lr": 1e-3}, "min_lr", "above the peak"),
    (Optim, {"warmup_lr": 1e-3}, "warmup_lr", "above the peak"),
    (Optim, {"betas": (0.9, 1.0)}, "betas", "below 1"),
    (Optim, {"betas": (-0.1, 0.9)}, "betas", "at least 0"),
    (Optim, {"weight_decay": -0.05}, "weight_decay", "negative"),
    (Optim, {"clip": 0.0}, "clip", "null for no clipping"),
    (Engine, {"zero": 0}, "zero", "no gradient norm"),
    (Engine, {"zero": 4}, "zero", "no such stage"),
    (Engine, {"micro_batch": 0}, "micro_batch", "above 0"),
    (Engine, {"max_skipped": 0}, "max_skipped", "above 0"),
    (Checkpoint, {"every": 0}, "every", "above 0"),
    (Checkpoint, {"keep": 0}, "keep", "above 0"),
    (Wandb, {"project": ""}, "project", "empty"),
    (Log, {"every": 0}, "every", "above 0"),
    (Evaluate, {"every": 0}, "every", "above 0"),
    (Evaluate, {"rerank": -1}, "rerank", "negative"),
]


@pytest.mark.parametrize(("section", "values", "field", "reason"), BAD, ids=lambda v: getattr(v, "__name__", None))
def test_a_value_out_of_range_is_refused_with_a_reason(section, values, field, reason):
    with pytest.raises(FieldError) as caught:
        section(**values)
    assert caught.value.fields[0] == field
    assert reason in caught.value.reason
    assert str(caught.value) == f"{field}: {caught.value.reason}"
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ValueError)


def test_the_edges_that_are_allowed():
    Vision(image_size=14, patch=14)
    QFormer(dropout=0.0, cross_every=13, vocabulary=None)
    Text(max_length=3)
    Text(max_length=4, language_token=True)
    Model(text=Text(max_length=512))
    Image(crop_scale=(1.0, 1.0))
    Data(max_damaged=0.0, workers=0, languages=("zh", "en"))
    Objective(itc=Contrastive(weight=0.0), itm=Matching(weight=0.0))
    Optim(min_lr=1e-4, warmup_lr=1e-4, warmup=Length(steps=0), betas=(0.0, 0.0), weight_decay=0.0, clip=None)
    Engine(zero=2, micro_batch=1)
    Evaluate(rerank=0, table=0)


@pytest.mark.parametrize(
    ("length", "samples"),
    [
        (Length(steps=3), 30),
        (Length(samples=25), 25),
        (Length(epochs=2), 200),
        (Length(epochs=0.5), 50),
        (Length(epochs=0.29), 29),  # 0.29 * 100 is 28.999999999999996
        (Length(steps=0), 0),
    ],
)
def test_a_length_in_samples(length, samples):
    assert length.samples_of(epoch_samples=100, global_batch=10) == samples


def test_earlier_image_blocks_do_not_learn_faster():
    with pytest.raises(FieldError, match="must be above 0 and at most 1, found 2; earlier blocks learn slower"):
        VisionBlocks(last=2, decay=2)
