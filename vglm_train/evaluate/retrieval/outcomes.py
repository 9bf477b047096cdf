"""What came of each query of a retrieval: enough to compare two models query by query."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vglm_train.config.metric_names import DIRECTIONS, ITM_ACCURACY, RERANK
from vglm_train.data.eval_captions import EvalItem


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Of one language: n images, m texts."""

    images: Sequence[int]  # [n] indices of the items
    owners: Sequence[int]  # [m] position in `images` of each text's image
    texts: Sequence[str]  # [m]
    ranks: Mapping[str, Mapping[str, Sequence[int]]]  # variant -> direction -> rank of each query, as `scores.ranks`
    matches: Mapping[int, tuple[int, int]]  # position -> right answers of ITM, of two, with its image and a neighbour's

    def rows(self, language: str, items: Sequence[EvalItem]) -> Iterator[dict[str, Any]]:
        """A JSON object for each query. `text` is None where an image looks for texts."""
        by_image: list[tuple[int, str | None]] = [(n, None) for n in range(len(self.images))]
        by_text: list[tuple[int, str | None]] = list(zip(self.owners, self.texts))
        for direction, own in zip(DIRECTIONS, (by_image, by_text)):
            for number, (position, text) in enumerate(own):
                item = items[self.images[position]]
                row: dict[str, Any] = {
                    "key": item.key, "image_id": item.image_id, "language": language, "direction": direction,
                    "text": text, "rank": self.ranks[""][direction][number],
                }  # fmt: skip
                if RERANK in self.ranks:
                    row[f"{RERANK}rank"] = self.ranks[RERANK][direction][number]
                if text is None:
                    row[ITM_ACCURACY] = self.matches[position][0] / 2
                yield row
