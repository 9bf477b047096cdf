"""The application: both contracts, /health, /ready and /metrics, and errors in the shape of each contract."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from vglm_train.access import Access
from vglm_train.errors import UserError
from vglm_train.serve import openai_routes, visualglm
from vglm_train.serve.answering import Serving
from vglm_train.serve.errors import VISUALGLM, ClientGone, HttpError, error_body, error_of
from vglm_train.serve.middleware import GONE, BodyLimit, Guard, Watch, status_error
from vglm_train.serve.openai_schema import NEUTRAL, UNSUPPORTED

ROUTES = (VISUALGLM, openai_routes.CHAT_PATH, "/v1/models", "/v1/models/{name}", "/health", "/ready", "/metrics",
          "/openapi.json")  # fmt: skip


def build_app(serving: Serving, access: Access) -> ASGIApp:
    """For any ASGI server."""
    app = FastAPI(title="vglm serve", docs_url=None, redoc_url=None, redirect_slashes=False)  # its pages load scripts
    app.state.serving = serving
    app.include_router(openai_routes.router)
    app.include_router(visualglm.router)
    app.add_api_route("/health", _health, methods=["GET"], responses={200: {}})
    app.add_api_route("/ready", _ready, methods=["GET"], responses={503: {}})
    app.add_api_route("/metrics", _metrics, methods=["GET"], response_class=PlainTextResponse)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _status)
    app.add_exception_handler(ClientGone, _gone)
    for kind in (HttpError, UserError, Exception):
        app.add_exception_handler(kind, _told)
    return Watch(Guard(BodyLimit(app, serving.limits), access), serving, ROUTES)


async def _health() -> dict[str, str]:
    """The server is alive."""
    return {"status": "alive"}


async def _ready(request: Request) -> Response:
    """Whether questions are answered: 503 until the model is loaded, and while the server is being stopped."""
    serving: Serving = request.app.state.serving
    words = "ready" if serving.ready else "shutting down" if serving.closing else "loading"
    return JSONResponse({"status": words}, 200 if serving.ready else 503)


async def _metrics(request: Request) -> PlainTextResponse:
    """Numbers for Prometheus."""
    return PlainTextResponse(request.app.state.serving.metrics.page(), media_type="text/plain; version=0.0.4")


async def _told(request: Request, error: Exception) -> JSONResponse:
    told = error_of(error)
    request.scope["vglm"].cause = told.code
    return JSONResponse(error_body(request.url.path, told), told.status, told.headers)


async def _gone(request: Request, _: Exception) -> Response:
    request.scope["vglm"].cause = "client_gone"
    return Response(status_code=GONE)


async def _status(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # a body that cannot be parsed
        return await _told(request, HttpError(400, "the body is no JSON that can be read.", "invalid_json"))
    response = await _told(request, status_error(error.status_code))
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await _told(request, _validation_error(error.errors()))


def _validation_error(found: Sequence[Any]) -> HttpError:
    """The first thing that is wrong with a body, by the name of its field; never with its contents."""
    # of the alternatives, the one that came furthest
    worst = max(found, key=lambda each: (len(each["loc"]), not each["type"].endswith("_type")))
    if worst["type"] == "json_invalid":
        return HttpError(400, f"the body is no JSON: {worst['ctx']['error']}.", "invalid_json")
    name = _field(worst["loc"][1:])
    if worst["type"] != "extra_forbidden":
        reason = worst["msg"][:300].lower()
        return HttpError(400, f"{name or 'the body'}: {reason}.", "invalid_value", name or None)
    reason = "is not known here; leave it out"
    if name in UNSUPPORTED:
        only = NEUTRAL.get(name)
        reason = f"is supported here as {json.dumps(only)} only" if only else "is not supported here; leave it out"
    return HttpError(400, f"{name} {reason}.", "unsupported_parameter", name)


def _field(location: Sequence[str | int]) -> str:
    """messages.0.content.1.image_url.url, without what pydantic says about the alternatives it tried."""
    kept = []
    for place, part in enumerate(location):
        tag = place > 0 and isinstance(location[place - 1], int) and place + 1 < len(location)
        if isinstance(part, int) or not (tag or "[" in part or part.endswith("str")):
            kept.append(str(part)[:80])
    return ".".join(kept)
