"""OpenAI's contract: POST /v1/chat/completions and GET /v1/models, as its client library talks to them."""

import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from vglm_train.chat.request import Answer, Reason
from vglm_train.chat.sampling import Sampling
from vglm_train.serve.answering import Running, Serving
from vglm_train.serve.errors import HttpError, error_body, error_of
from vglm_train.serve.openai_schema import ChatRequest, Completion, ErrorBody, ModelCard, ModelList
from vglm_train.serve.question import ask_chat, sources_of

logger = logging.getLogger("vglm_train.serve")
CHAT_PATH = "/v1/chat/completions"
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503)
}
FINISH: dict[Reason, str] = {"end": "stop", "stop": "stop", "length": "length", "deadline": "length"}
router = APIRouter(responses=ERRORS)


@router.get("/v1/models", response_model=ModelList)
async def models(request: Request) -> ModelList:
    """The one model."""
    return ModelList(data=[_card(request.app.state.serving)])


@router.get("/v1/models/{name:path}", response_model=ModelCard)
async def model(name: str, request: Request) -> ModelCard:
    """The model, if that is its name."""
    serving: Serving = request.app.state.serving
    _check_name(serving, name)
    return _card(serving)


@router.post(CHAT_PATH, response_model=Completion)
async def complete(body: ChatRequest, request: Request) -> Any:
    """Answer a conversation, at once or as server-sent events."""
    serving: Serving = request.app.state.serving
    _check_name(serving, body.model)
    if body.stream_options is not None and not body.stream:
        raise HttpError(400, "stream_options belongs to stream: true.", "invalid_value", "stream_options")
    sampling = serving.defaults | read_sampling(body)
    ask = partial(ask_chat, body=body, sampling=sampling, limits=serving.limits)
    running = await serving.begin(request, ask, sources_of(body))
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": serving.name}
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return AnswerEvents(running, head, usage, serving.limits.send_seconds)
    answer = await running.whole(request)
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": FINISH[answer.reason]}
    return _json({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(answer)}, running)


class AnswerEvents(EventSourceResponse):
    """An answer as server-sent events. However the response ends, the model does not go on without a reader."""

    def __init__(self, running: Running, head: dict[str, Any], usage: bool, send_seconds: float) -> None:
        """head: what all chunks have. usage: whether the last but one tells the tokens."""
        super().__init__(self._events(head, usage), headers=running.headers, sep="\n", send_timeout=send_seconds)
        self.running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except TimeoutError:  # who does not read has left
            self.running.note.cause = "slow"
        finally:
            if self.running.answer is None and self.running.note.cause is None:
                self.running.note.cause = "client_gone"
            self.running.cancel()

    async def _events(self, head: dict[str, Any], usage: bool) -> AsyncGenerator[dict[str, str], None]:
        def chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, str]:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return event({"choices": [choice], **({"usage": None} if usage else {})})

        def event(fields: dict[str, Any]) -> dict[str, str]:
            return {"data": json.dumps({**head, "object": "chat.completion.chunk", **fields})}

        yield chunk({"role": "assistant", "content": ""})
        try:
            async with contextlib.aclosing(self.running.pieces()) as pieces:
                async for piece in pieces:
                    yield chunk({"content": piece})
        except Exception as error:  # the status was sent: the error comes as an event, which clients raise
            told = error_of(error)
            self.running.note.cause = told.code
            yield {"data": json.dumps(error_body(CHAT_PATH, told))}
            return
        answer = self.running.answer
        assert answer is not None
        yield chunk({}, FINISH[answer.reason])
        if usage:
            yield event({"choices": [], "usage": _usage(answer)})
        yield {"data": "[DONE]"}


def read_sampling(body: ChatRequest) -> Sampling:
    """What a request says about how it is answered. HttpError if it says it twice, and differently."""
    lengths = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(lengths) > 1:
        raise HttpError(400, "max_tokens and max_completion_tokens differ; give one.", "invalid_value", "max_tokens")
    given = {
        "max_new": next(iter(lengths), None), "temperature": body.temperature, "top_p": body.top_p,
        "top_k": body.top_k, "repetition_penalty": body.repetition_penalty, "seed": body.seed, "stop": body.stop,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}  # type: ignore[return-value]


def _check_name(serving: Serving, name: str) -> None:
    if name != serving.name:
        raise HttpError(404, f"there is no such model here; its name is {serving.name}.", "model_not_found", "model")


def _card(serving: Serving) -> ModelCard:
    return ModelCard(id=serving.name, created=serving.created)


def _usage(answer: Answer) -> dict[str, int]:
    total = answer.prompt_tokens + answer.new_tokens
    return {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.new_tokens, "total_tokens": total}


def _json(content: dict[str, Any], running: Running) -> Response:
    return Response(json.dumps(content), headers=running.headers, media_type="application/json")
