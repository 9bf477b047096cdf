"""Stage one: the Q-Former alone learns from pairs, by ITC, ITM and ITG."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from vglm_train.checkpoint.bundle.stage_one import is_bundle
from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.checkpoint.load.pretrained import load_pretrained
from vglm_train.checkpoint.vocabulary import Vocabulary
from vglm_train.config.check import check_vocabulary
from vglm_train.config.run import Config
from vglm_train.config.validation import FieldError
from vglm_train.data.eval_captions import EvalItem
from vglm_train.data.processors import PairProcessor
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.retrieval.evaluator import Embedder, RetrievalEvaluator
from vglm_train.model.alignment import Alignment, build_alignment
from vglm_train.model.flops import Cost, flops_per_pair, image_tokens
from vglm_train.objective.alignment import AlignmentObjective
from vglm_train.objective.contrastive_tiles import tile_bytes
from vglm_train.prompt.qformer_text import QFormerTokenizer, build_text
from vglm_train.stages.base import Stage, check_best


class Align(Stage):
    def __init__(self, config: Config) -> None:
        self.config = config
        losses = config.objective
        self.weights = {"itc": losses.itc.weight, "itm": losses.itm.weight, "itg": losses.itg.weight}

    @cached_property
    def text(self) -> QFormerTokenizer:
        text = build_text(self.config.model.text, self.config.data.languages)
        check_vocabulary(self.config, text.vocabulary)
        return text

    @cached_property
    def processor(self) -> PairProcessor:
        return PairProcessor(self.text, self.config.data.languages)

    @property
    def vocabulary(self) -> int:
        return self.config.model.qformer.vocabulary or self.text.vocabulary

    def vocabularies(self) -> dict[str, Vocabulary]:
        return {"model.text.tokenizer": Vocabulary(self.config.model.text.tokenizer, self.text.words())}

    def absent_tokenizers(self) -> dict[str, str]:
        try:
            assert self.text
        except FieldError:
            raise
        except UserError as error:
            if self.config.model.qformer.vocabulary is None or Path(self.config.model.text.tokenizer).exists():
                raise
            return {"model.text.tokenizer": str(error).removeprefix("model.text.tokenizer: ")}
        return {}

    def tokenizer_line(self) -> str:
        return f"tokenizer: {self.config.model.text.tokenizer}, {self.text.vocabulary:,} tokens"

    def model(self) -> Alignment:
        image = self.config.data.image
        return build_alignment(self.config.model, self.vocabulary, image.mean, image.std)

    def load(self, model: Alignment) -> None:
        weights = self.config.model.qformer.weights
        if is_bundle(weights):
            reason = f"{weights} is a bundle; stage align starts from BERT's weights, or from random ones with null"
            raise FieldError("model.qformer.weights", "run.stage", reason=reason)
        load_pretrained(model, self.config.model)

    def objective(self, model: Alignment, ranks: Ranks) -> AlignmentObjective:
        seed, languages = self.config.run.seed, self.text.language_ids.values()
        return AlignmentObjective(
            model, self.config.objective, ranks, seed, dec_id=self.text.dec_id, language_ids=languages
        )

    def evaluator(self, model: Alignment, items: Sequence[EvalItem], ranks: Ranks) -> RetrievalEvaluator:
        config = self.config
        embedder = Embedder(model, self.text, ranks.device, config.engine.precision == "bf16")
        how = config.evaluate
        evaluator = RetrievalEvaluator(
            embedder, items, config.data.languages, how.rerank, how.table, ranks, how.rerank_score
        )
        check_best(config, evaluator.available_metrics())
        return evaluator

    def save(
        self, folder: Path, model: Alignment, origin: Mapping[str, Any], read: Mapping[str, str] | None = None
    ) -> None:
        save_bundle(folder, self.config, model, self.text, origin, read=read)

    def cost(self, model: Alignment) -> Cost:
        losses = [name for name, weight in self.weights.items() if weight > 0]
        contrast = self.config.objective.itc.batch if {"itc", "itm"} & set(losses) else None
        return Cost(flops_per_pair(self.config.model, self.vocabulary, losses, self.encodes, contrast))

    def group_memory(self, model: Alignment, world: int) -> dict[str, float]:
        rows = self.config.objective.itc.batch
        if rows is None or not (self.weights["itc"] > 0 or self.weights["itm"] > 0):
            return {}
        size, vision, own = self.config.model, model.vision, rows / world
        embeddings = 4 * size.contrastive_width * (own * size.qformer.queries + rows)
        features = own if self.encodes else self.config.data.global_batch / world
        return {
            "embeddings": embeddings,
            "their gradients": embeddings,
            "features": features * vision.num_patches * vision.width * vision.dtype.itemsize,
            "tiles": tile_bytes(own * rows, size.qformer.queries),
        }

    def activations(self, model: Alignment) -> float:
        """Q-Former passes over queries and text, image keys, word logits: within 11 % of three runs on a GPU."""
        config = self.config
        q, t, size = config.model.qformer.queries, config.model.text.max_length, config.model.qformer
        low = 2 if config.engine.precision == "bf16" else 4
        tokens = q + t + 3 * (q + t) + t
        block = tokens * (8 * size.width + 3 * size.mlp_width) * low
        crossings = -(-size.layers // size.cross_every)
        vision = config.model.vision
        image = image_tokens(vision) * (crossings * 2 * size.width * low * 2 + vision.width * 8)
        layers = block if config.engine.recompute else size.layers * block
        return layers + image + t * self.vocabulary * (low + 8)
