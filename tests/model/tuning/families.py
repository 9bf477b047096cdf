"""The smallest language model of each family, and prompts for it."""

from dataclasses import replace

import made_language
import small_chatglm
import torch

from vglm_train.batch import IGNORED
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


def without_answers(family, batch):
    """Prompts alone, padded on the right."""
    if family == "seq2seq":
        return batch
    answer = batch.labels != IGNORED
    if family == "chatglm":  # <sop>, a target too, is the prompt's last id
        answer &= batch.input_ids != small_chatglm.SOP
    return replace(
        batch,
        input_ids=batch.input_ids.masked_fill(answer, 3),
        attention_mask=batch.attention_mask & ~answer,
        labels=torch.full_like(batch.labels, IGNORED),
    )


def with_answers(family, prompt, written):
    """The prompts followed by the ids [b,t], which are the only targets."""
    if family == "seq2seq":
        return replace(prompt, labels=written)
    lengths, (b, t) = prompt.attention_mask.sum(1), written.shape
    size = (b, int(lengths.max()) + t)
    ids, real = torch.full(size, 3), torch.zeros(size, dtype=torch.bool)
    labels = torch.full(size, IGNORED)
    for row, length in enumerate(lengths.tolist()):
        ids[row, :length] = prompt.input_ids[row, :length]
        ids[row, length : length + t] = labels[row, length : length + t] = written[row]
        real[row, : length + t] = True
    return replace(prompt, input_ids=ids, attention_mask=real, labels=labels, visual_mask=torch.zeros_like(real))
