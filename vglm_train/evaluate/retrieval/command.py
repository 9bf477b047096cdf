"""What `--task retrieval` asks for, measures and prints."""

import argparse
from collections.abc import Iterator, Sequence

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.data import Source
from vglm_train.data.eval_captions import EvalItem, EvalSet
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.result import Result
from vglm_train.evaluate.retrieval.evaluator import RECALLS, Embedder, Retrieval, chance

STAGES = ("align",)
KINDS = (("", "ITC"), ("rerank_", "ITC, then ITM"), ("shuffled_", "images shuffled"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of this task alone."""
    parser.add_argument(
        "--rerank", type=int, default=16, help="candidates a query that ITM scores again (default 16; 0: none)"
    )


def run(bundle: Bundle, given: argparse.Namespace, device: torch.device) -> Result:
    """Everything with what it was measured on, and a table for each language."""
    config = bundle.config
    source = Source(name="evaluation", shards=given.data)
    data = EvalSet([source], config.model.vision.image_size, config.data.languages, given.images)
    items = list(data.items(given.workers))
    if len(items) < 2:
        raise UserError(f"{given.data}: {len(items)} usable pictures; retrieval needs at least two to choose from.")
    autocast = device.type == "cuda" and config.engine.precision == "bf16"
    embedder = Embedder(bundle.model, bundle.text, device, autocast)
    scores, _ = Retrieval(embedder, items, config.data.languages, given.rerank, 0, Ranks(device=device))()
    even = {f"{lang}_{name}": v for lang in config.data.languages for name, v in chance(items, lang).items()}
    report = {
        "bundle": str(given.bundle),
        "data": str(given.data),
        "images": len(items),
        "damaged": dict(data.damaged),
        "rerank": given.rerank,
        "scores": scores,
        "chance": even,
    }
    lines = [line for lang in config.data.languages for line in _lines(lang, items, scores, even)]
    return Result(report, lines)


def _lines(language: str, items: Sequence[EvalItem], scores: dict[str, float], even: dict[str, float]) -> Iterator[str]:
    texts = sum(len(item.captions.get(language, ())) for item in items)
    if not texts:
        yield f"{language}: no captions"
        return
    names = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in RECALLS]
    yield f"{language}: {len(items)} images, {texts} captions, per cent"
    yield " " * 18 + "".join(f"{name:>9}" for name in names)
    for kind, title in KINDS:
        if f"eval/{language}_{kind}i2t_r1" in scores:
            yield f"  {title:16}" + "".join(f"{scores[f'eval/{language}_{kind}{name}']:9.1f}" for name in names)
    yield f"  {'chance':16}" + "".join(f"{even[f'{language}_{name}']:9.1f}" for name in names)
    accuracy = scores[f"eval/{language}_itm_accuracy"], scores[f"eval/{language}_shuffled_itm_accuracy"]
    yield f"  ITM accuracy {accuracy[0]:.1f}, images shuffled {accuracy[1]:.1f}, chance 50.0"
