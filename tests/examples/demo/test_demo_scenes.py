"""The demo's scenes: what is drawn is what is said, held-out captions are distinct, changed captions are false."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest

from examples.demo import make_data
from examples.demo.make_data import splits, write_records
from examples.demo.probe_pairs import Share, ceilings
from examples.demo.scenes import COLOURS, LANGUAGES, SHAPES, Scene, Thing, all_scenes, captions, changed, draw

ROOT = Path(__file__).resolve().parents[3]
SCENE = Scene(Thing("orange", "star"), Thing("blue", "ring"), "below")


def test_wordings_say_everything_in_reading_order():
    assert captions(SCENE, "en") == captions(SCENE.upright(), "en")
    assert captions(SCENE, "en") == [
        "a blue ring above an orange star",
        "blue ring at the top, orange star at the bottom",
        "top: a blue ring, bottom: an orange star",
    ]
    assert captions(SCENE, "zh") == ["蓝色环形在橙色星形上边", "上边蓝环形，下边橙星形", "蓝环形在上，橙星形在下"]
    beside = Scene(Thing("red", "cross"), Thing("black", "triangle"), "left")
    assert captions(beside, "en") == [
        "a red cross left of a black triangle",
        "red cross on the left, black triangle on the right",
        "left: a red cross, right: a black triangle",
    ]
    assert captions(beside, "zh") == ["红色十字在黑色三角左边", "左边红十字，右边黑三角", "红十字在左，黑三角在右"]


def test_every_scene_once_and_in_one_split():
    scenes = all_scenes(3)
    assert len({scene.key for scene in scenes}) == len(scenes) == 8 * 7 * 6 * 6 * 2
    keys = {name: {scene.key for scene in part} for name, part in splits(3).items()}
    assert sum(map(len, keys.values())) == len(set.union(*keys.values())) == len(scenes)
    assert len(keys["test"]) == 400


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_wording_names_one_scene(language: str):
    """No caption of one scene, in any wording, is true of another."""
    owners: dict[str, str] = {}
    for scene in all_scenes(0):
        for caption in captions(scene, language):
            assert owners.setdefault(caption, scene.key) == scene.key


def test_the_picture_of_the_readmes_is_held_out():
    held_out = {f"demo_run/data/images/{scene.key}.png" for scene in splits(0)["test"]}
    for name in ("README.md", "README.zh.md"):
        (shown,) = re.findall(r"demo_run/data/\S+\.png", (ROOT / name).read_text("utf-8"))
        assert shown in held_out


def test_order_is_the_seeds():
    assert all_scenes(1) == all_scenes(1) != all_scenes(2)
    relations = Counter(scene.relation for scene in splits(0)["test"])
    assert set(relations) == {"left", "above"}
    assert min(relations.values()) > 150


def test_training_scenes_of_like_parts_stand_together():
    """By shapes, then by colours: what differs among neighbours is place, or what belongs to what."""
    train = splits(2)["train"]
    for parts in (make_data._shapes, lambda scene: (make_data._shapes(scene), make_data._colours(scene))):
        found = [parts(scene) for scene in train]
        assert sum(one != other for one, other in pairwise(found)) == len(set(found)) - 1
    assert set(Counter(found).values()) <= set(range(1, 9))


def test_changed_captions_differ_in_one_attribute_and_are_false():
    seen = Counter()
    for scene in all_scenes(0)[:300]:
        for name, other in changed(scene, Random(scene.key)):
            seen[name] += 1
            assert other.key != scene.key
            assert other.first.colour != other.second.colour
            same = (
                other.first.colour == scene.first.colour,
                other.second.colour == scene.second.colour,
                other.first.shape == scene.first.shape,
                other.second.shape == scene.second.shape,
                other.relation == scene.relation,
            )
            wrong = 2 if name == "shapes swapped" else 1
            assert same.count(False) == wrong, name
    assert set(seen) == {
        "colour of first", "colour of second", "shape of first", "shape of second", "place", "sides swapped",
        "shapes swapped",
    }  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("relation", ["left", "right", "above", "below"])
def test_picture_shows_what_is_said(shape: str, relation: str):
    scene = Scene(Thing("red", shape), Thing("blue", "square"), relation)
    for seed in range(5):
        picture, owners = draw(scene, Random(seed))
        pixels, owner = np.asarray(picture).astype(int), np.asarray(owners)
        centres = []
        for number, thing in enumerate((scene.first, scene.second), 1):
            rows, columns = np.nonzero(owner == number)
            assert len(rows) > 200
            middle = np.median(pixels[rows, columns], 0)
            assert np.abs(middle - COLOURS[thing.colour]).max() <= 19
            centres.append(np.array((columns.mean(), rows.mean())))
            assert min(rows.min(), columns.min()) > 0
            assert max(rows.max(), columns.max()) < picture.width - 1
        step = centres[0] - centres[1]
        axis = 0 if relation in ("left", "right") else 1
        assert np.sign(step[axis]) == (-1 if relation in ("left", "above") else 1)
        assert abs(step[axis]) > 1.5 * abs(step[1 - axis])


def test_shapes_are_drawn_differently():
    filled = {}
    for shape in SHAPES:
        _, owners = draw(Scene(Thing("red", shape), Thing("blue", "square"), "left"), Random(0))
        filled[shape] = np.asarray(owners) == 1
    for one in SHAPES:
        for other in SHAPES:
            if one != other:
                assert (filled[one] ^ filled[other]).sum() > 150


def test_ceiling_of_who_sees_no_shapes():
    red, blue, star = Thing("red", "circle"), Thing("blue", "circle"), Thing("blue", "star")
    scenes = [Scene(red, blue, "left"), Scene(star, red, "right"), Scene(red, blue, "right"), Scene(red, star, "above")]
    found = ceilings(scenes)
    assert found["colours"] == 25.0  # one guess among four, each time
    assert found["colours and places"] == 75.0  # only the first two look alike: 1/2, 1/2, 1, 1


def test_wilson_interval():
    low, high = Share(95, 100).interval()
    assert (round(low, 2), round(high, 2)) == (88.82, 97.85)
    assert Share(400, 400).interval()[1] == pytest.approx(100)


def test_records_repeat_and_hold_one_caption_when_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(make_data, "TEST", 4)
    monkeypatch.setattr(make_data, "VALIDATION", 3)
    for name in ("a", "b"):
        pictures = write_records(tmp_path / name, seed=5, train=6)
    lines = [(tmp_path / name / "records.jsonl").read_text("utf-8") for name in ("a", "b")]
    assert lines[0] == lines[1]
    found = [json.loads(line) for line in lines[0].splitlines()]
    assert Counter(record["split"] for record in found) == {"test": 4, "val": 3, "train": 6}
    for record in found:
        assert (tmp_path / "b" / record["image"]).is_file()
        assert {len(texts) for texts in record["captions"].values()} == {3 if record["split"] == "train" else 1}
    assert pictures.pixels.shape == (6, 3, 128, 128)
    assert pictures.owners.shape == (6, 128, 128)
    first = splits(5)["train"][0].first
    assert pictures.labels["colour"][0, 1] == 1 + list(COLOURS).index(first.colour)
    assert pictures.labels["shape"][0, 1] == 1 + SHAPES.index(first.shape)
    relation = splits(5)["train"][0].relation
    assert pictures.labels["side"][0].tolist() == {"left": [0, 1, 2], "above": [0, 3, 4]}[relation]
