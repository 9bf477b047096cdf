"""What every destination of rows is asked to do."""

from collections.abc import Sequence
from pathlib import Path

from vglm_train.log.jsonl import Cell, Row


class Sink:
    """A destination for rows; this one takes everything and does nothing. Steps never decrease from call to call."""

    def write(self, step: int, row: Row) -> None:
        """Take a row of names and values at `step`; may be called again for the same step with other names."""

    def image_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Take a table of pictures, texts and numbers."""

    def checkpointed(self, step: int) -> None:
        """Make everything up to `step` durable; called just before the checkpoint of `step` becomes visible."""

    def bundle(self, folder: Path) -> None:
        """Take note of the run's result; called once it is whole, before `close`."""

    def close(self) -> None:
        """No call follows."""
