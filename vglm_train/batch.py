"""The contract between data and model: what a batch is."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

# Why a sample could not be used: damaged picture, decompression bomb, tar member cut short, no caption, bad JSON, shard
# that no server gave.
CAUSES = ("image", "bomb", "truncated", "caption", "record", "unreachable")
IGNORED = -100  # a label that is no target


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One rank's micro-batch: `b` rows and their `n` pictures in the order of the rows. n is b except for dialogues.

    A damaged sample keeps its row, with `valid` False, so the number of rows never changes. A rank whose share is
    smaller than others' has such rows at the end. They take part in no loss, neither as an anchor nor as a candidate.
    """

    pixels: Tensor  # [n,3,h,w] uint8, normalised on the device; float is taken as normalised already
    # From the turbo decoder a pixel's bytes mostly lie side by side in memory (channels_last): the device makes planes.
    valid: Tensor  # [b] bool
    features: Tensor | None = None  # [n,p,c] the frozen encoder's outputs, where they were stored; pixels is empty then
    first_row: int = 0  # position of row 0 in the stream (all epochs, all ranks): keys the noise of a step
    epoch: int = 0
    damaged: dict[str, int] = field(default_factory=dict)  # cause -> samples of this micro-batch
    sample_counts: dict[str, int] = field(default_factory=dict)  # by source and by language of the chosen caption
    keys: tuple[str, ...] = ()  # SOURCE/SHARD/KEY of each row, damaged ones too; empty unless log.samples is set

    def to(self, device: torch.device) -> Self:
        """The same batch with its tensors on `device`, copied asynchronously from pinned memory."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def keep_for(self, stream: torch.cuda.Stream) -> None:
        """Keep this batch's memory from reuse until `stream` has finished the work queued on it so far."""
        self._each(lambda tensor: tensor.record_stream(stream))

    def _each(self, change: Callable[[Tensor], Any]) -> Self:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(t) for name, t in tensors.items() if isinstance(t, Tensor)})


@dataclass(frozen=True, kw_only=True, slots=True)
class PairBatch(Batch):
    """Image-text pairs, for stage one."""

    text_ids: Tensor  # [b,t] int64: [CLS] (language token) words [SEP] padding
    text_mask: Tensor  # [b,t] bool, True on tokens
    image_ids: Tensor  # [b] int64, content hash: equal ids are positives, never negatives


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptBatch(Batch):
    """Pictures in prompts with answers, for a language model. Padded on the right.

    Decoder-only: labels have the shape of input_ids and hold the id at the same position (unshifted).
    Encoder-decoder: input_ids are the encoder's; labels are the whole answer and have a length of their own.
    """

    input_ids: Tensor  # [b,s] int64; image positions hold an id that is never looked up
    attention_mask: Tensor  # [b,s] bool, True on tokens and image positions
    visual_mask: Tensor  # [b,s] bool, True on image positions, q for each picture (a damaged row has one)
    labels: Tensor  # [b,t] int64, IGNORED where there is no target; at the end of an earlier answer, the end token
    targets: Tensor | None = None  # [m] int64: `target_places` of the labels, if they were looked for
    question_ids: Tensor | None = None  # [n,u] int64, for a Q-Former that reads text: each picture's question
    question_mask: Tensor | None = None  # [n,u] bool, True on tokens

    def target_places(self, apart: bool) -> Tensor:
        """Places [m] of the flattened labels that are targets: to look for them would mean to wait for a GPU."""
        if self.targets is not None and self.labels.is_cuda:
            return self.targets
        return target_places(self.labels, apart)


def target_places(labels: Tensor, apart: bool) -> Tensor:
    """Of labels [b,t] -> [m] int64, in their order.

    apart: whether they are an encoder-decoder's; else the first of a row has nothing before it that could predict it.
    """
    targets = labels != IGNORED
    if not apart:
        targets[:, 0] = False
    return targets.flatten().nonzero()[:, 0]
