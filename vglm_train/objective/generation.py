"""Stage two's loss: next-token cross-entropy of a frozen language model that reads the queries.

m targets, v vocabulary.
"""

import torch
from torch import Tensor

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.objective.base import LossOutput, Objective
from vglm_train.objective.cross_entropy import token_losses


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
