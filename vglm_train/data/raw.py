"""A sample as it was stored, or why it cannot be had."""

from typing import NamedTuple


class DamagedSample(Exception):  # noqa: N818  (an event to be counted, not a fault)
    """A sample that cannot be had. `cause` is one of vglm_train.batch.CAUSES."""

    def __init__(self, cause: str, shard: str, key: str, reason: str) -> None:
        super().__init__(cause, shard, key, reason)  # as they are, for pickle
        self.cause, self.shard, self.key, self.reason = cause, shard, key, reason

    def __str__(self) -> str:
        return f"{self.shard}, key {self.key} ({self.cause}): {self.reason}"


class RawSample(NamedTuple):
    key: str
    image: bytes
    extension: str
    json: bytes
    more: tuple[bytes, ...] = ()  # further pictures of a dialogue, in order
