"""RUN/tensorboard: rows and pictures for TensorBoard, through torch's writer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vglm_train.errors import needs_extra
from vglm_train.log.jsonl import METRICS, Cell, Row, read_rows, read_tables
from vglm_train.log.sink import Sink

FOLDER = "tensorboard"
PICTURES = 8  # of a table
SIDE = 256  # pixels of a picture's longer side


class TensorBoardSink(Sink):
    """Scalars under their names, and of each table its first pictures with their texts.

    A kill loses what the writer still holds, two minutes at most. So a run that continues writes all rows since the
    beginning again, in a new file, and removes the old ones: each step is there once.
    """

    def __init__(self, folder: Path) -> None:
        """In the run `folder`; construct the JsonlSink, which cuts back, first. UserError without tensorboard."""
        with needs_extra("tensorboard", "log.tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        old = sorted((folder / FOLDER).glob("events.out.tfevents.*"))
        self._writer = SummaryWriter(str(folder / FOLDER))
        for step, row in read_rows(folder / METRICS):
            self.write(step, row)
        for table in read_tables(folder):
            self.image_table(table.step, table.name, *table.read())
        self._writer.flush()
        for path in old:
            path.unlink()

    def write(self, step: int, row: Row) -> None:
        """A point of each metric."""
        for name, value in row.items():
            self._writer.add_scalar(name, value, step)

    def image_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """The first pictures, each with the texts beside it."""
        for number, row in enumerate(rows[:PICTURES]):
            texts = [f"{column}: {cell}" for column, cell in zip(columns, row) if not isinstance(cell, Image.Image)]
            for cell in row:
                if isinstance(cell, Image.Image):
                    small = cell.convert("RGB")
                    small.thumbnail((SIDE, SIDE))
                    self._writer.add_image(f"{name}/{number}", np.asarray(small), step, dataformats="HWC")
            self._writer.add_text(f"{name}/{number}", "\n\n".join(texts), step)

    def checkpointed(self, step: int) -> None:
        """Hand what is held to the file."""
        self._writer.flush()

    def close(self) -> None:
        """No call follows."""
        self._writer.close()
