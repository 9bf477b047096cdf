"""How well stage two's model describes held-out pictures, by attribute, beside a model that does not see them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from examples.demo.probe_pairs import Share
from examples.demo.results import NAMES
from examples.demo.scenes import COLOURS, LANGUAGES, SHAPES, Scene, all_scenes, captions
from examples.demo.train_language import KINDS, question
from vglm_train.checkpoint.bundle.read import Bundle, open_bundle
from vglm_train.config.data import Source
from vglm_train.config.language import Decoding
from vglm_train.data.eval_captions import EvalSet
from vglm_train.prompt.dialogue import Dialogue

CHANCE = {
    "colour of first": 100 / len(COLOURS),
    "colour of second": 100 / len(COLOURS),
    "shape of first": 100 / len(SHAPES),
    "shape of second": 100 / len(SHAPES),
    "place": 50.0,
    "everything": 100 / (len(COLOURS) * (len(COLOURS) - 1) * len(SHAPES) ** 2 * 2),
}
CONDITIONS = ("right", "shuffled", "none")  # what the model is shown: the picture, another scene's, nothing
BATCH = 100

CaptionProbeResult = dict[
    str, dict[str, dict[str, Share]]
]  # language -> attribute or kind of question -> one of CONDITIONS -> share


@dataclass(frozen=True, slots=True)
class CaptionProbe:
    """Shares of right attributes in greedy captions, and of right answers; some examples to read."""

    pictures: int
    captions: CaptionProbeResult
    answers: CaptionProbeResult
    examples: list[tuple[str, str, str, str, str]]  # language, true caption, caption, question, answer


def probe_captions(bundle: Path, shards: Path, scenes: Sequence[Scene], seed: int) -> CaptionProbe:
    """Captions of, and answers about, the held-out `scenes`, whose pictures are in `shards`."""
    loaded = open_bundle(bundle, torch.device("cpu"))
    size, image = loaded.config.model.vision.image_size, loaded.config.data.image
    items = list(EvalSet([Source(name="test", shards=str(shards))], size, LANGUAGES, decoder=image.decoder, fit=image))
    named = {captions(scene, LANGUAGES[0])[0]: scene for scene in scenes}
    shown = [named[item.captions[LANGUAGES[0]][0]] for item in items]
    pixels = torch.stack([item.pixels for item in items])
    result = CaptionProbe(len(items), {}, {}, [])
    for language in LANGUAGES:
        said = _described(loaded, pixels, language)
        result.captions[language] = _attributes(shown, said, language)
        questions = _questions(shown, language, seed)
        answered = _answered(loaded, pixels, questions, language)
        result.answers[language] = _by_kind(questions, answered)
        for n in range(3):
            true = captions(shown[n], language)[0]
            result.examples.append((language, true, said["right"][n], questions[n].text, answered["right"][n]))
    return result


def describe(bundle: Bundle, pixels: Tensor | None, questions: Sequence[str], language: str) -> list[str]:
    """Greedy answers to a question each, about pixels [n,3,h,w] or about nothing (the language model alone)."""
    template, decoding = bundle.template, Decoding(max_new=bundle.config.prompt.max_answer)
    answers: list[str] = []
    for start in range(0, len(questions), BATCH):
        part = [Dialogue(text, None, language=language) for text in questions[start : start + BATCH]]
        rows = [template.encode_prompt(dialogue) for dialogue in part]
        batch = template.batch(rows, None if pixels is None else pixels[start : start + BATCH])
        if pixels is None:
            model = bundle.model.language
            ids = model.generate(model.embed(batch.input_ids), batch, decoding, template.end_id)
        else:
            ids = bundle.model.generate(batch, decoding, template.end_id)
        answers += [template.decode(row) for row in ids.tolist()]
    return answers


def _described(bundle: Bundle, pixels: Tensor, language: str) -> dict[str, list[str]]:
    questions = [getattr(bundle.config.prompt.questions, language)] * len(pixels)
    alone = describe(bundle, None, questions[:1], language) * len(pixels)  # the same words whatever there is to see
    return {
        "right": describe(bundle, pixels, questions, language),
        "shuffled": describe(bundle, pixels.roll(1, 0), questions, language),
        "none": alone,
    }


def _answered(bundle: Bundle, pixels: Tensor, questions: Sequence[Any], language: str) -> dict[str, list[str]]:
    texts = [each.text for each in questions]
    return {
        "right": describe(bundle, pixels, texts, language),
        "shuffled": describe(bundle, pixels.roll(1, 0), texts, language),
        "none": describe(bundle, None, texts, language),
    }


@cache
def _meaning(language: str) -> Mapping[str, Scene]:
    """Every sentence that describes a scene, and the scene."""
    return {text: scene for scene in all_scenes(0) for text in captions(scene, language)}


def _attributes(
    shown: Sequence[Scene], said: Mapping[str, Sequence[str]], language: str
) -> dict[str, dict[str, Share]]:
    """A caption that is no training sentence counts as wrong in everything."""
    right: Counter[tuple[str, str]] = Counter()
    for condition, texts in said.items():
        for scene, text in zip(shown, texts):
            described = _meaning(language).get(text)
            right.update((name, condition) for name in _agreeing(scene.upright(), described))
    return {name: {condition: Share(right[name, condition], len(shown)) for condition in said} for name in CHANCE}


def _agreeing(scene: Scene, described: Scene | None) -> Iterator[str]:
    if described is None:
        return
    agree = {
        "colour of first": described.first.colour == scene.first.colour,
        "colour of second": described.second.colour == scene.second.colour,
        "shape of first": described.first.shape == scene.first.shape,
        "shape of second": described.second.shape == scene.second.shape,
        "place": described.relation == scene.relation,
    }
    yield from (name for name, same in agree.items() if same)
    if all(agree.values()):
        yield "everything"


def _questions(shown: Sequence[Scene], language: str, seed: int) -> list[Any]:
    """One for each picture, chosen among those that have one answer."""
    rng = Random(f"questions {seed}")
    chosen = []
    for scene in shown:
        every = [question(scene, kind, second, language) for kind, second in product(KINDS, (False, True))]
        chosen.append(rng.choice([each for each in every if each is not None]))
    return chosen


def _by_kind(questions: Sequence[Any], answered: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Share]]:
    total = Counter(each.kind for each in questions)
    right: Counter[tuple[str, str]] = Counter()
    for condition, texts in answered.items():
        right.update((each.kind, condition) for each, text in zip(questions, texts) if text == each.answer)
    return {
        kind: {condition: Share(right[kind, condition], total[kind]) for condition in answered}
        for kind in KINDS
        if total[kind]
    }


LEAST_COLOUR = 90.0  # per cent, of the colours


GOAL = 60.0  # of shapes and places


TITLES = {"right": "its picture", "shuffled": "another picture", "none": "no picture"}


def caption_tables(probe: CaptionProbe) -> Iterator[str]:
    """Captions by attribute and answers by kind of question, with 95 % intervals, then examples; line by line."""
    yield f"Greedy captions of {probe.pictures} held-out pictures: per cent right, [95 % interval]"
    yield from _table(probe.captions, {name: f"{chance:.1f}" for name, chance in CHANCE.items()})
    yield ""
    yield "One question about each picture; stage two was never shown one: per cent right, [95 % interval]"
    yield from _table(probe.answers, {})
    yield ""
    for language, true, caption, asked, answer in probe.examples:
        yield f"{NAMES[language]}: {caption}   (true: {true})"
        yield f"         {asked}  {answer}"


def broken_caption_promises(probe: CaptionProbe) -> list[str]:
    """What should hold of captions and does not, in words."""
    broken = []
    for language, attributes in probe.captions.items():
        for name, shares in attributes.items():
            share, (low, _) = shares["right"].percent, shares["right"].interval()
            if name.startswith("colour") and share < LEAST_COLOUR:
                broken.append(f"{language} captions: {name} is right in {share:.1f} %, below {LEAST_COLOUR}")
            elif low <= CHANCE[name] or (name != "everything" and share < GOAL):
                broken.append(f"{language} captions: {name} is right in {share:.1f} %, below {GOAL} or near chance")
    return broken


def captions_json(probe: CaptionProbe) -> dict[str, Any]:
    """Everything, to be read by programs."""
    return {"captions": _plain(probe.captions), "answers": _plain(probe.answers), "chance": CHANCE}


def _table(result: CaptionProbeResult, chance: dict[str, str]) -> Iterator[str]:
    titles = "".join(f"{title:>22}" for title in TITLES.values())
    yield f"{'':27}{titles}" + (f"{'chance':>10}" if chance else "")
    for language, rows in result.items():
        for name, shares in rows.items():
            cells = "".join(f"{_cell(shares[condition]):>22}" for condition in TITLES)
            yield f"{NAMES[language]}, {name:18}{cells}{chance.get(name, ''):>10}"


def _cell(share: Share) -> str:
    low, high = share.interval()
    return f"{share.percent:.1f} [{low:.1f}, {high:.1f}]"


def _plain(result: CaptionProbeResult) -> dict[str, Any]:
    return {
        language: {
            name: {condition: [share.right, share.total, *share.interval()] for condition, share in shares.items()}
            for name, shares in rows.items()
        }
        for language, rows in result.items()
    }
