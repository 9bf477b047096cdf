"""Encoder-decoder language models of transformers: T5, Flan-T5, mT5, BART.

b rows, s tokens of the encoder, t tokens of the decoder, m targets, e embedding width, v vocabulary.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.language import Language
from vglm_train.model.language.hf.attention import family_of, whole_rows
from vglm_train.model.language.hf.base import HuggingFaceLanguage, blocks_of, first_id
from vglm_train.model.language.hf.decoder import Seq2SeqDecoder
from vglm_train.model.language.hf.head import head_on

# whose stacks take a mask that is ready, for all heads and queries
READY = {"bart", "marian", "mbart", "mt5", "pegasus", "plbart", "t5", "umt5"}
STARTS = ("decoder_start_token_id", "bos_token_id")  # what names the decoder's first id, in transformers' order


class Seq2SeqLanguage(HuggingFaceLanguage):
    """Any `AutoModelForSeq2SeqLM` that transformers brings, built from config.json with random weights.

    The encoder reads image and prompt. The decoder starts with the model's own token and predicts the labels.
    """

    def __init__(self, config: Language) -> None:
        super().__init__(config, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING)

    def score(self, embeds: Tensor, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        self.check_length(max(embeds.shape[1], batch.labels.shape[1]))
        chosen = batch.target_places(apart=True)
        scaling = self.gradient_scaling()
        embeds = scaling.enter(embeds)
        mask = self._mask(batch.attention_mask)
        # the decoder has no mask, or makes one of ones: padding of answers is behind all targets
        known = whole_rows() if mask.ndim == 4 else nullcontext()
        with self.own_dtype(), known, head_on(self.model.get_output_embeddings(), chosen):
            logits = self.model(
                inputs_embeds=embeds,
                attention_mask=mask,
                decoder_input_ids=self._shifted(batch.labels),
                use_cache=False,
            ).logits
        return scaling.leave(logits[0]), batch.labels.flatten()[chosen]

    def _shifted(self, labels: Tensor) -> Tensor:
        """What the decoder reads to predict labels [b,t].

        mBART starts with a row's last label, and fails where there is none, as in the row of a damaged sample.
        """
        unused = labels.eq(IGNORED).all(1, keepdim=True)
        some = torch.where(unused, (self.pad_id + 1) % self.vocabulary, labels[:, :1])  # any id but padding
        labels = torch.cat((some, labels[:, 1:]), 1)
        found: Tensor = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
        return found

    def _mask(self, mask: Tensor) -> Tensor:
        """[b,s] bool -> as the model takes it.

        Of a mask [b,s] transformers asks whether it hides anything, and so waits for the device, twice a step.
        """
        encoder = self.model.get_encoder()
        sdpa = encoder.config._attn_implementation.endswith("sdpa")  # and what is made of it here
        return mask[:, None, None] if sdpa and family_of(type(encoder)) in READY else mask.long()

    def decoder(self, embeds: Tensor, batch: PromptBatch, max_new: int) -> Seq2SeqDecoder:
        length = batch.attention_mask.sum(1)
        self.check_length(max(int(length.max()), max_new + 1))
        shape = self.model.config
        start_id = first_id(*(getattr(shape, name, None) for name in STARTS), self.pad_id)
        return Seq2SeqDecoder(self.model, embeds.to(self.dtype), length, start_id)

    def blocks(self) -> Sequence[nn.Module]:
        encoder, decoder = self.model.get_encoder(), self.model.get_decoder()
        shape = getattr(encoder, "config", self.model.config)
        return [*blocks_of(encoder, shape.num_hidden_layers), *blocks_of(decoder, self.decoder_blocks)]

    @property
    def decoder_blocks(self) -> int:
        shape = getattr(self.model.get_decoder(), "config", self.model.config)
        names = ("num_decoder_layers", "decoder_layers", "num_hidden_layers")
        number: int = next(getattr(shape, name) for name in names if hasattr(shape, name))
        return number
