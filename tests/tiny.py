"""The smallest model and batches that still exercise everything; used by the tests of several packages."""

import torch

from vglm_train.batch import PairBatch
from vglm_train.config.data import Data, Source
from vglm_train.config.model import Model, QFormer, Text, Vision
from vglm_train.config.run import Config, Engine, Length, Optim, Run
from vglm_train.model.alignment import Alignment, build_alignment

VOCABULARY, PAD, CLS, SEP, DEC = 50, 0, 2, 3, 49

MODEL = Model(
    vision=Vision(image_size=16, patch=8, width=24, depth=1, heads=2, mlp_width=48, dtype="fp32"),
    qformer=QFormer(
        layers=2, width=32, heads=2, mlp_width=48, queries=4, positions=16, dropout=0.0, vocabulary=VOCABULARY
    ),
    text=Text(max_length=8),
    contrastive_width=16,
)


def config(**sections) -> Config:
    """A run of 8 rows a step on the CPU; sections replace the defaults."""
    defaults = {
        "run": Run(name="tiny", length=Length(steps=6)),
        "model": MODEL,
        "data": Data(train=(Source(name="a", shards="nowhere"),), global_batch=8, workers=0),
        "optim": Optim(lr=1e-3, warmup=Length(steps=2)),
        "engine": Engine(precision="fp32", backend="gloo"),
    }
    return Config(**{**defaults, **sections})


def alignment(seed: int = 0, model: Model = MODEL) -> Alignment:
    torch.manual_seed(seed)
    return build_alignment(model, VOCABULARY, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def batch(first_row: int, rows: int, seed: int = 0) -> PairBatch:
    """Rows `first_row` ... of an endless stream of random pairs with unequal text lengths, the same for any split."""
    pixels, ids, lengths = [], [], []
    for row in range(first_row, first_row + rows):
        generator = torch.Generator().manual_seed(1000 * seed + row)
        pixels.append(torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator))
        lengths.append(int(torch.randint(3, 9, (), generator=generator)))
        words = torch.randint(4, DEC, (8,), generator=generator)
        words[0], words[lengths[-1] - 1] = CLS, SEP
        ids.append(words)
    mask = torch.arange(8)[None] < torch.tensor(lengths)[:, None]
    return PairBatch(
        pixels=torch.stack(pixels),
        text_ids=torch.stack(ids).where(mask, PAD),
        text_mask=mask,
        image_ids=torch.arange(first_row, first_row + rows) % 29,
        valid=torch.ones(rows, dtype=torch.bool),
        first_row=first_row,
    )
