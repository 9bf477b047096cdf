"""ITC over 512 rows by micro-batches of 32: on any number of ranks, and all at once in one graph. Also a script:

python group_ranks.py FOLDER [gloo | nccl]: one rank, with torchrun's environment variables. All in float64.
"""

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import tiny
import torch
from precision import in_float64
from safetensors.torch import save_file
from torch import Tensor

from vglm_train import distributed
from vglm_train.batch import PairBatch
from vglm_train.config.run import Contrastive, Objective
from vglm_train.distributed import Ranks
from vglm_train.objective.alignment import AlignmentObjective, Negatives
from vglm_train.objective.base import dropout_seed
from vglm_train.objective.captioning import captioning_loss, target_mask
from vglm_train.objective.contrastive import contrastive_loss, count_correct, similarities
from vglm_train.objective.matching import IMAGE_FOR_TEXT, TEXT_FOR_IMAGE, gumbel_noise, sample_negatives
from vglm_train.objective.rows import attended

ROWS, MICRO, SEED, FIRST_ROW = 512, 32, 42, 1024
LOSSES = ("itc", "itm", "itg")


def built(ranks: Ranks, rows: int | None = ROWS, dropout: float = 0.1, **losses: float) -> AlignmentObjective:
    model = replace(tiny.MODEL, qformer=replace(tiny.MODEL.qformer, dropout=dropout))
    config = Objective()
    config = replace(config, itc=Contrastive(batch=rows))
    for name, weight in losses.items():
        config = replace(config, **{name: replace(getattr(config, name), weight=weight)})
    objective = AlignmentObjective(tiny.alignment(model=model), config, ranks, SEED, dec_id=tiny.DEC)
    return objective.train().to(ranks.device)


def whole_batch(rows: int = ROWS) -> PairBatch:
    """Each picture many times, in micro-batches of one rank and of others; one micro-batch damaged from end to end."""
    batch = tiny.batch(FIRST_ROW, rows)
    damaged = (torch.arange(rows) % 7 == 3) | (torch.arange(rows) // MICRO == 3) | (torch.arange(rows) < 11)
    batch.image_ids[damaged] = -1
    batch.pixels[damaged], batch.text_ids[damaged], batch.text_mask[damaged] = 0, tiny.PAD, False
    return replace(batch, valid=~damaged)


def micro_batches(batch: PairBatch, ranks: Ranks, micro: int = MICRO) -> list[PairBatch]:
    """This rank's, as the stream shares them."""
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    starts = range(ranks.rank * micro, len(batch.valid), ranks.world * micro)
    return [
        replace(
            batch, first_row=batch.first_row + start, **{k: v[start : start + micro] for k, v in tensors.items()}
        ).to(ranks.device)
        for start in starts
    ]


def by_groups(objective: AlignmentObjective, batches: Sequence[PairBatch], ranks: Ranks) -> dict[str, Tensor]:
    """A step as trainer and engine take it: global means, counts, measures, and the averaged gradient."""
    with in_float64(objective):
        objective.prepare(batches)
        found: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            output = objective(batch)
            if number == 0:
                units = [objective.units(each) for each in batches]
                counts = {name: ranks.all_sum(torch.stack([u[name] for u in units]).sum()) for name in units[0]}
                found |= {f"count/{name}": value for name, value in counts.items()}
            for name, value in output.sums.items():
                found[f"loss/{name}"] = found.get(f"loss/{name}", 0) + value.detach() / counts[name]
            for name, (total, count) in output.measures.items():
                pair = torch.stack((total.double(), count.double()))
                found[f"measure/{name}"] = found.get(f"measure/{name}", 0) + pair
            sum(output.sums[name] * ranks.world / counts[name] for name in output.sums).backward()
    found |= {k: ranks.all_sum(v) for k, v in found.items() if k.startswith(("loss/", "measure/"))}
    return found | gradients(objective, ranks)


def gradients(objective: AlignmentObjective, ranks: Ranks) -> dict[str, Tensor]:
    return {
        f"gradient/{name}": ranks.all_sum(p.grad.clone()) / ranks.world
        for name, p in objective.model.trained_parameters()
        if p.grad is not None
    }


def at_once(objective: AlignmentObjective, batches: Sequence[PairBatch]) -> dict[str, Tensor]:
    """The same with everything in one graph and B x B matrices: torch's own gradient of the dense formula."""
    with in_float64(objective):
        model, states, keys, features, embedded, captions = objective.model, [], [], [], [], []
        for batch in batches:
            torch.manual_seed(dropout_seed(SEED, batch.first_row))
            features.append(model.image_features(batch))
            keys.append(model.image_keys(features[-1]))
            queries, text, caption = objective._passes(batch, keys[-1])
            captions.append(caption)
            embedded.append((model.image_embeds(queries), model.text_embeds(text)))
            states.append(torch.get_rng_state())
        images, texts = (torch.cat(each) for each in zip(*embedded))
        valid, ids = (torch.cat([getattr(b, name) for b in batches]) for name in ("valid", "image_ids"))
        same, logits = ids[:, None] == ids, [x / model.temperature for x in similarities(images, texts, images, texts)]
        losses = [contrastive_loss(x, same & valid, valid, valid, objective.config.itc.smoothing) for x in logits]
        right = sum(count_correct(x.detach(), same & valid, valid, valid) for x in logits)
        sums, counts = {"itc": (losses[0] + losses[1]) / 2}, {"itc": valid.sum()}
        measures = {"itc_accuracy": torch.stack((right, 2 * valid.sum())).double()}
        rows, possible = torch.arange(FIRST_ROW, FIRST_ROW + len(valid)), valid & (~same & valid).any(1)
        text, image = (
            sample_negatives(x.detach(), ~same & valid, gumbel_noise(SEED, direction, rows, rows))
            for x, direction in zip(logits, (TEXT_FOR_IMAGE, IMAGE_FOR_TEXT))
        )
        output = []
        for number, (batch, state) in enumerate(zip(batches, states)):
            own = slice(number * len(batch.valid), (number + 1) * len(batch.valid))
            torch.set_rng_state(state)
            ids, mask = (torch.cat(each)[text[own]] for each in
                         ([b.text_ids for b in batches], [attended(b) for b in batches]))  # fmt: skip
            others = model.image_keys(torch.cat(features)[image[own]])
            output.append(type("Output", (), {"sums": {}, "measures": {}})())
            objective._match(batch, keys[number], Negatives(ids, mask, others, possible[own]), output[-1])
            chosen = target_mask(batch.text_ids, batch.text_mask, batch.valid, ())
            words = model.caption_logits(captions[number])
            output[-1].sums["itg"] = captioning_loss(words, batch.text_ids, chosen, objective.config.itg.smoothing)
            counts["itg"] = counts.get("itg", 0) + chosen.sum()
        counts["itm"] = 3 * possible.sum()
        for name in ("itm", "itg"):
            sums[name] = sum(each.sums[name] for each in output)
        for name in ("itm_accuracy", "itm_left_out"):
            measures[name] = sum(torch.stack([x.double() for x in each.measures[name]]) for each in output)
        sum(sums[name] / counts[name] for name in sums).backward()
    found = {f"loss/{name}": (sums[name] / counts[name]).detach() for name in LOSSES}
    found |= {f"count/{name}": counts[name].float() for name in LOSSES}
    return found | {f"measure/{k}": v for k, v in measures.items()} | gradients(objective, Ranks())


if __name__ == "__main__":
    group = distributed.start(sys.argv[2] if len(sys.argv) > 2 else "gloo")
    found = by_groups(built(group), micro_batches(whole_batch(), group), group)
    save_file(found, Path(sys.argv[1]) / f"{group.rank}.safetensors")
    distributed.stop()
