"""Decoder-only language models of transformers: OPT, LLaMA, Qwen, GLM-4, GPT-2 and their like.

b rows, s tokens, m targets, e embedding width, v vocabulary.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from vglm_train.batch import PromptBatch
from vglm_train.config.language import Language
from vglm_train.model.language.decoding import Decoder
from vglm_train.model.language.hf.attention import whole_rows
from vglm_train.model.language.hf.base import HuggingFaceLanguage, blocks_of
from vglm_train.model.language.hf.decoder import causal_decoder
from vglm_train.model.language.hf.head import head_on


class CausalLanguage(HuggingFaceLanguage):
    """Any `AutoModelForCausalLM` that transformers brings, built from config.json with random weights.

    Sequences are padded on the right for `score`; a decoder moves the padding to the left.
    """

    def __init__(self, config: Language) -> None:
        super().__init__(config, MODEL_FOR_CAUSAL_LM_MAPPING)

    def score(self, embeds: Tensor, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        self.check_length(batch.labels.shape[1])
        places = batch.target_places(apart=False)
        scaling = self.gradient_scaling()
        embeds = scaling.enter(embeds)
        # padding is right of all targets: no mask is needed, and plain causal attention is fast
        head = head_on(self.model.get_output_embeddings(), places - 1)
        with self.own_dtype(), whole_rows(), head:
            logits = self.model(inputs_embeds=embeds, use_cache=False).logits
        return scaling.leave(logits[0]), batch.labels.flatten()[places]

    def decoder(self, embeds: Tensor, batch: PromptBatch, max_new: int) -> Decoder:
        length = batch.attention_mask.sum(1)
        self.check_length(int(length.max()) + max_new)
        return causal_decoder(self.model, embeds.to(self.dtype), length)

    def blocks(self) -> Sequence[nn.Module]:
        return blocks_of(self.model, self.model.config.num_hidden_layers)


def has_causal_class(shape: PreTrainedConfig) -> bool:
    """Whether transformers has a decoder-only model of this configuration's kind."""
    return type(shape) in MODEL_FOR_CAUSAL_LM_MAPPING
