"""The error of a picture."""


class ImageError(Exception):
    """A picture that cannot be used. `cause` is "undecodable" or "bomb"."""

    def __init__(self, cause: str, reason: str = "") -> None:
        super().__init__(cause, reason)  # as they are, for pickle
        self.cause, self.reason = cause, reason

    def __str__(self) -> str:
        return f"{self.cause}: {self.reason}" if self.reason else self.cause
