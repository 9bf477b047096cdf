"""One rank of test_few_items.py, with torchrun's environment variables: python few_items.py FOLDER.

Writes what each case gave: the scores, or the error that this rank raised.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import small_generators
import torch
from known_pictures import KnownModel, embedder, item
from made_questions import colour_questions, reports
from torch import Tensor

from vglm_train import distributed
from vglm_train.config.language import Decoding
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.retrieval.evaluator import RetrievalEvaluator
from vglm_train.evaluate.vqa.evaluator import build_evaluator
from vglm_train.files import write_json

Scores = dict[str, float]


class Failing(KnownModel):
    """Fails on one rank: before the ranks share what they see, or while they match."""

    def __init__(self, error: Exception | None, matching: bool) -> None:
        super().__init__()
        self.error, self.matching = error, matching

    def embed_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if self.error and not self.matching:
            raise self.error
        return super().embed_images(pixels)

    def match_logits(self, keys: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        if self.error and self.matching:
            raise self.error
        return super().match_logits(keys, ids, mask)


def cases(folder: Path, ranks: Ranks) -> dict[str, Callable[[], Scores]]:
    """Evaluations of few items, of none, of different ones on each rank, and with one rank that fails."""
    generator = small_generators.small_generator(folder, "causal")
    last = ranks.rank == ranks.world - 1

    def retrieve(count: int, model: KnownModel | None = None) -> Scores:
        items = [item(number, en=number + 1) for number in range(count)]
        return RetrievalEvaluator(embedder(folder, model), items, ("en", "zh"), 4, 0, ranks)()[0]

    def fail(error: Exception, matching: bool = False) -> Scores:
        return retrieve(5, Failing(error if last else None, matching))

    def caption(count: int) -> Scores:
        return small_generators.caption_evaluator(generator, items=small_generators.items()[:count], ranks=ranks)()[0]

    def ask(task: str, count: int) -> Scores:
        items = (colour_questions() if task == "vqa" else reports())[:count]
        return build_evaluator(task, generator, items, Decoding(max_new=3), 1, ranks)()[0]

    def generate_badly() -> Scores:
        if last:
            generator.captions = None  # type: ignore[assignment]
        return caption(4)

    return {
        "retrieval of 2": lambda: retrieve(2),
        "captions of 2": lambda: caption(2),
        "captions of 1": lambda: caption(1),
        "questions of 2": lambda: ask("vqa", 2),
        "reports of 2": lambda: ask("report", 2),
        "retrieval of 0": lambda: retrieve(0),
        "captions of 0": lambda: caption(0),
        "questions of 0": lambda: ask("vqa", 0),
        "different items": lambda: retrieve(5 - last),
        "different questions": lambda: ask("vqa", 5 - last),
        "out of memory": lambda: fail(torch.OutOfMemoryError("no memory left\non this card")),
        "out of memory while matching": lambda: fail(torch.OutOfMemoryError("no memory left"), matching=True),
        "a mistake": lambda: fail(UserError("the shard is gone: bring it back.")),
        "generation fails": generate_badly,  # the last: its generator is broken
    }


def run(folder: Path, ranks: Ranks) -> dict[str, dict]:
    found = {}
    for name, case in cases(folder, ranks).items():
        start = time.monotonic()
        try:
            result: dict = {"scores": case()}
        except Exception as error:
            result = {"error": type(error).__name__, "text": str(error)}
        found[name] = {**result, "seconds": time.monotonic() - start}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["DS_ACCELERATOR"] = "cpu"
    group = distributed.start("gloo")
    own = Path(sys.argv[1]) / str(group.rank)
    own.mkdir()
    torch.manual_seed(0)
    write_json(own / "found.json", run(own, group))
    distributed.stop()
