"""Prompts with pictures become a decoder that is ready to read them.

n pictures of all prompts, q tokens of a picture, e embedding width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vglm_train.batch import PromptBatch
from vglm_train.chat.features import FeatureCache
from vglm_train.chat.request import Request
from vglm_train.model.language.decoding import Decoder
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.prompt.template import Template


class PromptReader:
    """The part of a model before its language model. Image tokens that are kept are not computed again."""

    def __init__(
        self,
        model: VisualLanguageModel,
        template: Template,
        device: torch.device,
        features: FeatureCache,
        autocast: bool,
    ) -> None:
        """autocast: image tokens are computed in bf16."""
        self.model, self.template, self.device, self.features = model, template, device, features
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=autocast)

    def decoder(self, requests: Sequence[Request]) -> Decoder:
        """For these prompts, a row each."""
        fields: dict[str, Any] = dict(self.template.collate([request.prompt for request in requests]))
        valid = torch.ones(len(requests), dtype=torch.bool)
        batch = PromptBatch(pixels=torch.empty(0), valid=valid, **fields).to(self.device)
        embeds = self.model.fuse(self._image_tokens(requests, batch), batch)
        return self.model.language.decoder(embeds, batch, max_new=1)  # each request was held against the positions

    def _image_tokens(self, requests: Sequence[Request], batch: PromptBatch) -> Tensor:
        """[n,q,e]."""
        pixels = torch.cat([request.pixels for request in requests])
        names = [(name, request.prompt.question_ids) for request in requests for name in request.names]

        def compute(places: list[int]) -> Tensor:
            with self.autocast:
                features = self.model.encode_image(pixels[places].to(self.device))
                question = (batch.question_ids, batch.question_mask)
                return self.model.visual_tokens(features, *(None if x is None else x[places] for x in question))

        if not names:
            return torch.empty(0, self.model.image_length, self.model.language.embed_width, device=self.device)
        return torch.stack(self.features.get(names, compute))
