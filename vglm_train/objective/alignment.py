"""Stage one's objective: ITC, ITM and ITG of one micro-batch, over the rows of all ranks.

With `objective.itc.batch`, ITC and the choice of ITM's negatives are over more rows than run at once: see `group.py`.

b rows of this rank, B rows of all ranks, q queries, p image tokens, c image width, t text tokens, d Q-Former width,
e width of the embeddings.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vglm_train.batch import PairBatch
from vglm_train.config.run import Objective as ObjectiveConfig
from vglm_train.distributed import Ranks
from vglm_train.model.alignment import Alignment
from vglm_train.model.qformer.qformer import Keys, grouped
from vglm_train.objective.base import LossOutput, Objective, seed_dropout
from vglm_train.objective.captioning import caption_inputs, captioning_loss, target_mask
from vglm_train.objective.contrastive import contrastive_loss, count_correct, similarities
from vglm_train.objective.group import Group
from vglm_train.objective.matching import (
    IMAGE_FOR_TEXT,
    TEXT_FOR_IMAGE,
    gumbel_noise,
    matching_loss,
    sample_negatives,
)
from vglm_train.objective.rows import Rows, attended, gather_rows


@dataclass(frozen=True, slots=True)
class Candidates:
    """The rows of all ranks, and which of them are positives and negatives of this rank's rows."""

    rows: Rows
    positives: Tensor  # [b,B] bool: valid and of the same image
    negatives: Tensor  # [b,B] bool: valid and of another image
    has_negative: Tensor  # [b] bool: valid, and with at least one possible negative


@dataclass(frozen=True, slots=True)
class Negatives:
    """Of each row of a micro-batch a wrong text and a wrong image, and which rows have them."""

    ids: Tensor  # [b,t] int64
    mask: Tensor  # [b,t] bool
    keys: Keys
    possible: Tensor  # [b] bool


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
        # of batches whose forward or units are to come, by id
        self._gathered: dict[int, tuple[PairBatch, Candidates]] = {}
        self._groups: dict[int, tuple[Group, int]] = {}  # with the number of the batch in its group; until its forward
        self._has_negative: dict[int, Tensor] = {}  # of a step's batches in groups, see `Group.has_negative`

    def watched(self) -> dict[str, Tensor]:
        return {"temperature": self.model.temperature.detach().reshape(())}

    def prepare(self, batches: Sequence[PairBatch]) -> None:
        """Divide the step's micro-batches into groups of `objective.itc.batch` rows of all ranks, if that is set."""
        self._groups.clear()
        self._has_negative.clear()
        rows = self.config.itc.batch
        if rows is None or not {"itc", "itm"} & self.weights.keys():
            return
        size = -(-rows // (self.ranks.world * len(batches[0].valid)))
        for start in range(0, len(batches), size):
            group = Group(batches[start : start + size], self.ranks)
            for number, batch in enumerate(group.batches):
                self._groups[id(batch)] = group, number
                self._has_negative[id(batch)] = group.has_negative(number)

    def units(self, batch: PairBatch) -> dict[str, Tensor]:
        """ITC counts pairs, ITM three pairs for each row that has a possible negative, ITG target tokens.

        What is gathered for that is gathered once for a batch's units and its forward, whichever comes first.
        """
        has_negative = self._has_negative.get(id(batch))
        if has_negative is None:
            has_negative = self._candidates(batch).has_negative
        counts = {
            "itc": batch.valid.sum(),
            "itm": 3 * has_negative.sum(),
            "itg": target_mask(batch.text_ids, batch.text_mask, batch.valid, self.language_ids).sum(),
        }
        return {name: counts[name].float() for name in self.weights}

    def forward(self, batch: PairBatch) -> LossOutput:
        output = LossOutput({}, {})
        contrast = self._contrast_cached if id(batch) in self._groups else self._contrast
        keys, caption, negatives = contrast(batch, output)
        if negatives is not None:
            self._match(batch, keys, negatives, output)
        if caption is not None:
            chosen = target_mask(batch.text_ids, batch.text_mask, batch.valid, self.language_ids)
            words = self.model.caption_logits(caption)
            output.sums["itg"] = captioning_loss(words, batch.text_ids, chosen, self.config.itg.smoothing)
        return output

    def _passes(self, batch: PairBatch, keys: Keys) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries [b,q,d] and text [b,t,d] for ITC, and the text for ITG [b,t,d] unless its weight is 0."""
        qformer, ids, mask = self.model.qformer, batch.text_ids, attended(batch)
        if "itg" in self.weights:
            return qformer.contrast_and_caption(keys, ids, caption_inputs(ids, self.dec_id), mask)
        return *qformer.joint(keys, ids, mask, "separate"), None

    def _contrast(self, batch: PairBatch, output: LossOutput) -> tuple[Keys, Tensor | None, Negatives | None]:
        """ITC over the rows that run at once: the images' keys, the text for ITG, the negatives for ITM."""
        model = self.model
        features = model.image_features(batch)
        keys = model.image_keys(features)
        queries, hidden, caption = self._passes(batch, keys)
        candidates = self._candidates(batch)
        image, text = model.image_embeds(queries), model.text_embeds(hidden)
        logits = self._logits(image, text)
        if "itc" in self.weights:
            smoothing, positives, valid = self.config.itc.smoothing, candidates.positives, candidates.rows.valid
            losses = [contrastive_loss(each, positives, valid, batch.valid, smoothing) for each in logits]
            output.sums["itc"] = (losses[0] + losses[1]) / 2
            right = [count_correct(each.detach(), positives, valid, batch.valid) for each in logits]
            output.measures["itc_accuracy"] = (right[0] + right[1], 2 * batch.valid.sum().float())
        if "itm" not in self.weights:
            return keys, caption, None
        rows = candidates.rows
        other_text, other_image = self._hard_negatives(logits, candidates)
        if self.ranks.world == 1:
            others = model.qformer.select(keys, other_image)
        else:
            others = model.image_keys(self.ranks.exchange([features], self.ranks.request(other_image)), beside=True)
        negatives = Negatives(rows.ids[other_text], rows.mask[other_text], others, candidates.has_negative)
        return keys, caption, negatives

    def _contrast_cached(self, batch: PairBatch, output: LossOutput) -> tuple[Keys, Tensor | None, Negatives | None]:
        """As `_contrast`, over the rows of the batch's group. Its first batch takes all through the first pass."""
        model, (group, number) = self.model, self._groups.pop(id(batch))
        if group.contrast is None:
            self._compare(group)
        assert group.contrast is not None
        contrast, features = group.contrast.part(number, len(group.batches)), group.features[number]
        keys = model.image_keys(features)
        queries, hidden, caption = self._seeded_passes(batch, keys)
        if contrast.right is not None:
            image, text = model.image_embeds(queries), model.text_embeds(hidden)
            output.sums["itc"] = contrast.sum(image, text, model.temperature)
            output.measures["itc_accuracy"] = (contrast.right.sum(), 2 * batch.valid.sum().float())
        if "itm" not in self.weights:
            return keys, caption, None
        others = model.image_keys(self.ranks.exchange(group.features, contrast.image), beside=True)
        ids, mask = group.rows.ids[contrast.text], group.rows.mask[contrast.text]
        return keys, caption, Negatives(ids, mask, others, self._has_negative[id(batch)])

    def _compare(self, group: Group) -> None:
        """The first pass over a group and its ITC.

        It runs the same operations as the second, gradient included, which is dropped: so compiled and recorded passes
        have the same dropout in both.
        """
        model = self.model

        def embed(batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
            features = model.image_features(batch)
            queries, text, _ = self._seeded_passes(batch, model.image_keys(features))
            return features, model.image_embeds(queries).detach(), model.text_embeds(text).detach()

        images, texts = group.embed(embed)
        device = images.device.type
        tf32 = device == "cuda" and torch.is_autocast_enabled(device)
        smoothing = self.config.itc.smoothing if "itc" in self.weights else None
        seed = self.seed if "itm" in self.weights else None
        with torch.autocast(device, enabled=False):
            group.compare(images, texts, model.temperature, smoothing=smoothing, seed=seed, tf32=tf32)

    def _seeded_passes(self, batch: PairBatch, keys: Keys) -> tuple[Tensor, Tensor, Tensor | None]:
        """`_passes` with dropout that depends on nothing but the seed and the batch's rows."""
        seed_dropout(self.seed, batch.first_row, batch.valid.device)
        return self._passes(batch, keys)

    def _logits(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """ITC's, of image [b,q,e] and text [b,e]: own images to all texts and own texts to all images, [b,B] each."""
        exact = self.config.itc.gather == "exact"
        gather = self.ranks.gather_with_grad if exact else self.ranks.gather
        everyone = gather(torch.cat((image, text[:, None]), 1))  # [B,q+1,e]
        with torch.autocast(image.device.type, enabled=False):
            scores = similarities(image, text, everyone[:, :-1], everyone[:, -1])
        return scores[0] / self.model.temperature, scores[1] / self.model.temperature

    def _match(self, batch: PairBatch, keys: Keys, negatives: Negatives, output: LossOutput) -> None:
        """ITM over three pairs a row: image and text, image and hard negative text, hard negative image and text."""
        ids, mask = batch.text_ids, attended(batch)
        # an image's two sentences one after the other, so that its keys and values are read once for both
        two_ids = torch.stack((ids, negatives.ids), 1).flatten(0, 1)
        two_masks = torch.stack((mask, negatives.mask), 1).flatten(0, 1)
        pairs = self.model.match_logits(
            grouped(keys, 2, negatives.keys), torch.cat((two_ids, ids)), torch.cat((two_masks, mask))
        )
        own, other = pairs.split((2 * len(ids), len(ids)))
        pairs = torch.cat((own.view(-1, 2, 2), other[:, None]), 1)  # [b,3,2], the true pair first
        output.sums["itm"], right = matching_loss(pairs, negatives.possible)
        valid, used = batch.valid.sum().float(), negatives.possible.sum().float()
        output.measures["itm_accuracy"] = (right, 3 * used)
        output.measures["itm_left_out"] = (valid - used, valid)

    def _hard_negatives(self, logits: tuple[Tensor, Tensor], candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Sample ITM's hard negatives: of each own row, a wrong text for its image and a wrong image for its text.

        logits: ITC's, both directions [b,B] -> rows of all ranks, [b] int64 each. See `objective/matching.py`.
        """
        positions = candidates.rows.positions
        own = positions[candidates.rows.own]
        text, image = (
            sample_negatives(each.detach(), candidates.negatives, gumbel_noise(self.seed, direction, own, positions))
            for each, direction in zip(logits, (TEXT_FOR_IMAGE, IMAGE_FOR_TEXT))
        )
        return text, image

    def _candidates(self, batch: PairBatch) -> Candidates:
        """Kept until they are asked for again."""
        if (kept := self._gathered.pop(id(batch), None)) is not None:
            return kept[1]
        rows = gather_rows([batch], self.ranks)
        same = batch.image_ids[:, None] == rows.image_ids
        negatives = ~same & rows.valid
        candidates = Candidates(rows, same & rows.valid, negatives, negatives.any(1) & batch.valid)
        self._gathered[id(batch)] = batch, candidates
        return candidates
