"""The contract of every language model: frozen, in its own dtype, with embeddings as its input.

b rows, s tokens of the sequence, t tokens of the labels, m targets, e embedding width, v vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from vglm_train.batch import PromptBatch
from vglm_train.config.language import Decoding
from vglm_train.model.language.adapter import Adapter
from vglm_train.model.language.decoding import Decoder, OnToken, generate
from vglm_train.model.language.fp16_gradients import GradientScaling


class LanguageModel(nn.Module):
    """A frozen language model. Gradients flow through it to the embeddings, never into its weights.

    Only adapters (`model/tuning`), which are added to it, train.

    `embed_width` e is the width of its embeddings, which need not be that of its blocks (OPT-350m).
    `pad_id` fills an answer of `generate` behind its end; `vocabulary` is the number of its embeddings; `positions` the
    length of the longest sequence, None where there is no such limit.
    `home` is where a model on the meta device gets memory when its weights are read; None: on the default device.
    `whole`: False where its blocks' weights come when they run, see `FrozenBlocks`: no graph of kernels can hold them.
    """

    embed_width: int
    vocabulary: int
    pad_id: int
    positions: int | None
    dtype: torch.dtype
    home: torch.device | None = None
    whole: bool = True

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, so that a frozen model has no dropout. Only adapters change their mode."""
        super().train(False)
        for adapter in self.adapters():
            adapter.train(mode)
        return self

    def check_length(self, length: int) -> None:
        """Raises UserError where the model has no positions for `length` tokens. Rotary positions have no end."""

    def adapters(self) -> Iterator[Adapter]:
        """The adapters that were added to the model, in the model's order."""
        return (module for module in self.modules() if isinstance(module, Adapter))

    @property
    def random(self) -> bool:
        """Whether a forward pass uses random numbers: adapters' dropout may, a frozen model does not."""
        return any(getattr(adapter, "dropout", 0.0) > 0 for adapter in self.adapters())

    def gradient_scaling(self) -> GradientScaling:
        """The scaling of one forward pass, by which embeddings and adapters' weights enter the model."""
        scaling = GradientScaling(self.dtype)
        for adapter in self.adapters():
            adapter.scaling = scaling  # kept: blocks may be computed again in backward
        return scaling

    def embed(self, input_ids: Tensor) -> Tensor:
        """Ids [b,s] -> [b,s,e] in the model's dtype; fp32 of an fp16 model, whose gradients would vanish."""
        raise NotImplementedError

    def score(self, embeds: Tensor, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Embeddings [b,s,e] -> logits [m,v] and targets [m] int64, of the target tokens alone.

        In the order of `batch.labels` read row by row; m may be 0. The family decides which logit predicts which label;
        the objective takes the average.
        """
        raise NotImplementedError

    def decoder(self, embeds: Tensor, batch: PromptBatch, max_new: int) -> Decoder:
        """What continues prompts [b,s,e], padded on the right, by at most `max_new` ids; `batch.labels` is not used.

        UserError where the model has too few positions for that.
        """
        raise NotImplementedError

    @torch.no_grad()
    def generate(
        self, embeds: Tensor, batch: PromptBatch, decoding: Decoding, end_id: int, on_token: OnToken | None = None
    ) -> Tensor:
        """Continue prompts [b,s,e], padded on the right -> new ids [b,t] int64, `pad_id` behind `end_id`.

        There is no start token among them, and `batch.labels` is not used. `on_token` is called for each step;
        beam search knows its answer only at the end and refuses it with ValueError. A row's answer does not depend on
        what else is in the batch.
        """
        return generate(self.decoder(embeds, batch, decoding.max_new), decoding, end_id, self.pad_id, on_token)

    def materialise(self, device: torch.device) -> None:
        """Give a model on the meta device memory on `device`, with the tables that no weight file has.

        Quantised layers get theirs with their weights, see `PackedLinear`.
        A family whose tables never are on the meta device needs nothing: its weights get memory one by one.
        """

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order (for a seq2seq model the encoder's, then the decoder's)."""
        raise NotImplementedError

    @property
    def decoder_blocks(self) -> int:
        """How many of the last blocks are a decoder's, which reads the answer alone; 0 without an encoder."""
        return 0

    @property
    def of_targets(self) -> Sequence[nn.Module]:
        """Parts of the blocks that, as the head, read only those places in `score` that foretell a target."""
        return ()

    def attentions(self) -> Sequence[tuple[nn.Module, int, int]]:
        """Each block's self-attention, in order, with its number of key heads and the width of a head."""
        raise NotImplementedError

    def read_prefixes(self, length: int) -> None:
        """Let attentions use the `Prefix` that is their child `adapter`, of `length` tokens.

        UserError where the family's attention cannot be extended.
        """
        raise NotImplementedError

    def recompute(self, on: bool) -> None:
        """Whether activations are computed again in backward instead of kept. Call it after adapters are added."""
        raise NotImplementedError

    def compile_blocks(self) -> None:
        """torch.compile the blocks for training, where that is not done anyway. Call it after adapters are added."""


def left_padded(embeds: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [b,s,e] of these lengths [b], padded on the right -> padded on the left, to the longest row.

    With the index [b,s'] of each position in its row: below 0 it is padding, which holds the row's first embedding.
    """
    longest = int(length.max())
    index = torch.arange(longest, device=length.device) - (longest - length)[:, None]
    return embeds.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, embeds.shape[2])), index


def target_rows(labels: Tensor, ignored: int) -> Tensor:
    """Row [m] int64 of each target of labels [b,t], in the order of `score`."""
    return (labels != ignored).nonzero()[:, 0]
