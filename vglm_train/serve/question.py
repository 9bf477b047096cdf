"""A request's texts and pictures, against the limits, and the question that the model is asked."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from vglm_train.chat.history import ChatTurn, History
from vglm_train.chat.images import Picture
from vglm_train.chat.model import Asked, ChatModel
from vglm_train.chat.sampling import Sampling
from vglm_train.config.language import CHAT
from vglm_train.config.validation import FieldError
from vglm_train.serve.errors import HttpError
from vglm_train.serve.limits import ServeLimits
from vglm_train.serve.openai_schema import (
    AssistantMessage,
    ChatRequest,
    ImagePart,
    SystemMessage,
    TextPart,
    UserMessage,
)
from vglm_train.serve.pictures import Read, Source

HALF = re.compile("[\ud800-\udfff]")  # JSON may hold one alone


@dataclass(slots=True)
class Exchange:
    """What a person said and showed in one turn, and what was answered."""

    texts: list[str] = field(default_factory=list)
    pictures: list[Source] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    @property
    def question(self) -> str:
        return "\n".join(self.texts)


def check_sizes(limits: ServeLimits, texts: Collection[str], pictures: int, messages: int) -> None:
    """HttpError if a request brings more than it may."""
    for what, found, most in (
        ("messages", messages, limits.messages),
        ("pictures", pictures, limits.pictures),
        ("characters", sum(map(len, texts)), limits.characters),
    ):
        if found > most:
            raise HttpError(413, f"the conversation has {found} {what}, and may have {most}.", f"too_many_{what}")
    if any(HALF.search(text) for text in texts):
        raise HttpError(400, "a text holds half of a surrogate pair, which is no character.", "invalid_value")


def sources_of(body: ChatRequest) -> list[Source]:
    """All pictures of an OpenAI request."""
    messages = [each for each in enumerate(body.messages) if isinstance(each[1], UserMessage)]
    return [source for number, each in messages for source in _pictures(each.content, f"messages[{number}]")]


def ask_chat(model: ChatModel, read: Read, body: ChatRequest, sampling: Sampling, limits: ServeLimits) -> Asked:
    """The question of an OpenAI request, as `ChatModel.ask` takes it. HttpError, UserError."""
    exchanges, system = _exchanges(body)
    said = [text for each in exchanges for text in (*each.texts, *each.answers)]
    check_sizes(limits, (*said, *system), sum(len(each.pictures) for each in exchanges), len(body.messages))
    language = sampling.get("language") or model.bundle.config.data.languages[0]
    default = getattr(model.bundle.config.prompt.questions, language)  # where pictures come without words
    turns = [
        ChatTurn(each.question or default, "\n".join(each.answers), tuple(map(read, each.pictures)))
        for each in exchanges
    ]
    last = turns.pop()
    return ask(model, last.images, "\n".join([*system, last.question]), turns, sampling)


def ask(model: ChatModel, pictures: Sequence[Picture], question: str, history: History, sampling: Sampling) -> Asked:
    """`ChatModel.ask`, no longer than the server answers. HttpError for sampling out of range."""
    most = model.scheduler.limits.new
    if sampling.get("max_new", 1) > most:
        raise HttpError(400, f"an answer may have {most} tokens here.", "too_long", "max_tokens")
    sampling = {"max_new": min(CHAT.max_new, most), **sampling}
    try:
        return model.ask(list(pictures), question, history, **sampling)
    except FieldError as error:
        raise HttpError(400, str(error), "invalid_value", error.fields[0]) from error


def _exchanges(body: ChatRequest) -> tuple[list[Exchange], list[str]]:
    """Turns, the last of which has no answer yet, and the texts of system messages. HttpError."""
    exchanges: list[Exchange] = []
    system: list[str] = []
    for number, message in enumerate(body.messages):
        match message:
            case SystemMessage():
                system += _texts(message.content)
            case UserMessage():
                if not exchanges or exchanges[-1].answers:
                    exchanges.append(Exchange())
                exchanges[-1].texts += _texts(message.content)
                exchanges[-1].pictures += _pictures(message.content, f"messages[{number}]")
            case AssistantMessage():
                if not exchanges:
                    raise HttpError(400, "an assistant's message must follow a user's.", "order", f"messages[{number}]")
                exchanges[-1].answers.append("".join(_texts(message.content)))
    if not exchanges or exchanges[-1].answers:
        raise HttpError(400, "the last message must be a user's.", "order", "messages")
    return exchanges, system


def _texts(content: str | Sequence[TextPart | ImagePart]) -> list[str]:
    if isinstance(content, str):
        return [content] if content else []
    return [part.text for part in content if isinstance(part, TextPart)]


def _pictures(content: str | Sequence[TextPart | ImagePart], where: str) -> list[Source]:
    if isinstance(content, str):
        return []
    return [
        Source(part.image_url.url, f"{where}.content[{place}].image_url.url")
        for place, part in enumerate(content)
        if isinstance(part, ImagePart)
    ]
