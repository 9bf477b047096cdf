"""What one request may bring, and how long it may take to bring it."""

from dataclasses import dataclass

from vglm_train.config.validation import positive


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeLimits:
    """Bounds that are checked before a picture is decoded or a text becomes ids; `chat.request.Limits` has the rest."""

    body: int = 32 * 2**20  # bytes of a request's body
    bodies: int = 512 * 2**20  # bytes of the bodies of all requests that are not over
    body_seconds: float = 30.0  # until a body has come whole
    send_seconds: float = 30.0  # that a client may leave a piece of its answer unread
    head_seconds: float = 10.0  # until a request's head has come whole
    pictures: int = 16  # of a request, its history included
    characters: int = 32768  # of a request's texts, its history included
    messages: int = 128  # of a conversation; a turn is two
    connections: int = 512
    grace: float = 30.0  # seconds that running answers have when the server is stopped

    def __post_init__(self) -> None:
        positive(self, *self.__slots__)
