"""Stage two's model: frozen image encoder, trained norm, Q-Former and projection, frozen language model.

n images, b rows, p image tokens, c image width, q queries, e embedding width, s tokens of the sequence.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from vglm_train.batch import PromptBatch
from vglm_train.config.language import Decoding
from vglm_train.config.model import Model
from vglm_train.model.language import Quantize, build_language
from vglm_train.model.language.base import LanguageModel
from vglm_train.model.language.decoding import OnToken
from vglm_train.model.qformer.qformer import QFormer
from vglm_train.model.recorder import Recorder
from vglm_train.model.vision import VisionEncoder, build_vision
from vglm_train.model.visual import VisualModel

LAUNCHED_SLOWER = 64  # pictures: for fewer the Q-Former is launched slower than it runs


class VisualLanguageModel(VisualModel):
    """The queries of a Q-Former become tokens of a language model's input.

    They read the image alone, or also the question (InstructBLIP, arXiv:2305.06500) if the Q-Former has a text side.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        qformer: QFormer,
        language: LanguageModel,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(vision, qformer, mean, std)
        self.image_length, width = qformer.query_tokens.shape
        self.projection = nn.Linear(width, language.embed_width)
        self.language = language
        self.recorder = Recorder()

    def train(self, mode: bool = True) -> Self:
        """A Q-Former of which nothing trains stays in eval mode, since its dropout would only add noise."""
        super().train(mode)
        self.qformer.train(mode and any(p.requires_grad for p in self.qformer.parameters()))
        return self

    def visual_tokens(self, features: Tensor, ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Frozen features [n,p,c] -> the image tokens that the language model reads [n,q,e].

        ids [n,u], mask [n,u] bool: a question for each image, if the Q-Former reads it.
        """
        inputs: tuple[Tensor, ...] = (features,) if ids is None or mask is None else (features, ids, mask)
        if self.qformer.training or len(features) > LAUNCHED_SLOWER:
            return self._bridge(*inputs)
        return self.recorder(self._bridge, [self.vision_norm, self.qformer, self.projection], *inputs)

    def _bridge(self, features: Tensor, ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See `visual_tokens`."""
        keys = self.image_keys(features)
        if ids is None or mask is None:
            queries = self.qformer.queries(keys, keep=False)[0]
        else:
            queries = self.qformer.joint(keys, ids, mask, "full")[0]
        tokens: Tensor = self.projection(queries)
        return tokens

    def _visual(self, batch: PromptBatch) -> Tensor:
        """Image tokens of a batch [n,q,e]."""
        return self.visual_tokens(self.image_features(batch), batch.question_ids, batch.question_mask)

    def fuse(self, visual: Tensor, batch: PromptBatch) -> Tensor:
        """Put image tokens [n,q,e] at the image positions of the embedded ids -> [b,s,e] in the language model's dtype.

        Images fill the positions in order, row after row. ValueError where there are more or fewer positions than
        tokens.
        """
        if not batch.visual_mask.is_cuda:  # a GPU would have to be waited for
            (n, q), counts = visual.shape[:2], batch.visual_mask.sum(1).tolist()
            if sum(counts) != n * q or any(count % q for count in counts):
                raise ValueError(f"the prompts have {counts} image positions for {n} images of {q} tokens each")
        text = self.language.embed(batch.input_ids.masked_fill(batch.visual_mask, 0))
        # masked_scatter would do, but its backward waits for the device before the Q-Former's can be started
        order = torch.argsort(batch.visual_mask.flatten().byte(), descending=True, stable=True)
        where = order[: visual.shape[0] * visual.shape[1]]  # [n*q] indices into the flattened batch
        return text.flatten(0, 1).index_copy(0, where, visual.flatten(0, 1).to(text.dtype)).view_as(text)

    def score(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Logits [m,v] and targets [m] of a batch; see LanguageModel.score."""
        return self.language.score(self.fuse(self._visual(batch), batch), batch)

    @torch.no_grad()
    def generate(self, batch: PromptBatch, decoding: Decoding, end_id: int, on_token: OnToken | None = None) -> Tensor:
        """Answers [b,t] to prompts with images; see LanguageModel.generate."""
        return self.language.generate(self.fuse(self._visual(batch), batch), batch, decoding, end_id, on_token)

    def stacks(self) -> list[Sequence[nn.Module]]:
        return [*super().stacks(), self.language.blocks()]

    def record_nothing(self) -> None:
        super().record_nothing()
        self.recorder.on = False

    def recompute(self, on: bool) -> None:
        """Whether activations of the Q-Former and of the language model are computed again in backward."""
        super().recompute(on)
        self.language.recompute(on)

    def compile_blocks(self) -> None:
        """torch.compile the Q-Former's and the language model's blocks in place. Weights keep their names."""
        super().compile_blocks()
        self.language.compile_blocks()


def build_visual_language(
    config: Model,
    mean: Sequence[float],
    std: Sequence[float],
    sop_id: int | None = None,
    words: int | None = None,
    quantize: Quantize | None = None,
) -> VisualLanguageModel:
    """The model of this configuration with random weights, on torch's current default device (meta included).

    `sop_id`: the tokenizer's <sop>, for ChatGLM; None: the released one. `words`: vocabulary of the Q-Former's own
    tokenizer if it reads the question; otherwise it has no text side. `quantize`: the language model's blocks in few
    bits, see `build_language`. Published weights are read afterwards.
    """
    assert config.language is not None
    vision = build_vision(config.vision)
    words = config.qformer.vocabulary or words if config.qformer.reads_question else None
    assert words or not config.qformer.reads_question, (
        "a Q-Former that reads the question needs the size of its vocabulary"
    )
    qformer = QFormer(config.qformer, config.vision.width, words, writes=False)
    return VisualLanguageModel(vision, qformer, build_language(config.language, sop_id, quantize), mean, std)
