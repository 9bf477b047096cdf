"""A small ChatGLM and prompts for it."""

import torch

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.language import Language
from vglm_train.model.language import build_language

SHAPE = {
    "layers": 3,
    "width": 48,
    "heads": 4,
    "mlp_width": 96,
    "vocabulary": 120,
    "positions": 256,
    "tokenizer": "none",
}
SOP, EOP, GMASK = 114, 115, 111


def chatglm(seed: int = 0, **changes):
    torch.manual_seed(seed)
    model = build_language(Language(**{**SHAPE, "dtype": "fp32", **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # as initialised, all prompts get one answer, and a fault in attention would not show
            if parameter.dim() == 2:
                parameter.mul_(8 if "query_key_value" in name else 20 if "attention.dense" in name else 5)
    if model.dtype != torch.float32:  # the same weights: torch draws others in half precision
        model.load_state_dict(chatglm(seed, **{**changes, "dtype": "fp32"}).state_dict())
    return model


def prompts(contexts, answers, width=None, seed=1) -> PromptBatch:
    """Random contexts of these lengths, [gMASK] <sop>, answers of these lengths; <sop> and answers are targets.

    A row is a function of its lengths and the seed alone.
    """
    lengths = [c + 2 + a for c, a in zip(contexts, answers, strict=True)]
    width = width or max(lengths)
    ids, real = torch.full((len(lengths), width), 3), torch.zeros(len(lengths), width, dtype=torch.bool)
    labels = torch.full_like(ids, IGNORED)
    for row, (c, a) in enumerate(zip(contexts, answers, strict=True)):
        generator = torch.Generator().manual_seed(1000 * seed + 10 * c)
        words = torch.randint(4, 110, (c + a,), generator=generator)
        ids[row, : lengths[row]] = torch.cat((words[:c], torch.tensor([GMASK, SOP]), words[c:]))
        real[row, : lengths[row]] = True
        if a:
            labels[row, c + 1 : lengths[row]] = ids[row, c + 1 : lengths[row]]
    return PromptBatch(
        pixels=torch.zeros(len(lengths), 3, 2, 2),
        valid=torch.ones(len(lengths), dtype=torch.bool),
        input_ids=ids,
        attention_mask=real,
        visual_mask=torch.zeros_like(real),
        labels=labels,
    )
