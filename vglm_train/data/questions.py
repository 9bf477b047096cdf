"""Questions about held-out pictures, each with what is true."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from vglm_train.config.data import Source
from vglm_train.data.record import content_id
from vglm_train.image import eval_pixels, open_image
from vglm_train.prompt.dialogue import Dialogue


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about one or several pictures."""

    key: str
    image_id: int
    group: str | None
    pixels: Tensor  # [k,3,h,w] uint8, eval transform
    dialogue: Dialogue  # without its answer
    kind: Literal["closed", "open", "report"]
    answers: tuple[str, ...]  # several where several people answered
    type: str | None = None  # as the row has it: scores are told by it too


class QuestionSet:
    """Questions of tables, VisualGLM's list of {img, prompt, label}."""

    def __init__(
        self, sources: Sequence[Source], size: int, languages: Sequence[str], limit: int | None = None
    ) -> None:
        self.sources, self.size, self.languages, self.limit = sources, size, languages, limit
        self.damaged: Counter[str] = Counter()

    def items(self, workers: int = 0, part: int = 0, parts: int = 1) -> Iterator[Asked]:
        for source in self.sources:
            table = Path(str(source.table))
            folder = Path(source.images) if source.images else table.parent
            rows = json.loads(table.read_text("utf-8"))
            for number, row in list(enumerate(rows))[: self.limit][part::parts]:
                data = (folder / row["img"]).read_bytes()
                kind: Literal["open", "report"] = "report" if row.get("type") == "report" else "open"
                yield Asked(
                    f"{row['img']}:{number}",
                    content_id(data),
                    None,
                    eval_pixels(open_image(data), self.size)[None],
                    Dialogue(row["prompt"], None),
                    kind,
                    (row["label"],),
                    row.get("type"),
                )
