"""`--task retrieval` on the command line: its options, its report and what it prints."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.data import Source
from vglm_train.config.metric_names import ITM_ACCURACY, MEANING, RECALLS, RERANK, SHUFFLED_IMAGES, language_metric
from vglm_train.config.run import RerankScore
from vglm_train.data.eval_captions import EvalItem, EvalSet
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.result import Result
from vglm_train.evaluate.retrieval.evaluator import Embedder, RetrievalEvaluator, nothing_to_retrieve
from vglm_train.evaluate.retrieval.scores import captioned, chance
from vglm_train.evaluate.retrieval.verdict import assess_reranking
from vglm_train.progress import Progress

STAGES = ("align",)
VARIANTS = (("", "ITC"), (RERANK, "ITC, then ITM"), (SHUFFLED_IMAGES, "images shuffled"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this task has."""
    parser.add_argument(
        "--rerank", type=int, default=16, help="candidates a query that ITM scores again (default 16; 0: none)"
    )
    parser.add_argument(
        "--rerank-score", choices=get_args(RerankScore), default="match",
        help="added to their similarity: ITM's logit of match, as LAVIS does, or its log odds (default match)",
    )  # fmt: skip


def run(bundle: Bundle, args: argparse.Namespace, device: torch.device) -> Result:
    """Evaluate `bundle` on `args.data`. UserError if no language has two usable pictures."""
    config = bundle.config
    source = Source(name="evaluation", shards=args.data)
    languages, image = config.data.languages, config.data.image
    size = config.model.vision.image_size
    data = EvalSet([source], size, languages, args.images, decoder=image.decoder, fit=image)
    items = list(Progress(len(data), "image", "read").over(data.items(args.workers)))
    if not any(captioned(items, language) for language in languages):
        raise UserError(f"{args.data}: {nothing_to_retrieve(items, languages)}.")
    autocast = device.type == "cuda" and config.engine.precision == "bf16"
    embedder = Embedder(bundle.model, bundle.text, device, autocast, progress=True)
    ranks = Ranks(device=device)
    result = RetrievalEvaluator(embedder, items, languages, args.rerank, 0, ranks, args.rerank_score).measure()
    scores = result.scores
    by_chance = {f"{lang}_{name}": value for lang in languages for name, value in chance(items, lang).items()}
    report: dict[str, Any] = {
        "task": "retrieval",
        "meaning": MEANING,
        "bundle": str(args.bundle),
        "data": str(args.data),
        "images": len(items),
        "damaged": dict(data.damaged),
        "rerank": args.rerank,
        "rerank_score": args.rerank_score,
        "scores": scores,
        "chance": by_chance,
        "queries": [row for lang, outcomes in result.outcomes.items() for row in outcomes.rows(lang, items)],
    }
    verdict = [line for lang, outcomes in result.outcomes.items() for line in assess_reranking(lang, outcomes, scores)]
    report["verdict"] = [line.text for line in verdict]
    lines = [line for lang in languages for line in _lines(lang, items, scores, by_chance)]
    return Result(report, [*lines, *(f"{'+' if line.kind == 'ok' else '!'} {line.text}" for line in verdict)])


def _lines(
    language: str, items: Sequence[EvalItem], scores: dict[str, float], by_chance: dict[str, float]
) -> Iterator[str]:
    """A printed table of one language: a row for each variant, a column for each recall."""
    own = captioned(items, language)
    if not own:
        yield f"{language}: captions of fewer than two pictures, nothing to choose from"
        return
    texts = sum(len(items[index].captions[language]) for index in own)
    yield f"{language}: {len(own)} images, {texts} captions, per cent"
    yield " " * 18 + "".join(f"{name:>9}" for name in RECALLS)
    for variant, title in VARIANTS:
        names = [language_metric(language, variant + name) for name in RECALLS]
        if names[0] in scores:
            yield f"  {title:16}" + "".join(f"{scores[name]:9.1f}" for name in names)
    yield f"  {'chance':16}" + "".join(f"{by_chance[f'{language}_{name}']:9.1f}" for name in RECALLS)
    right, shuffled = (scores[language_metric(language, v + ITM_ACCURACY)] for v in ("", SHUFFLED_IMAGES))
    yield f"  ITM accuracy {right:.1f}, images shuffled {shuffled:.1f}, chance 50.0"
