"""Answers and captions by a protocol's prompt and decoding, read and generated a batch at a time.

The pictures of VQAv2's questions would fill 32 GB of memory, so none is kept.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.language import Decoding
from vglm_train.errors import UserError
from vglm_train.evaluate.generator import Generator
from vglm_train.evaluate.protocols.official import OfficialItem, OfficialSet
from vglm_train.evaluate.protocols.schema import Protocol
from vglm_train.progress import Progress
from vglm_train.prompt.dialogue import Dialogue
from vglm_train.prompt.template import Template

QUESTION_WORDS = 50  # that blip_question keeps
Output = tuple[OfficialItem, str]


def blip_question(question: str) -> str:
    """LAVIS' blip_question: small letters, without . ! " ( ) * # : ; ~, at most 50 words. The question mark stays."""
    text = re.sub(r"[.!\"()*#:;~]", "", question.lower()).rstrip(" ")
    return " ".join(text.split(" ")[:QUESTION_WORDS])


def asked(protocol: Protocol, bundle: Bundle) -> Callable[[OfficialItem], Dialogue]:
    """What the model is asked about an item."""
    if protocol.task == "answer":
        process = str if protocol.question is None else blip_question
        return lambda item: Dialogue(process(item.question), None)
    prompt = protocol.prompt(family_of(bundle))
    text = bundle.config.prompt.questions.en if prompt is None else prompt.text
    return lambda item: Dialogue(text, None)


def build(protocol: Protocol, bundle: Bundle, dialogues: Sequence[Dialogue], device: torch.device) -> Generator:
    """The bundle's model with the protocol's prompt, which is as long as the longest of the dialogues needs it."""
    config, own = bundle.config, bundle.template
    prompt = protocol.prompt(family_of(bundle))
    if prompt is not None:
        words = prompt.text if protocol.task == "answer" else "{}"
        own = _with_prompt(own, words, own.prompt.max_prompt)
    longest = max(map(own.prompt_length, dialogues))
    own = _with_prompt(own, own.prompt.asked, max(longest, own.prompt.max_prompt))
    autocast = device.type == "cuda" and config.engine.precision == "bf16"
    generator = Generator(bundle.model, own, config.prompt.questions, device, autocast)
    try:
        generator.check_positions(longest + own.image_length, decoding_of(protocol, bundle).max_new)
    except UserError as error:
        raise UserError(f"--protocol {protocol.name}: {error}") from error
    return generator


def decoding_of(protocol: Protocol, bundle: Bundle) -> Decoding:
    """The protocol's, or the bundle's own where it has none."""
    return bundle.config.evaluate.decoding if protocol.search is None else protocol.search.decoding()


def family_of(bundle: Bundle) -> str:
    """The kind of language model."""
    language = bundle.config.model.language
    assert language is not None
    return language.family


def generate(
    protocol: Protocol, bundle: Bundle, items: OfficialSet, batch: int, workers: int, device: torch.device
) -> list[Output]:
    """Every usable item with the model's text. `batch`: sequences at once, which beams share."""
    ask, decoding = asked(protocol, bundle), decoding_of(protocol, bundle)
    generator = build(protocol, bundle, [ask(item) for item in items.items], device)
    outputs: list[Output] = []
    what = ("question", "answers") if protocol.task == "answer" else ("image", "captions")
    with Progress(len(items), *what, True) as bar:
        for part in _split(items.read(workers), max(1, batch // decoding.beams)):
            pixels = torch.cat([item.pixels for item in part if item.pixels is not None])
            texts = generator.answers([ask(item) for item in part], pixels, decoding)
            outputs += zip([replace(item, pixels=None) for item in part], texts)
            bar.update(len(part))
    return outputs


def _with_prompt(template: Template, words: str, max_prompt: int) -> Template:
    prompt = replace(template.prompt, asked=words, max_prompt=max_prompt)
    return type(template)(prompt, template.tokenizer, template.image_length, template.text)


def _split(items: Iterator[OfficialItem], size: int) -> Iterator[list[OfficialItem]]:
    while part := list(islice(items, size)):
        yield part
