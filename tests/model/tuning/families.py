"""The smallest language model of each family, and prompts for it."""

from dataclasses import replace

import made_language
import small_chatglm
import torch

from vglm_train.config.language import Language
from vglm_train.model.language import build_language

FAMILIES = ["chatglm", "causal", "seq2seq"]


def language(family, folder, dtype="fp32"):
    """Random weights, wide enough that what is asked matters. `folder` is written into."""
    if family == "chatglm":
        return small_chatglm.chatglm(dtype=dtype)
    made_language.sections(folder, family)
    torch.manual_seed(0)
    model = build_language(Language(family=family, config=str(folder), tokenizer="none", dtype=dtype))
    made_language.spread(model)
    return model


def prompts(family):
    made = small_chatglm.prompts([5, 9], [4, 7])
    return replace(made, labels=made.labels[:, -6:]) if family == "seq2seq" else made


def loss_of(model, batch):
    logits, targets = model.score(model.embed(batch.input_ids), batch)
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")


def gradients(model, batch):
    model.zero_grad()
    loss_of(model, batch).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
