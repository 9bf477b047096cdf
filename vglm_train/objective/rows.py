"""The rows of all ranks, in the order of the stream, so that nothing that is made of them depends on the ranks.

b rows of a micro-batch, t text tokens. A rank has the micro-batches m = 0, 1, ... of B rows in all; the ranks' rows of
one m follow each other in the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vglm_train.batch import PairBatch
from vglm_train.distributed import Ranks


@dataclass(frozen=True, slots=True)
class Rows:
    """What all ranks know of every row."""

    ids: Tensor  # [B,t] int64
    mask: Tensor  # [B,t] bool, as `attended`
    image_ids: Tensor  # [B] int64
    valid: Tensor  # [B] bool
    own: Tensor  # [number * b] int64: which of the B are of this rank, micro-batch after micro-batch
    first_row: int  # of row 0 in the stream

    @property
    def positions(self) -> Tensor:
        """In the stream [B] int64."""
        return self.first_row + torch.arange(len(self.valid), device=self.valid.device)


def gather_rows(batches: Sequence[PairBatch], ranks: Ranks) -> Rows:
    """Of micro-batches that follow each other. One collective."""
    parts = []
    for batch in batches:
        columns = (batch.text_ids, attended(batch), batch.image_ids[:, None], batch.valid[:, None])
        parts.append(torch.cat([column.long() for column in columns], 1))
    everyone = gather_in_order(torch.cat(parts), len(batches), ranks)  # [B,2t+2]
    (b, t), world = batches[0].text_ids.shape, ranks.world
    row = torch.arange(len(batches) * b, device=everyone.device)
    return Rows(
        ids=everyone[:, :t],
        mask=everyone[:, t:-2].bool(),
        image_ids=everyone[:, -2],
        valid=everyone[:, -1].bool(),
        own=(row // b * world + ranks.rank) * b + row % b,
        first_row=batches[0].first_row - ranks.rank * b,
    )


def gather_in_order(rows: Tensor, number: int, ranks: Ranks) -> Tensor:
    """A rank's rows of `number` micro-batches [number*b,...] -> all ranks' rows [B,...] in the stream's order."""
    everyone = ranks.gather(rows)
    return everyone.view(ranks.world, number, -1, *rows.shape[1:]).transpose(0, 1).reshape(everyone.shape)


def attended(batch: PairBatch) -> Tensor:
    """The text mask [b,t] with its first token always on: attention over no text, as in a damaged row, is NaN."""
    mask = batch.text_mask.clone()
    mask[:, 0] = True
    return mask
