"""A trained model to talk to, from Python.

model = vglm_train.load("RUN/bundle")
answer, history = model.chat("photo.jpg", "What is in this picture?")
answer, history = model.chat(None, "Which colour is it?", history)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, Self, Unpack

import torch
from torch import Tensor

from vglm_train.chat.events import AnswerStream, last_event
from vglm_train.chat.features import FeatureCache
from vglm_train.chat.history import ChatTurn, History, as_images, dialogue_of, names_pictures, read_history
from vglm_train.chat.images import Picture, read_pixels
from vglm_train.chat.memory import Fit, memory_line
from vglm_train.chat.request import Answer, Busy, Event, Limits, Put, Request
from vglm_train.chat.sampling import Sampling, read_sampling
from vglm_train.chat.scheduler import Load, Scheduler, Ticket
from vglm_train.checkpoint.bundle.adapter import parse_scaled
from vglm_train.checkpoint.bundle.format import ScaledAdapter, read_document
from vglm_train.checkpoint.bundle.read import Bundle, open_bundle
from vglm_train.checkpoint.convert.released import as_bundle
from vglm_train.data.record import content_id
from vglm_train.distributed import best_device, named_device
from vglm_train.errors import UserError
from vglm_train.model.language.linears import form_of
from vglm_train.prompt.dialogue import is_chinese

ENDLESS = 2048  # positions taken of a language model that has no end of them
FEATURES = 256.0  # MiB of image tokens that are kept


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that is ready for the scheduler."""

    request: Request
    turns: list[ChatTurn]  # before the question
    question: str
    images: tuple[Picture, ...]  # that came with it
    dropped: int  # oldest turns that had no room; their pictures stay, with the first turn that is left

    def within(self, length: int) -> Self:
        """The same with at most `length` tokens of prompt and answer. UserError if the prompt alone has as many."""
        left = length - len(self.request.prompt.input_ids)
        if left < 1:
            raise UserError(f"the prompt has {length - left} tokens, and max_length is {length}; raise it.")
        decoding = replace(self.request.decoding, max_new=min(left, self.request.decoding.max_new))
        return replace(self, request=replace(self.request, decoding=decoding))

    def history(self, answer: str) -> list[ChatTurn]:
        """The conversation with the answer."""
        return [*self.turns, ChatTurn(self.question, answer, self.images)]


class ChatModel:
    """Answers questions about pictures. Any number of threads may use one: requests are decoded together."""

    def __init__(
        self, bundle: Bundle, device: torch.device, limits: Limits, features: float = FEATURES, reason: str = ""
    ) -> None:
        """features: MiB of image tokens that are kept between turns. reason: why the language model is in its form."""
        self.bundle, self.device, self.template = bundle, device, bundle.template
        self.positions = bundle.model.language.positions or ENDLESS
        self._reason = reason
        self.quantize = form_of(bundle.model.language)  # None, or the form of the language model's blocks
        autocast = device.type == "cuda" and bundle.config.engine.precision == "bf16"
        self.features = FeatureCache(features)
        self.scheduler = Scheduler(bundle.model, self.template, device, limits, self.features, autocast)

    def chat(
        self,
        image: Picture | Sequence[Picture] | None,
        query: str,
        history: History | None = None,
        **sampling: Unpack[Sampling],
    ) -> tuple[str, list[ChatTurn]]:
        """The answer, and the history with it.

        image: what the question is about, one picture or several; those that the history has already are not shown
        twice. Where the history is pairs of texts, as VisualGLM's, the pictures were there from its beginning.
        UserError for a picture that cannot be read, a question that is too long, and wrong sampling.
        """
        asked = self.ask(image, query, history, **sampling)
        return (text := self.answer(asked).text), asked.history(text)

    def stream(
        self,
        image: Picture | Sequence[Picture] | None,
        query: str,
        history: History | None = None,
        **sampling: Unpack[Sampling],
    ) -> AnswerStream:
        """The pieces of the answer as they are written. Closing the stream ends the answer. UserError as `chat`."""
        return self.pieces(self.ask(image, query, history, **sampling))

    def generate(
        self,
        images: Sequence[Picture | Sequence[Picture] | None],
        prompts: Sequence[str],
        **sampling: Unpack[Sampling],
    ) -> list[str]:
        """An answer for each prompt about its picture or pictures, decoded together. UserError as `chat`."""
        if len(images) != len(prompts):
            raise UserError(f"{len(images)} pictures for {len(prompts)} prompts; give one, a list or None for each.")
        answers: list[str] = []
        waiting: list[SimpleQueue[Event]] = []
        together = min(self.scheduler.limits.rows, self.scheduler.limits.queue)
        for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            waiting.append(SimpleQueue())
            self._submit_patiently(self.ask(image, prompt, None, **sampling), waiting[-1].put)
            if number >= together:
                answers.append(last_event(waiting[number - together]).text)
        return answers + [last_event(queue).text for queue in waiting[len(answers) :]]

    def ask(
        self,
        image: Picture | Sequence[Picture] | None,
        query: str,
        history: History | None = None,
        **sampling: Unpack[Sampling],
    ) -> Asked:
        """Read pictures and question, and drop the oldest turns where all of it is too long. UserError as `chat`."""
        turns, images = read_history(history), as_images(image)
        pixels = [self.read_pixels(picture) for turn in turns for picture in turn.images]
        shown = {_name(each) for each in pixels}
        new = [(picture, self.read_pixels(picture)) for picture in images]
        new = [(picture, each) for picture, each in new if _name(each) not in shown]
        images, pixels = tuple(picture for picture, _ in new), [*pixels, *(each for _, each in new)]
        if turns and not names_pictures(history):
            turns[0], images = replace(turns[0], images=images), ()
        return self._asked(turns, images, pixels, query, sampling)

    def submit(self, asked: Asked, put: Put) -> Ticket:
        """Begin to answer; `put` gets the events, see `chat.request`. Busy if too many wait."""
        return self.scheduler.submit(asked.request, put)

    def _submit_patiently(self, asked: Asked, put: Put) -> None:
        while True:
            try:
                self.submit(asked, put)
                return
            except Busy as busy:  # with the questions of others
                time.sleep(min(busy.retry_after, 1.0))

    def answer(self, asked: Asked) -> Answer:
        """The whole answer."""
        events: SimpleQueue[Event] = SimpleQueue()
        self.submit(asked, events.put)
        return last_event(events)

    def pieces(self, asked: Asked) -> AnswerStream:
        """The answer as it is written."""
        return AnswerStream(self.scheduler, asked.request)

    def read_pixels(self, picture: Picture) -> Tensor:
        """uint8 [3,h,w] as the model's training made it. UserError if the picture cannot be used."""
        config = self.bundle.config
        image = config.data.image
        return read_pixels(picture, config.model.vision.image_size, image.decoder, image)

    def forget(self, asked: Asked) -> None:
        """Free the image tokens that are kept of this conversation."""
        question = asked.request.prompt.question_ids
        self.features.forget([(name, question) for name in asked.request.names])

    def memory(self) -> str:
        """What the language model takes of the device's memory, in words, and why it is in its form."""
        line = memory_line(self.bundle.model.language, self.device)
        return f"{self._reason}\n{line}" if self._reason else line

    def load(self) -> Load:
        """How busy the model is."""
        return self.scheduler.load()

    def close(self, finish: bool = True) -> None:
        """Take no more questions; with `finish`, those that were asked get their answers first."""
        self.scheduler.close(finish)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(finish=False)

    def __del__(self) -> None:
        if hasattr(self, "scheduler"):
            self.close(finish=False)  # its thread would hold the weights

    def _asked(
        self, turns: list[ChatTurn], images: tuple[Picture, ...], pixels: list[Tensor], query: str, sampling: Sampling
    ) -> Asked:
        question, config = query.strip(), self.bundle.config
        language = sampling.get("language") or ("zh" if is_chinese(question) else "en")
        if not question:
            language = sampling.get("language") or config.data.languages[0]
            question = getattr(config.prompt.questions, language)
        decoding, positions = read_sampling(sampling), self.positions
        longest = positions if self.template.separate_answer else positions - min(decoding.max_new, positions // 2)
        dialogue = dialogue_of(turns, question, len(images), language)
        prompt, dropped = self.template.encode_fitting(dialogue, min(longest, self.scheduler.limits.prompt))
        left = positions - (1 if self.template.separate_answer else len(prompt.input_ids))
        stop = sampling.get("stop", ())
        request = Request(
            prompt=prompt,
            pixels=torch.stack(pixels) if pixels else torch.empty(0, 3, 1, 1, dtype=torch.uint8),
            names=tuple(map(_name, pixels)),
            decoding=replace(decoding, max_new=min(decoding.max_new, left)),
            stops=(stop,) if isinstance(stop, str) else tuple(stop),
            seconds=sampling.get("seconds"),
        )
        left_out = tuple(picture for turn in turns[:dropped] for picture in turn.images)
        turns = turns[dropped:]
        if turns:
            turns[0] = replace(turns[0], images=left_out + turns[0].images)
        return Asked(request, turns, question, images if turns else left_out + images, dropped)


def load(
    bundle: str | Path,
    adapters: Sequence[str | Path | ScaledAdapter] = (),
    device: str | torch.device | None = None,
    dtype: Literal["bf16", "fp16", "fp32"] | None = None,
    *,
    base: str | Path | None = None,
    vision_weights: str | Path | None = None,
    language_weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
    limits: Limits | None = None,
    features: float = FEATURES,
    quantize: Literal["int8", "int4", "auto"] | None = None,
) -> ChatModel:
    """Open a bundle to talk to, or a released VisualGLM-6B or BLIP-2, see `checkpoint.convert.released`.

    adapters: folders, FOLDER:WEIGHT, or pairs of folder and weight. device: None takes a GPU if there is one.
    dtype: of the language model, if not the bundle's. base, vision_weights, language_weights: where these are now, if
    they have moved. tokenizer: of a released model that has none beside it.
    limits: bounds of what is decoded at once. features: MiB of image tokens that are kept.
    quantize: the language model's blocks in eight or four bits; auto: the most precise of the bundle's dtype, int8 and
    int4 that fits into the device's free memory.
    UserError for a folder that is neither, weights that do not fit it or the device, and a bundle without a language
    model.
    """
    folder = as_bundle(Path(bundle), *map(_path, (tokenizer, vision_weights, language_weights)))
    if read_document(folder)["stage"] == "align":
        raise UserError(
            f"{folder} is of stage align and has no language model to talk to; give the bundle of a later stage."
        )
    place = best_device() if device is None else named_device(device)
    added = [parse_scaled(each) if isinstance(each, str) else each if isinstance(each, tuple) else (Path(each), 1.0)
             for each in adapters]  # fmt: skip
    if quantize not in (None, "auto", "int8", "int4"):
        raise UserError(f"quantize is int8, int4 or auto, not {quantize!r}.")
    limits = limits or Limits()
    fit = Fit(str(folder), place, min(ENDLESS, limits.prompt + limits.new))
    try:
        opened = open_bundle(
            folder,
            place,
            base=_path(base),
            vision_weights=None if vision_weights is None else str(vision_weights),
            language_weights=None if language_weights is None else str(language_weights),
            adapters=added,
            dtype=dtype,
            quantize=fit if quantize == "auto" else quantize,
        )
    except torch.OutOfMemoryError as error:
        reason = f"{folder} does not fit on {place}: {error}"
        raise UserError(f"{reason} Give quantize=auto, free memory there, or take another device.") from error
    return ChatModel(opened, place, limits, features, fit.reason)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _name(pixels: Tensor) -> int:
    return content_id(pixels.numpy().tobytes())
