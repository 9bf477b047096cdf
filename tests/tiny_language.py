"""The smallest stage-two models and prompts; used by the tests of several packages."""

from dataclasses import replace

import tiny
import torch

from vglm_train.batch import IGNORED, PromptBatch, target_places
from vglm_train.config.language import Language
from vglm_train.config.model import Model
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language

VOCABULARY, PAD, SOP, END = 60, 3, 54, 55
QUERIES = tiny.MODEL.qformer.queries

CHATGLM = replace(
    tiny.MODEL,
    language=Language(
        family="chatglm",
        tokenizer="nowhere",
        dtype="fp32",
        layers=2,
        width=32,
        heads=2,
        mlp_width=64,
        vocabulary=VOCABULARY,
        positions=64,
    ),
)


def build(model: Model, seed: int = 0) -> VisualLanguageModel:
    torch.manual_seed(seed)
    return build_visual_language(model, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), sop_id=SOP)


def prompts(rows: int, first: int = 0) -> PromptBatch:
    """Rows `first` ... of an endless stream of prompts with answers of unequal lengths, padded to the longest."""
    made = [_row(number) for number in range(first, first + rows)]
    longest = max(len(ids) for _, ids, _ in made)
    ids = torch.full((rows, longest), PAD)
    labels = torch.full((rows, longest), IGNORED)
    visual = torch.zeros(rows, longest, dtype=torch.bool)
    attention = torch.zeros(rows, longest, dtype=torch.bool)
    for row, (_, tokens, answer) in enumerate(made):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        attention[row, : len(tokens)] = True
        visual[row, 1 : 1 + QUERIES] = True
        labels[row, answer : len(tokens)] = ids[row, answer : len(tokens)]
    return PromptBatch(
        pixels=torch.stack([pixels for pixels, _, _ in made]),
        valid=torch.ones(rows, dtype=torch.bool),
        first_row=first,
        input_ids=ids,
        attention_mask=attention,
        visual_mask=visual,
        labels=labels,
        targets=target_places(labels, apart=False),
    )


def _row(number: int) -> tuple[torch.Tensor, list[int], int]:
    """Pixels, ids and the place where the answer begins, with <sop>."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator)
    question, answer = (int(n) for n in torch.randint(2, 7, (2,), generator=generator))
    words = torch.randint(5, SOP, (1 + question + answer,), generator=generator).tolist()
    before = [words[0], *[PAD] * QUERIES, *words[1 : 1 + question], SOP - 1]
    return pixels, [*before, SOP, *words[1 + question :], END], len(before)
