"""Fine-tuning on a domain: stage two's model on dialogues and captions; `tuning` says what of it trains."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vglm_train.checkpoint.bundle.adapter import base_of
from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.checkpoint.bundle.stage_one import is_bundle
from vglm_train.checkpoint.bundle.write import save_finetuned
from vglm_train.config.run import Config
from vglm_train.config.validation import FieldError
from vglm_train.data.eval_questions import QuestionSet
from vglm_train.data.splits import validating
from vglm_train.distributed import Ranks
from vglm_train.engine.hooks import Evaluator
from vglm_train.evaluate.vqa.evaluator import build_evaluator
from vglm_train.model.tuning import apply_tuning, table
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language
from vglm_train.stages.base import HeldOut, check_best
from vglm_train.stages.generate import Generate

log = logging.getLogger(__name__)


class Finetune(Generate):
    """Stage two, with another choice of what trains, evaluations that ask questions, and a bundle of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        weights = config.model.qformer.weights
        if problem := _unfit_reason(weights):
            reason = f"fine-tuning starts from a bundle of stage generate, and this is {problem}. Set model.bundle"
            raise FieldError("model.qformer.weights", "run.stage", reason=reason)
        self.base = Path(str(weights))
        self.base_parts: dict[str, str] | None = None

    def build(self, sop_id: int | None, words: int | None) -> VisualLanguageModel:
        image, tuning = self.config.data.image, self.config.tuning
        return build_visual_language(self.config.model, image.mean, image.std, sop_id, words, tuning.quantize)

    def load(self, model: VisualLanguageModel) -> None:
        self.base_parts = base_of(self.base, read_document(self.base))  # the bundle may be another when the run ends
        super().load(model)

    def tune(self, model: VisualLanguageModel) -> list[str]:
        return table(apply_tuning(model, self.config.tuning, self.config.run.seed))

    def held_out(self) -> HeldOut | None:
        if self.config.evaluate.task == "caption":
            return super().held_out()
        data, size = self.config.data, self.config.model.vision.image_size
        parts, images = validating(data), self.config.evaluate.images
        if not parts:
            return None
        return QuestionSet(parts, size, data.languages, images, data.image.decoder, data.image)

    def evaluator(self, model: VisualLanguageModel, items: Sequence[Any], ranks: Ranks) -> Evaluator:
        config = self.config
        if config.evaluate.task == "caption":
            return super().evaluator(model, items, ranks)
        task, how, shown = config.evaluate.task, config.evaluate.decoding, config.evaluate.table
        evaluator = build_evaluator(task, self.generator(model, ranks), items, how, shown, ranks)
        check_best(config, evaluator.available_metrics())
        return evaluator

    def save(
        self, folder: Path, model: VisualLanguageModel, origin: Mapping[str, Any], read: Mapping[str, str] | None = None
    ) -> None:
        size = save_finetuned(folder, self.config, self.base, model, self.tokenizer, origin, self.text, self.base_parts)
        log.info("what was trained takes %.1f MB", size / 1e6)


def _unfit_reason(weights: str | None) -> str | None:
    """Why fine-tuning cannot start from `weights`; None if it can, or if the folder is not on this machine."""
    if weights is None:
        return "missing"
    if not is_bundle(weights):
        return f"{weights}, which is no bundle" if Path(weights).exists() else None
    stage = read_document(Path(weights)).get("stage")
    if stage == "align":
        return f"{weights}, of stage align, which was not trained with a language model: train stage generate first"
    return None if stage == "generate" else f"{weights}, of stage {stage}: merge it first (vglm checkpoint merge)"
