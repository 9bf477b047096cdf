"""What is read: sources of shards, how a picture is cropped, how many rows make a step."""

from dataclasses import dataclass, field
from typing import Literal

Language = Literal["en", "zh"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A folder of shards with its manifest.json."""

    name: str
    shards: str  # folder that holds manifest.json, or the path of a manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """Augmentation and normalisation; the size is model.vision.image_size."""

    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip: bool = True  # off for X-rays and text: left is not right there
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    train: tuple[Source, ...] = ()
    validation: tuple[Source, ...] = ()
    languages: tuple[Language, ...] = ("en",)  # captions drawn at equal weight among these
    image: Image = field(default_factory=Image)
    global_batch: int = 1680
    workers: int = 4
    shuffle_shards: int = 16  # shards whose samples are permuted together
    max_damaged: float = 0.01  # fraction of samples read; above it the run stops
