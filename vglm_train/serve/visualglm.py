"""VisualGLM-6B's contract: POST / with a text, a picture in base64 and the history (its api.py and api_hf.py).

Its README calls the answer `response` and its programs call it `result`; both are given.
"""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from vglm_train.chat.model import Asked, ChatModel
from vglm_train.chat.sampling import Sampling
from vglm_train.serve.answering import Serving
from vglm_train.serve.errors import VISUALGLM, now
from vglm_train.serve.limits import ServeLimits
from vglm_train.serve.openai_schema import Strict
from vglm_train.serve.pictures import Read, Source
from vglm_train.serve.question import ask, check_sizes

Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class VisualGLMRequest(Strict):
    """A body of POST /."""

    text: str
    image: str | None = None  # a picture file in base64
    history: list[Pair] | None = None  # question and answer, oldest first
    max_length: Annotated[int, Field(ge=1)] | None = None  # tokens of prompt and answer together
    min_length: Any = None  # had no effect there either
    num_beams: Annotated[int, Field(ge=1, le=1)] | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=10**6)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None  # not VisualGLM's


class VisualGLMAnswer(Strict):
    """What comes back."""

    result: str | None
    response: str | None
    history: list[Pair] | None  # with this question and its answer
    status: int
    time: str
    error: str | None = None  # why there is no answer


router = APIRouter(
    responses={status: {"model": VisualGLMAnswer} for status in (400, 401, 403, 408, 413, 422, 429, 500, 503)}
)


@router.post(VISUALGLM, response_model=VisualGLMAnswer, response_model_exclude_unset=True)
async def answer(body: VisualGLMRequest, request: Request, response: Response) -> dict[str, Any]:
    """Answer a question about a picture."""
    serving: Serving = request.app.state.serving
    sampling = serving.defaults | read_sampling(body)
    running = await serving.begin(request, partial(ask_visualglm, body=body, sampling=sampling, limits=serving.limits))
    text = (await running.whole(request)).text
    response.headers.update(running.headers)
    question = body.text if body.text.strip() else running.asked.question
    history = [*(body.history or []), [question, text]]
    return {"result": text, "response": text, "history": history, "status": 200, "time": now()}


def ask_visualglm(
    model: ChatModel, read: Read, body: VisualGLMRequest, sampling: Sampling, limits: ServeLimits
) -> Asked:
    """The question, as `ChatModel.ask` takes it. HttpError, UserError."""
    history = body.history or []
    said = [body.text, *(text for pair in history for text in pair)]
    check_sizes(limits, said, int(bool(body.image)), 2 * len(history) + 1)
    pictures = [read(Source(body.image, "image"))] if body.image else []
    asked = ask(model, pictures, body.text, history, sampling)
    return asked if body.max_length is None else asked.within(body.max_length)


def read_sampling(body: VisualGLMRequest) -> Sampling:
    """What a request says about how it is answered."""
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
    sampling: Any = {name: value for name in names if (value := getattr(body, name)) is not None}
    chosen: Sampling = sampling if body.do_sample is None else sampling | {"sample": body.do_sample}
    return chosen
