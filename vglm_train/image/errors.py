"""The error of a picture."""

import re

_DETAIL = re.compile(r": | \(|, ['\"]")  # behind it a reason says what is special about one file


class ImageError(Exception):
    """A picture that cannot be used. `cause` is "undecodable" or "bomb"."""

    def __init__(self, cause: str, reason: str = "") -> None:
        super().__init__(cause, reason)  # as they are, for pickle
        self.cause, self.reason = cause, reason

    @property
    def what(self) -> str:
        """What is wrong, without what is special about this file: those of which it is the same are mended alike."""
        return "of too many pixels" if self.cause == "bomb" else _DETAIL.split(self.reason)[0]

    def __str__(self) -> str:
        return f"{self.cause}: {self.reason}" if self.reason else self.cause
