"""The demo's data on disk: a picture for every scene, and records of them with sentences in both languages."""

import io
import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from examples.demo.scenes import COLOURS, INVERSE, LANGUAGES, SHAPES, Scene, all_scenes, captions, draw
from examples.demo.train_encoder import Pictures
from vglm_train.data.record import content_id
from vglm_train.files import replace_file

VALIDATION, TEST = 200, 400  # scenes held out; all others train


def splits(seed: int) -> dict[str, list[Scene]]:
    """Every scene in exactly one of test, val and train.

    Training scenes of the same shapes stand together, and among them those of the same colours. So a shard holds them
    together, and a batch, sampled from few shards, has negatives that differ in nothing but colours, position, or what
    belongs to what. Among random scenes these are so rare that a model learns shapes and stops there.
    """
    scenes = all_scenes(seed)
    training = scenes[TEST + VALIDATION :]
    first_index: dict[object, int] = {}
    for index, scene in enumerate(training):
        for parts in (_shapes(scene), (_shapes(scene), _colours(scene))):
            first_index.setdefault(parts, index)
    training.sort(key=lambda scene: (first_index[_shapes(scene)], first_index[_shapes(scene), _colours(scene)]))
    return {"test": scenes[:TEST], "val": scenes[TEST : TEST + VALIDATION], "train": training}


def _shapes(scene: Scene) -> tuple[str, ...]:
    return tuple(sorted((scene.first.shape, scene.second.shape)))


def _colours(scene: Scene) -> tuple[str, ...]:
    return tuple(sorted((scene.first.colour, scene.second.colour)))


def write_records(folder: Path, seed: int, train: int | None = None) -> Pictures:
    """Write images/KEY.png and records.jsonl anew; returns the training pictures with what is where in them.

    `train`: so many training scenes only. Held-out records have one caption a language, the others every wording.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    held = splits(seed)
    held["train"] = held["train"][:train]
    made: list[tuple[np.ndarray, np.ndarray]] = []
    with replace_file(folder / "records.jsonl") as file:
        for split, scenes in held.items():
            for scene in scenes:
                picture, owners = draw(scene, Random(f"{seed} {scene.key}"))
                png = _png(picture)
                (folder / "images" / f"{scene.key}.png").write_bytes(png)
                file.write(json.dumps(_record(scene, split, png), ensure_ascii=False).encode() + b"\n")
                if split == "train":
                    made.append((np.asarray(picture), np.asarray(owners)))
    stacked = [torch.from_numpy(np.stack(arrays)) for arrays in zip(*made)]
    return Pictures(stacked[0].permute(0, 3, 1, 2).contiguous(), stacked[1], _labels(held["train"]))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _record(scene: Scene, split: str, png: bytes) -> dict[str, Any]:
    texts = {language: captions(scene, language) for language in LANGUAGES}
    if split != "train":
        texts = {language: wordings[:1] for language, wordings in texts.items()}
    return {
        "id": scene.key,
        "image": f"images/{scene.key}.png",
        "image_id": content_id(png),
        "captions": texts,
        "source": "demo scenes",
        "split": split,
        "group": scene.key,
    }


def _labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """Classes of nothing (0) and of both objects [n,3], by attribute."""
    known = {"colour": ["", *COLOURS], "shape": ["", *SHAPES], "side": ["", *INVERSE]}
    values_of = {
        "colour": [(scene.first.colour, scene.second.colour) for scene in scenes],
        "shape": [(scene.first.shape, scene.second.shape) for scene in scenes],
        "side": [(scene.relation, INVERSE[scene.relation]) for scene in scenes],
    }
    return {
        name: torch.tensor([[0, *(values.index(value) for value in pair)] for pair in values_of[name]])
        for name, values in known.items()
    }
