"""Stage one's objective: ITC, ITM and ITG of one micro-batch, over the rows of all ranks.

b rows of this rank, B rows of all ranks, q queries, p image tokens, c image width, t text tokens, d Q-Former width,
e width of the embeddings.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from vglm_train.batch import PairBatch
from vglm_train.config.run import Objective as ObjectiveConfig
from vglm_train.distributed import Ranks
from vglm_train.model.alignment import Alignment
from vglm_train.model.qformer.qformer import Keys, grouped
from vglm_train.objective.base import LossOutput, Objective
from vglm_train.objective.captioning import caption_inputs, captioning_loss, target_mask
from vglm_train.objective.contrastive import contrastive_loss, count_correct, similarities
from vglm_train.objective.matching import (
    IMAGE_FOR_TEXT,
    TEXT_FOR_IMAGE,
    gumbel_noise,
    matching_loss,
    sample_negatives,
)


@dataclass(frozen=True, slots=True)
class Images:
    """This rank's images: frozen features [b,p,c], and what the Q-Former's passes need of them."""

    features: Tensor
    keys: Keys


@dataclass(frozen=True, slots=True)
class Candidates:
    """The rows of all ranks, and which of them are positives and negatives of this rank's rows."""

    ids: Tensor  # [B,t] int64
    mask: Tensor  # [B,t] bool
    valid: Tensor  # [B] bool
    positives: Tensor  # [b,B] bool: valid and of the same image
    negatives: Tensor  # [b,B] bool: valid and of another image
    has_negative: Tensor  # [b] bool: valid, and with at least one possible negative


class AlignmentObjective(Objective):
    """The three losses of BLIP-2's first stage. A loss of weight 0 is not computed.

    `dec_id`: the token that takes [CLS]'s place for ITG; `language_ids`: tokens that are never
    ITG targets.
    """

    token_loss = "itg"

    def __init__(
        self,
        model: Alignment,
        config: ObjectiveConfig,
        ranks: Ranks,
        seed: int,
        *,
        dec_id: int,
        language_ids: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.model: Alignment = model
        self.config, self.ranks, self.seed = config, ranks, seed
        self.dec_id, self.language_ids = dec_id, tuple(language_ids)
        weights = {"itc": config.itc.weight, "itm": config.itm.weight, "itg": config.itg.weight}
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self._gathered: dict[int, tuple[PairBatch, Candidates]] = {}  # of batches whose forward is to come, by id

    def watched(self) -> dict[str, Tensor]:
        return {"temperature": self.model.temperature.detach().reshape(())}

    def units(self, batch: PairBatch) -> dict[str, Tensor]:
        """ITC counts pairs, ITM three pairs for each row that has a possible negative, ITG target tokens.

        What is gathered for that is kept for the forward of the same batch, which follows.
        """
        candidates = self._candidates(batch)
        self._gathered[id(batch)] = batch, candidates
        counts = {
            "itc": batch.valid.sum(),
            "itm": 3 * candidates.has_negative.sum(),
            "itg": target_mask(batch.text_ids, batch.text_mask, batch.valid, self.language_ids).sum(),
        }
        return {name: counts[name].float() for name in self.weights}

    def forward(self, batch: PairBatch) -> LossOutput:
        model = self.model
        images = self._images(batch)
        queries, text, caption = self._passes(batch, images.keys)
        gathered = self._gathered.pop(id(batch), None)
        candidates = self._candidates(batch) if gathered is None else gathered[1]
        output = LossOutput({}, {})
        image, text = model.image_embeds(queries), model.text_embeds(text)
        logits = self._contrast(image, text, candidates, batch.valid, output)
        if "itm" in self.weights:
            self._match(batch, images, logits, candidates, output)
        if caption is not None:
            chosen = target_mask(batch.text_ids, batch.text_mask, batch.valid, self.language_ids)
            words = model.caption_logits(caption)
            output.sums["itg"] = captioning_loss(words, batch.text_ids, chosen, self.config.itg.smoothing)
        return output

    def _passes(self, batch: PairBatch, keys: Keys) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries [b,q,d] and text [b,t,d] for ITC, and the text for ITG [b,t,d] unless its weight is 0."""
        qformer, ids, mask = self.model.qformer, batch.text_ids, _attended(batch)
        if "itg" in self.weights:
            return qformer.contrast_and_caption(keys, ids, caption_inputs(ids, self.dec_id), mask)
        return *qformer.joint(keys, ids, mask, "separate"), None

    def _images(self, batch: PairBatch) -> Images:
        features = self.model.image_features(batch)
        return Images(features, self.model.image_keys(features))

    def _contrast(
        self, image: Tensor, text: Tensor, candidates: Candidates, rows: Tensor, output: LossOutput
    ) -> tuple[Tensor, Tensor]:
        """ITC from image [b,q,e] and text [b,e]; returns the logits of both directions [b,B] for the negatives."""
        exact = self.config.itc.gather == "exact"
        gather = self.ranks.gather_with_grad if exact else self.ranks.gather
        everyone = gather(torch.cat((image, text[:, None]), 1))  # [B,q+1,e]
        with torch.autocast(image.device.type, enabled=False):
            scores = similarities(image, text, everyone[:, :-1], everyone[:, -1])
        i2t, t2i = (score / self.model.temperature for score in scores)
        if "itc" in self.weights:
            smoothing = self.config.itc.smoothing
            losses = [
                contrastive_loss(each, candidates.positives, candidates.valid, rows, smoothing) for each in (i2t, t2i)
            ]
            output.sums["itc"] = (losses[0] + losses[1]) / 2
            right = [count_correct(each.detach(), candidates.positives, candidates.valid, rows) for each in (i2t, t2i)]
            output.measures["itc_accuracy"] = (right[0] + right[1], 2 * rows.sum().float())
        return i2t.detach(), t2i.detach()

    def _match(
        self,
        batch: PairBatch,
        images: Images,
        logits: tuple[Tensor, Tensor],
        candidates: Candidates,
        output: LossOutput,
    ) -> None:
        """ITM over three pairs a row: image and text, image and hard negative text, hard negative image and text."""
        text, image = self._hard_negatives(batch, logits, candidates)
        if self.ranks.world == 1:
            others = self.model.qformer.select(images.keys, image)
        else:
            others = self.model.image_keys(self.ranks.exchange(images.features, image))
        ids, mask = batch.text_ids, _attended(batch)
        # an image's two sentences one after the other, so that its keys and values are read once for both
        keys = grouped(images.keys, 2, others)
        two_ids = torch.stack((ids, candidates.ids[text]), 1).flatten(0, 1)
        two_masks = torch.stack((mask, candidates.mask[text]), 1).flatten(0, 1)
        pairs = self.model.match_logits(keys, torch.cat((two_ids, ids)), torch.cat((two_masks, mask)))
        own, other = pairs.split((2 * len(ids), len(ids)))
        pairs = torch.cat((own.view(-1, 2, 2), other[:, None]), 1)  # [b,3,2], the true pair first
        output.sums["itm"], right = matching_loss(pairs, candidates.has_negative)
        valid, used = batch.valid.sum().float(), candidates.has_negative.sum().float()
        output.measures["itm_accuracy"] = (right, 3 * used)
        output.measures["itm_left_out"] = (valid - used, valid)

    def _hard_negatives(
        self, batch: PairBatch, logits: tuple[Tensor, Tensor], candidates: Candidates
    ) -> tuple[Tensor, Tensor]:
        """Sample ITM's hard negatives: of each own row, a wrong text for its image and a wrong image for its text.

        logits: ITC's, both directions [b,B] -> rows of all ranks, [b] int64 each. See `objective/matching.py`.
        """
        b = batch.valid.shape[0]
        first = batch.first_row - self.ranks.rank * b  # the ranks' rows of one micro-batch follow each other
        positions = torch.arange(first, first + self.ranks.world * b, device=batch.valid.device)  # [B] in the stream
        own = positions[self.ranks.rank * b :][:b]
        text, image = (
            sample_negatives(each, candidates.negatives, gumbel_noise(self.seed, direction, own, positions))
            for each, direction in zip(logits, (TEXT_FOR_IMAGE, IMAGE_FOR_TEXT))
        )
        return text, image

    def _candidates(self, batch: PairBatch) -> Candidates:
        t = batch.text_ids.shape[1]
        columns = (batch.text_ids, _attended(batch), batch.image_ids[:, None], batch.valid[:, None])
        everyone = self.ranks.gather(torch.cat([column.long() for column in columns], 1))  # [B,2t+2]: one collective
        valid = everyone[:, -1].bool()
        same = batch.image_ids[:, None] == everyone[:, -2]
        negatives = ~same & valid
        has_negative = negatives.any(1) & batch.valid
        return Candidates(everyone[:, :t], everyone[:, t:-2].bool(), valid, same & valid, negatives, has_negative)


def _attended(batch: PairBatch) -> Tensor:
    """The text mask [b,t] with its first token always on: attention over no text, as in a damaged row, is NaN."""
    mask = batch.text_mask.clone()
    mask[:, 0] = True
    return mask
