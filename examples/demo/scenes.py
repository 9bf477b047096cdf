"""Drawn scenes for the demo: two coloured shapes and where they stand, with sentences in English and Chinese.

A scene is two objects of different colours, side by side or one above the other. Every scene is drawn once;
whole scenes (colours, shapes and place together) are held out for validation and test. Everything here is a
pure function of a seed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product
from random import Random
from typing import Literal

from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "green": (35, 150, 60),
    "blue": (40, 75, 215),
    "yellow": (245, 215, 40),
    "purple": (135, 50, 175),
    "orange": (245, 135, 25),
    "pink": (250, 130, 185),
    "black": (25, 25, 28),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
LANGUAGES = ("en", "zh")
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}
PICTURE = 128  # pixels a side of a drawn picture
OVERSAMPLE = 3  # drawn larger, then shrunk: smooth edges

_CHINESE = {
    **{"red": "红", "green": "绿", "blue": "蓝", "yellow": "黄", "purple": "紫"},
    **{"orange": "橙", "pink": "粉", "black": "黑"},
    **{"circle": "圆形", "square": "方形", "triangle": "三角", "star": "星形", "cross": "十字", "ring": "环形"},
    **{"left": "左", "right": "右", "above": "上", "below": "下"},
}
_MOSTLY = [0] * 128 + [255] * 128  # of a smooth edge, the half that counts as the object's
_RELATION = {"left": "left of", "above": "above"}
_SIDE = {"left": "left", "right": "right", "above": "top", "below": "bottom"}

Relation = Literal["left", "right", "above", "below"]


@dataclass(frozen=True, slots=True)
class Thing:
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Scene:
    """`first` is `relation` of `second`; their colours differ. Drawn and described in reading order: left or above."""

    first: Thing
    second: Thing
    relation: str

    def upright(self) -> "Scene":
        """The same scene in reading order: the left or the upper object first."""
        if self.relation in ("left", "above"):
            return self
        return Scene(self.second, self.first, INVERSE[self.relation])

    @property
    def key(self) -> str:
        """One name for the scene, whichever object comes first."""
        first, second, relation = (scene := self.upright()).first, scene.second, scene.relation
        return "-".join((first.colour, first.shape, relation, second.colour, second.shape))


def all_scenes(seed: int) -> list[Scene]:
    """Every scene once, upright, in an order drawn from `seed`."""
    rng = Random(f"scenes {seed}")
    scenes = [
        Scene(Thing(one, shape), Thing(other, another), relation)
        for one, other in permutations(COLOURS, 2)
        for shape, another in product(SHAPES, SHAPES)
        for relation in ("left", "above")
    ]
    rng.shuffle(scenes)
    return scenes


def captions(scene: Scene, language: str) -> list[str]:
    """Wordings that state every attribute of the scene in reading order; the first is the one used for tests."""
    return (_english if language == "en" else _chinese)(scene.upright())


def changed(scene: Scene, rng: Random) -> Iterator[tuple[str, Scene]]:
    """The scene with one attribute made wrong, under the attribute's name; all of them are false of the picture.

    `sides swapped` and `shapes swapped` say the same words in another order, to test what belongs to what; shapes are
    swapped only where they differ.
    """
    first, second = scene.first, scene.second
    free = [colour for colour in COLOURS if colour not in (first.colour, second.colour)]
    yield "colour of first", replace(scene, first=replace(first, colour=rng.choice(free)))
    yield "colour of second", replace(scene, second=replace(second, colour=rng.choice(free)))
    yield "shape of first", replace(scene, first=replace(first, shape=_other(SHAPES, first.shape, rng)))
    yield "shape of second", replace(scene, second=replace(second, shape=_other(SHAPES, second.shape, rng)))
    yield "place", replace(scene, relation=_other(tuple(INVERSE), scene.relation, rng))
    yield "sides swapped", replace(scene, relation=INVERSE[scene.relation])
    if first.shape != second.shape:
        yield (
            "shapes swapped",
            replace(scene, first=replace(first, shape=second.shape), second=replace(second, shape=first.shape)),
        )


def draw(scene: Scene, rng: Random) -> tuple[Image.Image, Image.Image]:
    """The picture, RGB, and a map of the same size: 0 where nothing stands, 1 on the first object, 2 on the second.

    Places, sizes, tones, turns and the background vary with `rng`.
    """
    size = PICTURE * OVERSAMPLE
    tone = rng.randint(200, 240)
    background = tuple(min(255, max(0, tone + rng.randint(-12, 12))) for _ in range(3))
    picture = Image.new("RGB", (PICTURE, PICTURE), background)
    owner = Image.new("L", (PICTURE, PICTURE), 0)
    for number, (thing, (x, y)) in enumerate(zip((scene.first, scene.second), _centres(scene.relation, rng)), 1):
        colour = tuple(min(255, max(0, value + rng.randint(-18, 18))) for value in COLOURS[thing.colour])
        radius, turn = rng.uniform(0.15, 0.20) * size, rng.uniform(-0.2, 0.2)
        mask = Image.new("L", (size, size), 0)
        _draw_shape(ImageDraw.Draw(mask), thing.shape, (x * size, y * size), radius, turn)
        mask = mask.resize((PICTURE, PICTURE), Image.Resampling.BOX)
        picture.paste(colour, mask=mask)
        owner.paste(number, mask=mask.point(_MOSTLY))
    return picture, owner


def _centres(relation: str, rng: Random) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centres of both objects in units of the picture: far apart along the relation's axis, close along the other."""
    near, far = rng.uniform(0.22, 0.30), rng.uniform(0.70, 0.78)
    across = [rng.uniform(0.42, 0.58) for _ in range(2)]
    along = (near, far) if relation in ("left", "above") else (far, near)
    points = list(zip(along, across))
    if relation in ("above", "below"):
        points = [(x, y) for y, x in points]
    return points[0], points[1]


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, centre: tuple[float, float], radius: float, turn: float) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    match shape:
        case "circle":
            pen.ellipse(box, fill=255)
        case "ring":
            hole = 0.55 * radius
            pen.ellipse(box, fill=255)
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        case "square":
            pen.polygon(_corners(centre, [1.15 * radius] * 4, turn + math.pi / 4), fill=255)
        case "triangle":
            pen.polygon(_corners(centre, [1.2 * radius] * 3, turn - math.pi / 2), fill=255)
        case "star":
            pen.polygon(_corners(centre, [1.2 * radius, 0.48 * radius] * 5, turn - math.pi / 2), fill=255)
        case "cross":
            for angle in (turn, turn + math.pi / 2):
                ends = [_point(centre, radius, angle), _point(centre, -radius, angle)]
                pen.line(ends, fill=255, width=round(0.55 * radius))


def _corners(centre: tuple[float, float], radii: list[float], start: float) -> list[tuple[float, float]]:
    return [_point(centre, radius, start + 2 * math.pi * k / len(radii)) for k, radius in enumerate(radii)]


def _point(centre: tuple[float, float], radius: float, angle: float) -> tuple[float, float]:
    return centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)


def name(word: str) -> str:
    """The Chinese word for a colour, a shape or a side."""
    return _CHINESE[word]


def _other(values: tuple[str, ...], value: str, rng: Random) -> str:
    return rng.choice([other for other in values if other != value])


def _english(scene: Scene) -> list[str]:
    first, second = (f"{thing.colour} {thing.shape}" for thing in (scene.first, scene.second))
    here, there = _SIDE[scene.relation], _SIDE[INVERSE[scene.relation]]
    on = "on" if scene.relation in ("left", "right") else "at"
    return [
        f"{_article(first)} {first} {_RELATION[scene.relation]} {_article(second)} {second}",
        f"{first} {on} the {here}, {second} {on} the {there}",
        f"{here}: {_article(first)} {first}, {there}: {_article(second)} {second}",
    ]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _chinese(scene: Scene) -> list[str]:
    colours = [_CHINESE[thing.colour] for thing in (scene.first, scene.second)]
    shapes = [_CHINESE[thing.shape] for thing in (scene.first, scene.second)]
    (first, second), (one, other) = (
        [f"{colour}{word}{shape}" for colour, shape in zip(colours, shapes)] for word in ("色", "")
    )
    here, there = _CHINESE[scene.relation], _CHINESE[INVERSE[scene.relation]]
    return [f"{first}在{second}{here}边", f"{here}边{one}，{there}边{other}", f"{one}在{here}，{other}在{there}"]
