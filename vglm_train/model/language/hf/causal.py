"""Decoder-only language models of transformers: OPT, LLaMA, Qwen, GLM-4, GPT-2 and their like.

b rows, s tokens, m targets, e embedding width, v vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.language import Decoding, Language
from vglm_train.model.language.base import OnToken
from vglm_train.model.language.hf.base import HuggingFaceLanguage, blocks_of, head_on


class CausalLanguage(HuggingFaceLanguage):
    """Any `AutoModelForCausalLM` that transformers brings, built from config.json with random weights.

    Sequences are padded on the right for `score`; `generate` moves the padding to the left. Its repetition penalty
    applies to the new ids alone, since only the prompt's embeddings are known.
    """

    def __init__(self, config: Language) -> None:
        super().__init__(config, MODEL_FOR_CAUSAL_LM_MAPPING)

    def score(self, embeds: Tensor, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        s = batch.labels.shape[1]
        self.check_length(s)
        row, position = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        targets = batch.labels[row, position + 1]
        scaling = self.gradient_scaling()
        embeds = scaling.enter(embeds)
        # padding is right of all targets: no mask is needed, and plain causal attention is fast
        with self.own_dtype(), head_on(self.model.get_output_embeddings(), row * s + position):
            logits = self.model(inputs_embeds=embeds, use_cache=False).logits
        return scaling.leave(logits[0]), targets

    def generate(
        self, embeds: Tensor, batch: PromptBatch, decoding: Decoding, end_id: int, on_token: OnToken | None = None
    ) -> Tensor:
        embeds, mask = left_padded(embeds.to(self.dtype), batch.attention_mask)
        self.check_length(mask.shape[1] + decoding.max_new)
        return self.continued({"inputs_embeds": embeds, "attention_mask": mask.long()}, decoding, end_id, on_token)

    def blocks(self) -> Sequence[nn.Module]:
        return blocks_of(self.model, self.model.config.num_hidden_layers)


def has_causal_class(shape: PreTrainedConfig) -> bool:
    """Whether transformers has a decoder-only model of this configuration's kind."""
    return type(shape) in MODEL_FOR_CAUSAL_LM_MAPPING


def left_padded(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [b,s,e] with mask [b,s] padded on the right -> padded on the left, to the longest row."""
    lengths = mask.sum(1)
    longest = int(lengths.max())
    index = torch.arange(longest, device=mask.device) - (longest - lengths)[:, None]  # [b,longest], below 0: padding
    moved = embeds.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, embeds.shape[2]))
    return moved, index >= 0
