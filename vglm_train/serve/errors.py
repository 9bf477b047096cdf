"""What goes wrong, in the shape of each contract: OpenAI's error objects, and VisualGLM's answer without an answer."""

import datetime
import math
from typing import Any

from vglm_train.chat.intake import TooLarge
from vglm_train.chat.request import Busy, Closed
from vglm_train.errors import UserError

VISUALGLM = "/"  # the path of VisualGLM's contract
TWO_LENGTHS = "two_lengths"
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class HttpError(Exception):
    """A request that gets no answer."""

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, retry_after: float | None = None
    ) -> None:
        """code: the cause in a word, which the metrics count too. retry_after: seconds."""
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Those that belong to the status."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.code == TWO_LENGTHS:
            headers["Connection"] = "close"  # where its body ends nobody knows
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return headers


class ClientGone(Exception):  # noqa: N818  (nobody is there to be told)
    """The client left before its answer."""


def error_of(error: Exception) -> HttpError:
    """What reading or answering a question raised, as what the client is told."""
    match error:
        case HttpError():
            return error
        case Busy():
            return HttpError(429, str(error), "busy", retry_after=error.retry_after)
        case Closed():
            return HttpError(503, str(error), "shutting_down", retry_after=5)
        case TooLarge():
            return HttpError(413, str(error), "too_large")
        case UserError():
            return HttpError(422, str(error), "unusable")
    return HttpError(500, "the server failed at this request; its log says where.", "failed")


def error_body(path: str, error: HttpError) -> dict[str, Any]:
    """The JSON of an error for the contract of this path."""
    message = error.message.encode("utf-8", "replace").decode()  # a field's name may hold half a character
    if path == VISUALGLM:
        empty = dict.fromkeys(("result", "response", "history"))
        return {**empty, "status": error.status, "time": now(), "error": message}
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    param = None if error.param is None else error.param.encode("utf-8", "replace").decode()
    return {"error": {"message": message, "type": kind, "param": param, "code": error.code}}


def now() -> str:
    """The time as VisualGLM's server writes it, in the server's time zone."""
    return datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S")
