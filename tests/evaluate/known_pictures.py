"""A model that knows which picture and which caption it sees, behind the real embedder; and such pictures."""

from collections.abc import Mapping
from pathlib import Path

import torch
from made_shards import TOKENS
from torch import Tensor, nn

from vglm_train.config.model import Text
from vglm_train.data.eval_captions import EvalItem
from vglm_train.evaluate.retrieval.evaluator import Embedder
from vglm_train.prompt.qformer_text import QFormerTokenizer, build_text

NUMBERS = 64


def tokenizer(folder: Path) -> QFormerTokenizer:
    (folder / "vocab.txt").write_text("\n".join([*TOKENS, *map(str, range(NUMBERS))]) + "\n", "utf-8")
    return build_text(Text(tokenizer=str(folder / "vocab.txt"), max_length=8, processor="plain"))


def item(number: int, en: int = 1, zh: int = 1, picture: int | None = None) -> EvalItem:
    """Picture `number` with so many captions; `picture`: the same as that one, byte for byte."""
    shown = number if picture is None else picture
    captions = {"en": ("a photo number " + str(shown),) * en, "zh": (f"第 {shown} 张照片",) * zh}
    pixels = torch.full((3, 16, 16), shown, dtype=torch.uint8)
    return EvalItem(f"{number:03d}", 1000 + shown, pixels, {name: texts for name, texts in captions.items() if texts})


class KnownModel(nn.Module):
    """Similarity and ITM's logits of a picture and a caption by their numbers: `match` gives (no, yes) of a pair."""

    def __init__(self, match: Mapping[tuple[int, int], tuple[float, float]] | None = None) -> None:
        super().__init__()
        self.pairs = match or {}

    def embed_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        numbers = pixels[:, 0, 0, 0].long()
        return numbers[:, None, None].float(), nn.functional.one_hot(numbers, NUMBERS)[:, None].float()

    def embed_texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        return nn.functional.one_hot(self.numbers(ids), NUMBERS).float()

    def image_keys(self, raw: Tensor) -> Tensor:
        return raw[:, 0, 0].long()

    def match_logits(self, keys: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        pairs = zip(keys.tolist(), self.numbers(ids).tolist())
        logits = [self.pairs.get(pair, (0.0, 5.0 if pair[0] == pair[1] else -5.0)) for pair in pairs]
        return torch.tensor(logits).view(-1, 2)

    @staticmethod
    def numbers(ids: Tensor) -> Tensor:
        return (ids - len(TOKENS)).amax(1)


def embedder(folder: Path, model: nn.Module | None = None) -> Embedder:
    return Embedder(model or KnownModel(), tokenizer(folder), torch.device("cpu"), batch=4)
