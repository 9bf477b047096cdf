"""What the demo's small language model reads: sentences, hints and questions made from training scenes, no picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from data_tools.chatglm_tokenizer.train import train_ice_text
from data_tools.small_language.train import WITHOUT_HINT, DrawText, TrainingText, save_language, train_language
from examples.demo.scenes import INVERSE, LANGUAGES, Scene, Thing, captions, name
from vglm_train.config.language import Questions
from vglm_train.config.run import Config
from vglm_train.prompt.build import build_template
from vglm_train.prompt.chatglm import build_chatglm
from vglm_train.prompt.dialogue import Dialogue

DESCRIBED = 0.6  # share of the texts that describe the scene; the others answer a question about it
KINDS = ("what is there", "colour", "shape")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one scene, with its only right answer."""

    kind: str  # one of KINDS
    text: str
    answer: str


def question(scene: Scene, kind: str, second: bool, language: str) -> Question | None:
    """About the first or the second thing. None where it has no single answer: the colour of one of two like shapes."""
    upright = scene.upright()
    thing, side = (upright.second, INVERSE[upright.relation]) if second else (upright.first, upright.relation)
    if kind == "colour" and upright.first.shape == upright.second.shape:
        return None
    return (_english if language == "en" else _chinese)(thing, side, kind)


def hint(scene: Scene) -> str:
    """The scene in five words, in reading order."""
    first, second, relation = (upright := scene.upright()).first, upright.second, upright.relation
    return f"{first.colour} {first.shape} {relation} {second.colour} {second.shape}"


def scene_texts(scenes: Sequence[Scene], questions: Questions) -> DrawText:
    """A scene's hint, and a description of it or the answer to a question about it, in either language."""

    def draw(rng: Random) -> TrainingText:
        scene, language = rng.choice(scenes), rng.choice(LANGUAGES)
        hidden = rng.random() < WITHOUT_HINT
        chosen = None
        if not hidden and rng.random() >= DESCRIBED:
            chosen = question(scene, rng.choice(KINDS), rng.random() < 0.5, language)
        if chosen is not None:
            return TrainingText(Dialogue(chosen.text, chosen.answer, language=language), hint(scene))
        description = rng.choice(captions(scene, language))
        return TrainingText(
            Dialogue(getattr(questions, language), description, language=language), "" if hidden else hint(scene)
        )

    return draw


def sentences(scenes: Sequence[Scene], questions: Questions) -> Iterator[str]:
    """Every sentence that training may use, for the tokenizer."""
    for scene in scenes:
        yield hint(scene)
        for language in LANGUAGES:
            yield from captions(scene, language)
            yield getattr(questions, language)
            possible = (question(scene, kind, second, language) for kind in KINDS for second in (False, True))
            for each in possible:
                if each is not None:
                    yield each.text
                    yield each.answer


def train(scenes: Sequence[Scene], config: Config, steps: int, seed: int) -> float:
    """Write `model.language.weights` of this configuration: a language model that knows the scenes' words.

    Returns the loss of its last steps in nats a token.
    """
    language, prompt = config.model.language, config.prompt
    assert language is not None
    folder = Path(str(language.weights))
    pieces = folder.with_name("ice_text.model")
    train_ice_text(sentences(scenes, prompt.questions), pieces, language.vocabulary)
    language = replace(language, tokenizer=str(pieces))
    template = build_template(prompt, language, build_chatglm(pieces), config.model.qformer.queries)
    draw = scene_texts(scenes, prompt.questions)
    model, loss = train_language(language, template, draw, steps=steps, batch=64, lr=3e-3, seed=seed)
    save_language(model, language, pieces, folder)
    pieces.unlink()
    return loss


def _english(thing: Thing, side: str, kind: str) -> Question:
    position = {"left": "on the left", "right": "on the right", "above": "at the top", "below": "at the bottom"}[side]
    match kind:
        case "what is there":
            return Question(kind, f"What is {position}?", f"{thing.colour} {thing.shape}")
        case "colour":
            return Question(kind, f"What colour is the {thing.shape}?", thing.colour)
        case _:
            return Question(kind, f"What shape is {thing.colour}?", thing.shape)


def _chinese(thing: Thing, side: str, kind: str) -> Question:
    colour, shape = f"{name(thing.colour)}色", name(thing.shape)
    match kind:
        case "what is there":
            return Question(kind, f"{name(side)}边是什么？", f"{colour}{shape}")
        case "colour":
            return Question(kind, f"{shape}是什么颜色？", colour)
        case _:
            return Question(kind, f"{colour}的是什么形状？", shape)
