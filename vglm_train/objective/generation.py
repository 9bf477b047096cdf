"""Stage two's loss: next-token cross-entropy of a frozen language model that reads the queries.

m targets, v vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.objective.base import LossOutput, Objective

CHUNK = 256  # targets whose logits are in fp32 at once: with 130 thousand words, three times 0.13 GB


class GenerationObjective(Objective):
    """Cross-entropy summed over target tokens; the engine divides by their number in the whole global batch."""

    model: VisualLanguageModel
    token_loss = "lm"

    def __init__(self, model: VisualLanguageModel) -> None:
        super().__init__()
        self.model = model
        self.weights = {"lm": 1.0}

    def units(self, batch: PromptBatch) -> dict[str, Tensor]:
        """Target tokens."""
        return {"lm": (batch.labels != IGNORED).sum().float()}

    def forward(self, batch: PromptBatch) -> LossOutput:
        logits, targets = self.model.score(batch)
        with torch.autocast(logits.device.type, enabled=False):
            loss = token_losses(logits, targets).sum()
        right = (logits.detach().argmax(-1) == targets).sum().float()
        tokens = batch.attention_mask.numel()
        measures: dict[str, tuple[Tensor, Tensor | int]] = {
            "lm_accuracy": (right, len(targets)),
            "padding": (tokens - batch.attention_mask.sum(), tokens),
        }
        pictures = len(batch.pixels if batch.features is None else batch.features)
        padded = {
            "visual": pictures * self.model.image_length,
            "sequence": tokens,
            "answer": batch.labels.numel(),
            "target": len(targets),
        }
        if batch.question_ids is not None:
            padded["question"] = batch.question_ids.numel()
        return LossOutput({"lm": loss}, measures, padded)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits [m,v] of any precision and targets [m] -> losses [m], fp32.

    Only CHUNK rows of logits are ever held in fp32; their softmax is computed again in backward.
    """
    if not len(targets):
        return logits.float().sum(-1)  # [0], and backward finds every parameter
    parts = zip(logits.split(CHUNK), targets.split(CHUNK))
    return torch.cat([checkpoint(_cross_entropy, part, target, use_reentrant=False) for part, target in parts])


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")
