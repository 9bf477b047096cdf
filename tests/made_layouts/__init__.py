"""Small data sets in the layouts that published ones have, each with what its rows say. Pictures are `made_shards`'."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from made_layouts import archives, captions, dialogues, questions
from made_layouts.base import Made, Said, put
from vglm_train.config.data import Fields

__all__ = ["LAYOUTS", "Made", "Said", "put", "words"]


def words(made: Made) -> list[str]:
    """The table and its options as a command line has them."""
    found = [str(made.table)]
    for name, value in made.options.items():
        if isinstance(value, Fields):
            named = {part.name: getattr(value, part.name) for part in fields(value)}
            found += [word for what, key in named.items() if key is not None for word in ("--field", f"{what}={key}")]
        else:
            found += [f"--{name.replace('_', '-')}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return found


LAYOUTS: dict[str, Callable[[Path], Made]] = {
    make.__name__: make
    for make in (
        questions.vqav2, questions.okvqa, questions.aokvqa, questions.gqa, questions.textvqa,
        captions.karpathy, captions.flickr30k_karpathy, captions.flickr30k_csv, captions.flickr30k_token,
        archives.img2dataset, archives.one_tar, archives.tars_by_pattern, archives.parquet,
        archives.img2dataset_files, captions.r2gen, questions.vqa_rad, questions.slake, dialogues.llava,
        dialogues.llava_med, dialogues.swift, dialogues.sharegpt, dialogues.alpaca, captions.lavis,
        captions.aic, captions.chinese_clip, captions.muge, captions.coco, captions.captions_by_name,
        captions.imageclef, questions.pmc_vqa,
    )
}  # fmt: skip
