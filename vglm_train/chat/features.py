"""Image tokens that were computed before, such as those of an earlier turn.

q tokens of an image, e embedding width.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

MIB = 2**20


class FeatureCache:
    """Image tokens [q,e] by name, at most `mib` MiB of them; those unused for longest go first."""

    def __init__(self, mib: float) -> None:
        self.limit, self.bytes = int(mib * MIB), 0
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()  # the scheduler's thread computes, anybody may forget

    def get(self, names: Sequence[Hashable], compute: Callable[[list[int]], Tensor]) -> list[Tensor]:
        """The tokens of each name. `compute` makes those that are missing, [n,q,e] of the given places in `names`."""
        with self._lock:
            found = {name: self._kept[name] for name in names if name in self._kept}
        missing = {name: place for place, name in enumerate(names) if name not in found}  # a name once
        if missing:
            found |= zip(missing, (tokens.clone() for tokens in compute(list(missing.values()))))
        with self._lock:
            for name in names:
                self._keep(name, found[name])
        return [found[name] for name in names]

    def forget(self, names: Sequence[Hashable]) -> None:
        """Free what is kept of these."""
        with self._lock:
            for name in set(names) & self._kept.keys():
                self.bytes -= _size(self._kept.pop(name))

    def __len__(self) -> int:
        return len(self._kept)

    def _keep(self, name: Hashable, tokens: Tensor) -> None:
        if name not in self._kept:
            self._kept[name] = tokens
            self.bytes += _size(tokens)
        self._kept.move_to_end(name)
        while self.bytes > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= _size(oldest)


def _size(tokens: Tensor) -> int:
    return tokens.numel() * torch.finfo(tokens.dtype).bits // 8
