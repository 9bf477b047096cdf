"""The demo's scores as tables, and what it promises of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.demo.probe_pairs import Pairs, Share
from examples.demo.scenes import LANGUAGES

NAMES = {"en": "English", "zh": "Chinese"}
RECALLS = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in (1, 5, 10)]
LEAST_R1 = 40.0  # per cent, held out, both ways, each language
OVER_CEILING = 1.3  # times what a model that sees no shapes can reach
LEAST_COLOUR = 95.0
QUICK_OVER_CHANCE = 2.0  # times chance, with --quick: a few colours learned, R@10


@dataclass(frozen=True, slots=True)
class Results:
    """images: held-out pictures, one caption a language each; scores and chance as vglm_train.evaluate writes them;
    ceilings in per cent; pairs as `score_pairs` gives them."""

    images: int
    scores: dict[str, float]
    chance: dict[str, float]
    ceilings: dict[str, float]
    pairs: Pairs

    def r1(self, kind: str = "") -> dict[str, float]:
        """R@1 by language and direction; kind: "", "rerank_" or "shuffled_"."""
        return {
            f"{language} {way}": self.scores[f"eval/{language}_{kind}{way}_r1"]
            for language in LANGUAGES
            for way in ("i2t", "t2i")
        }


def retrieval_table(results: Results) -> Iterator[str]:
    """Recalls by language beside chance and ceilings, line by line."""
    yield f"Retrieval: {results.images} held-out pictures, as many captions a language, per cent"
    yield f"{'':34}" + "".join(f"{name.replace('_r', ' R@'):>9}" for name in RECALLS)
    kinds = {"": "ITC", "rerank_": "ITC, then ITM", "shuffled_": "ITC, images shuffled"}
    for language in LANGUAGES:
        for kind, title in kinds.items():
            row = [results.scores.get(f"eval/{language}_{kind}{name}") for name in RECALLS]
            if None not in row:
                yield _row(f"{NAMES[language]}, {title}", row)
    yield _row("chance", [results.chance[f"{LANGUAGES[0]}_{name}"] for name in RECALLS])
    for name, value in results.ceilings.items():
        yield f"{f'ceiling: knows only {name}':34}{value:9.1f}{'':18}{value:9.1f}"


def pairs_table(results: Results) -> Iterator[str]:
    """Shares of right answers by language and attribute with 95 % intervals, line by line."""
    yield "True caption or one with one attribute changed: per cent right, [95 % interval]; a guess: 50"
    yield f"{'':27}{'ITC':>22}{'ITM':>24}{'shuffled ITC':>14}{'ITM':>7}"
    for language, attributes in results.pairs.items():
        for attribute, shares in attributes.items():
            known = "".join(f"{_with_interval(shares[name]):>24}" for name in ("itc", "itm"))
            shuffled = f"{shares['shuffled_itc'].percent:12.1f}{shares['shuffled_itm'].percent:9.1f}"
            yield f"{NAMES[language]}, {attribute:18}{known}{shuffled}"


def broken_promises(results: Results, quick: bool) -> list[str]:
    """What should hold and does not, in words."""
    broken = list(_not_at_chance(results))
    if quick:
        return [*broken, *_near_chance(results)]
    least = {"what is promised": LEAST_R1}
    least |= {f"a model that knows only {name}": OVER_CEILING * value for name, value in results.ceilings.items()}
    for name, value in results.r1().items():
        broken += [f"R@1 {name} is {value:.1f}, below {low:.1f} ({why})" for why, low in least.items() if value < low]
    for language, attributes in results.pairs.items():
        for attribute, shares in attributes.items():
            share = shares["itc"].percent
            if attribute.startswith("colour") and share < LEAST_COLOUR:
                broken.append(f"{language}: {attribute} is right in {share:.1f} %, below {LEAST_COLOUR}")
    return broken


def _near_chance(results: Results) -> Iterator[str]:
    """Ten candidates count, because single hits among hundreds of pictures are too few to judge by."""
    for language in LANGUAGES:
        for name in ("i2t_r10", "t2i_r10"):
            value, least = (
                results.scores[f"eval/{language}_{name}"],
                QUICK_OVER_CHANCE * results.chance[f"{language}_{name}"],
            )
            if value < least:
                yield f"R@10 {language} {name[:3]} is {value:.1f}, below {least:.1f} (chance)"


def _not_at_chance(results: Results) -> Iterator[str]:
    """With shuffled images: recalls and choices that chance makes less often than once in ten thousand runs."""
    expected = results.images * results.chance[f"{LANGUAGES[0]}_i2t_r1"] / 100
    most = 100 * (expected + 4 * math.sqrt(expected) + 2) / results.images
    for name, value in results.r1("shuffled_").items():
        if value > most:
            yield f"images shuffled: R@1 {name} is {value:.1f}, above {most:.1f}"
    for language, attributes in results.pairs.items():
        for attribute, shares in attributes.items():
            for name in ("shuffled_itc", "shuffled_itm"):
                share = shares[name]
                if abs(share.percent - 50) > 100 * 4 * 0.5 / math.sqrt(share.total):
                    yield f"images shuffled: {language} {attribute} ({name[9:]}) is {share.percent:.1f}, not 50"


def as_json(results: Results) -> dict[str, Any]:
    """Everything, to be read by programs."""
    pairs = {
        language: {
            attribute: {name: [share.right, share.total, *share.interval()] for name, share in shares.items()}
            for attribute, shares in attributes.items()
        }
        for language, attributes in results.pairs.items()
    }
    return {
        "images": results.images,
        "scores": results.scores,
        "chance": results.chance,
        "ceilings": results.ceilings,
        "pairs_right_total_low_high": pairs,
    }


def where(work: Path) -> Iterator[str]:
    """Where to look next."""
    offline = next(iter(sorted((work / "run" / "wandb").glob("offline-run-*"))), work / "run" / "wandb")
    yield f"curves             {work / 'run' / 'report' / 'report.html'} (and curves.png)"
    yield f"metrics            {work / 'run' / 'metrics.jsonl'}"
    yield f"W&B, offline       {offline} (wandb sync uploads it)"
    yield f"trained models     {work / 'run' / 'bundle'}, {work / 'run2' / 'bundle'}"
    yield f"pictures and texts {work / 'preview.html'}, {work / 'data'}"
    yield f"these results      {work / 'results.json'}"


def _row(title: str, values: list[Any]) -> str:
    return f"{title:34}" + "".join(f"{value:9.1f}" for value in values)


def _with_interval(share: Share) -> str:
    low, high = share.interval()
    return f"{share.percent:.1f} [{low:.1f}, {high:.1f}]"
