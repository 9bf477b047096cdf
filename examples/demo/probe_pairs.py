"""Which captions the demo's model distinguishes: a caption against the same caption with one attribute made wrong.

The ITC score and the matching head (ITM) each choose one of the two for every held-out picture; a guess is right
half the time.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from examples.demo.scenes import LANGUAGES, Scene, captions, changed
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.config.data import Source
from vglm_train.data.eval_captions import EvalSet
from vglm_train.evaluate.retrieval.evaluator import Embedder


@dataclass(frozen=True, slots=True)
class Share:
    """`right` of `total`."""

    right: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.right / self.total

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, in per cent."""
        z, n, p = 1.96, self.total, self.right / self.total
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return 100 * (centre - half) / (1 + z * z / n), 100 * (centre + half) / (1 + z * z / n)


@dataclass(frozen=True, slots=True)
class Tested:
    """Captions of one language: picture `pictures[k]` chooses between caption k of `true` and of `wrong`."""

    attributes: list[str]
    pictures: Tensor  # [k] int64
    true: list[str]
    wrong: list[str]


Pairs = dict[str, dict[str, dict[str, Share]]]  # language -> attribute -> itc, itm, shuffled_itc, shuffled_itm


def ceilings(scenes: Sequence[Scene]) -> dict[str, float]:
    """Best expected R@1 among these scenes' captions, in per cent, of a model that sees less than they say.

    `colours`: which two colours there are; `colours and places`: also which of them is where, but no shape.
    The same for both directions: a query has as many equal candidates as its own group has members.
    """
    views: dict[str, Callable[[Scene], object]] = {
        "colours": lambda scene: frozenset((scene.first.colour, scene.second.colour)),
        "colours and places": lambda scene: (scene.first.colour, scene.relation, scene.second.colour),
    }
    return {name: 100 * len({view(scene.upright()) for scene in scenes}) / len(scenes) for name, view in views.items()}


def score_pairs(bundle: Path, shards: Path, scenes: Sequence[Scene], seed: int) -> Pairs:
    """Score the bundle on the held-out `scenes`, whose pictures are in `shards`.

    `shuffled_`: each picture is replaced by its neighbour's, and half of the answers should be right.
    """
    loaded = open_bundle(bundle, torch.device("cpu"))
    embedder = Embedder(loaded.model, loaded.text, torch.device("cpu"))
    size, image = loaded.config.model.vision.image_size, loaded.config.data.image
    items = list(EvalSet([Source(name="test", shards=str(shards))], size, LANGUAGES, decoder=image.decoder, fit=image))
    named = {captions(scene, LANGUAGES[0])[0]: scene for scene in scenes}
    shown = [named[item.captions[LANGUAGES[0]][0]] for item in items]
    raw, features = embedder.images(torch.stack([item.pixels for item in items]))
    found: Pairs = {}
    for language in LANGUAGES:
        tested = _tested(shown, language, seed)
        found[language] = defaultdict(dict)
        for prefix, pictures in (("", tested.pictures), ("shuffled_", (tested.pictures + 1) % len(items))):
            for name, right in _right(embedder, raw, features, pictures, tested, language):
                for attribute, share in _shares(tested.attributes, right):
                    found[language][attribute][prefix + name] = share
    return found


def _tested(scenes: Sequence[Scene], language: str, seed: int) -> Tested:
    tested = Tested([], torch.empty(0), [], [])
    pictures = []
    for number, scene in enumerate(scenes):
        for attribute, other in changed(scene, Random(f"{seed} {scene.key}")):
            tested.attributes.append(attribute)
            pictures.append(number)
            tested.true.append(captions(scene, language)[0])
            tested.wrong.append(captions(other, language)[0])
    return Tested(tested.attributes, torch.tensor(pictures), tested.true, tested.wrong)


def _right(
    embedder: Embedder, raw: Tensor, features: Tensor, pictures: Tensor, tested: Tested, language: str
) -> Iterator[tuple[str, Tensor]]:
    """(itc or itm, whether the true caption scores higher [k])."""
    itc, itm = [], []
    for texts in (tested.true, tested.wrong):
        ids, mask, embeds = embedder.texts(texts, language)
        itc.append(torch.einsum("kqe,ke->kq", features[pictures], embeds).amax(1))
        itm.append(embedder.match(raw, pictures, ids, mask))
    yield "itc", itc[0] > itc[1]
    yield "itm", itm[0] > itm[1]


def _shares(attributes: list[str], right: Tensor) -> Iterator[tuple[str, Share]]:
    for attribute in dict.fromkeys(attributes):
        rows = [row for row, name in enumerate(attributes) if name == attribute]
        yield attribute, Share(int(right[rows].sum()), len(rows))
