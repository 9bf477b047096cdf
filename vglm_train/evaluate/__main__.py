"""`python -m vglm_train.evaluate BUNDLE --task retrieval --data SHARDS`: scores to stdout and a JSON file."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from vglm_train.checkpoint.bundle import Bundle, load_bundle
from vglm_train.checkpoint.resume import write_text_atomic
from vglm_train.config.data import Source
from vglm_train.data.evalset import EvalItem, EvalSet
from vglm_train.distributed import Ranks, use_gpu
from vglm_train.errors import UserError, explained
from vglm_train.evaluate.retrieval import RECALLS, Embedder, Retrieval, chance

KINDS = (("", "ITC"), ("rerank_", "ITC, then ITM"), ("shuffled_", "images shuffled"))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake to mend."""
    given = _parse(argv)
    try:
        with explained():
            device = torch.device("cuda" if use_gpu() else "cpu")
            bundle = load_bundle(Path(given.bundle), device, given.vision_weights)
            scores = _retrieval(bundle, given, device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    data = Path(given.data)
    name = data.parent.name if data.name == "manifest.json" else data.name
    out = Path(given.out) if given.out else Path(given.bundle).resolve().parent / f"retrieval-{name}.json"
    write_text_atomic(out, json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    print(f"{out}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vglm_train.evaluate", description="Score a bundle on held-out data."
    )
    parser.add_argument("bundle", help="a bundle folder, such as RUN/bundle")
    parser.add_argument("--task", choices=["retrieval"], default="retrieval")
    parser.add_argument("--data", required=True, help="folder of shards with manifest.json")
    parser.add_argument("--images", type=int, help="only the first so many (default: all)")
    parser.add_argument(
        "--rerank", type=int, default=16, help="candidates a query that ITM scores again (default 16; 0: none)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that decode pictures (default 2)")
    parser.add_argument("--vision-weights", help="the frozen encoder's weights, where they have moved")
    parser.add_argument("--out", help="JSON file to write (default: retrieval-DATA.json beside the bundle)")
    return parser.parse_args(argv)


def _retrieval(bundle: Bundle, given: argparse.Namespace, device: torch.device) -> dict:
    """Print a table for each language; return everything with what it was measured on."""
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
    for language in config.data.languages:
        _print(language, items, scores, even)
    return {
        "bundle": str(given.bundle),
        "data": str(given.data),
        "images": len(items),
        "damaged": dict(data.damaged),
        "rerank": given.rerank,
        "scores": scores,
        "chance": even,
    }


def _print(language: str, items: Sequence[EvalItem], scores: dict[str, float], even: dict[str, float]) -> None:
    texts = sum(len(item.captions.get(language, ())) for item in items)
    if not texts:
        print(f"{language}: no captions")
        return
    names = [f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in RECALLS]
    print(f"{language}: {len(items)} images, {texts} captions, per cent")
    print(" " * 18 + "".join(f"{name:>9}" for name in names))
    for kind, title in KINDS:
        if f"eval/{language}_{kind}i2t_r1" in scores:
            print(f"  {title:16}" + "".join(f"{scores[f'eval/{language}_{kind}{name}']:9.1f}" for name in names))
    print(f"  {'chance':16}" + "".join(f"{even[f'{language}_{name}']:9.1f}" for name in names))
    accuracy = scores[f"eval/{language}_itm_accuracy"], scores[f"eval/{language}_shuffled_itm_accuracy"]
    print(f"  ITM accuracy {accuracy[0]:.1f}, images shuffled {accuracy[1]:.1f}, chance 50.0")


if __name__ == "__main__":
    sys.exit(main())
