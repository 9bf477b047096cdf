"""A dictionary that keeps only what was used last."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """At most `capacity` values, made at the first look-up; the one unused for longest goes first.

    Unlike functools.lru_cache it can be pickled, and calls `dropped` with each value that goes.
    """

    def __init__(self, capacity: int, make: Callable[[Key], Value], dropped: Callable[[Value], None] | None = None):
        self.capacity, self.make, self.dropped = capacity, make, dropped
        self.values: OrderedDict[Key, Value] = OrderedDict()

    def __getitem__(self, key: Key) -> Value:
        if key in self.values:
            self.values.move_to_end(key)
            return self.values[key]
        value = self.values[key] = self.make(key)
        if len(self.values) > self.capacity:
            _, old = self.values.popitem(last=False)
            if self.dropped is not None:
                self.dropped(old)
        return value

    def __len__(self) -> int:
        return len(self.values)
