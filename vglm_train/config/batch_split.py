"""How a global batch is shared among ranks, and which of its rows ITC compares."""

from dataclasses import dataclass

from vglm_train.config.run import Config


@dataclass(frozen=True, slots=True)
class BatchSplit:
    """How the rows of a global batch are shared among ranks. Every rank has as many places in every forward.

    The `accumulation` forwards of a step take runs of rows that differ by one row at most. In each forward rank 0 has
    the first `micro` of them, rank 1 the next. Where the rows do not fill all places, the last ranks have empty ones.
    With groups of rows that ITC compares, all forwards of a group but its last are full. So every row is in the same
    micro-batch, with the same dropout, for any number of ranks.
    """

    batch: int  # rows of a global batch
    world: int
    micro: int  # places of one rank in one forward
    accumulation: int  # forwards of one rank in one step
    group: int | None = None  # rows that ITC compares, if more than run at once

    def rows(self, part: int, rank: int) -> range:
        """Rows of the global batch that `rank` has in forward `part` of a step; `micro` at most, or none.

        An empty range also starts where this rank's places do.
        """
        first = self._start(part) + rank * self.micro
        return range(first, max(first, min(first + self.micro, self._start(part + 1))))

    @property
    def together(self) -> int:
        """Rows that all ranks run at once; in some forwards of uneven shares fewer."""
        return min(self.group, self.world * self.micro) if self.group else -(-self.batch // self.accumulation)

    @property
    def empty(self) -> int:
        """Places of a step that no row takes. They are computed and count in no loss."""
        return self.world * self.micro * self.accumulation - self.batch

    @property
    def used(self) -> int:
        """Micro-batches of all ranks in a step that have a row."""
        parts = range(self.accumulation)
        return sum(-(-(self._start(part + 1) - self._start(part)) // self.micro) for part in parts)

    def _start(self, part: int) -> int:
        if self.group is None:
            return part * self.batch // self.accumulation
        group, nth = divmod(part, self.accumulation * self.group // self.batch)
        return group * self.group + min(self.group, nth * self.world * self.micro)


def split(config: Config, world: int) -> BatchSplit:
    """Share data.global_batch among `world` processes, engine.micro_batch rows of each at most at once.

    With data.mix batch those that run at once come from one turn of one source.
    """
    batch, micro, group = config.data.global_batch, config.engine.micro_batch, contrast(config)
    if group:
        places = micro or -(-group // world)
        return BatchSplit(batch, world, places, batch // group * -(-group // (world * places)), group)
    turn = config.data.mix_rows or batch
    accumulation = batch // turn * (-(-turn // (world * micro)) if micro else 1)
    return BatchSplit(batch, world, -(-batch // (accumulation * world)), accumulation)


def contrast(config: Config) -> int | None:
    """Rows of a group that ITC compares; None: those that run at once."""
    losses = config.objective
    return losses.itc.batch if config.run.stage == "align" and (losses.itc.weight or losses.itm.weight) else None


def candidates(config: Config, world: int) -> int:
    """Rows that ITC compares with each other."""
    return contrast(config) or split(config, world).together
