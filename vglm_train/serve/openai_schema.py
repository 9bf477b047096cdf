"""OpenAI's chat completions as this server understands them.

A field that it does not understand is refused by its name, unless it is given its neutral value or cannot change an
answer.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

NEUTRAL: dict[str, Any] = {
    "n": 1, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "tools": [],
    "response_format": {"type": "text"}, "modalities": ["text"], "functions": [],
}  # fmt: skip
"""Fields that may be given as long as they ask for nothing, and what asks for nothing. null always does."""
UNSUPPORTED = (*NEUTRAL, "top_logprobs", "tool_choice", "function_call", "parallel_tool_calls", "audio", "prediction",
               "reasoning_effort", "verbosity", "web_search_options")  # fmt: skip


class Strict(BaseModel):
    """Numbers are no texts, and there are no other fields."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ImageUrl(Strict):
    url: str
    detail: Literal["auto", "low", "high"] | None = None  # every picture is read at the model's own size


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(Strict):
    type: Literal["text"]
    text: str


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: str | None = None


class UserMessage(Strict):
    role: Literal["user"]
    content: str | list[Part]
    name: str | None = None


class AssistantMessage(Strict):
    role: Literal["assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None  # clients send back what they got
    audio: None = None
    tool_calls: None = None
    function_call: None = None
    annotations: None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool | None = None  # nothing is added to pieces here, whatever it says


class ChatRequest(Strict):
    """A body of POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=10**6)] | None = None  # not OpenAI's; in its client: extra_body
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None  # the same
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # what follows says something to OpenAI, and nothing to a model
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if not _is_neutral(name, value)}


def _is_neutral(name: str, value: Any) -> bool:
    if name not in UNSUPPORTED:
        return False
    return value is None or (name in NEUTRAL and type(value) in _kinds(NEUTRAL[name]) and value == NEUTRAL[name])


def _kinds(value: Any) -> tuple[type, ...]:
    return (int, float) if type(value) is int else (type(value),)  # 1 is no true, and 0.0 is 0


class Usage(BaseModel):
    prompt_tokens: int  # those of pictures included
    completion_tokens: int
    total_tokens: int


class AssistantAnswer(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: Literal[0]
    message: AssistantAnswer
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """What a request without `stream` gets."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "vglm_train"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetails(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    error: ErrorDetails
