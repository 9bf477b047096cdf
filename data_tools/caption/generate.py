"""New captions for a block of records, ranked with the old ones: what workers of `caption` run."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from data_tools.common.models import Devices, ModelSpec, Scorer, load_scorer, loaded
from data_tools.common.records import Block, RecordItem, moved, read_block
from vglm_train.config.language import Decoding
from vglm_train.data.record import RecordError
from vglm_train.evaluate.generator import Generator
from vglm_train.image import Decoder, eval_pixels

AT_ONCE = 16  # pictures captioned in one go


@dataclass(frozen=True, slots=True)
class CaptionSettings:
    """Everything that workers need. `keep`: captions of the language that stay; None: all."""

    generator: ModelSpec
    ranker: ModelSpec | None
    language: str
    samples: int
    keep: int | None
    decoding: Decoding
    out: Path
    devices: Devices

    def identity(self) -> dict[str, Any]:
        """What decides the captions, besides records and weights."""
        decoding = asdict(self.decoding)
        return {"language": self.language, "samples": self.samples, "keep": self.keep, "decoding": decoding}


@dataclass(slots=True)
class RankedCaption:
    """One candidate. `made`: by the generator."""

    text: str
    made: bool
    similarity: float | None = None


def caption_block(captioning: CaptionSettings, block: Block) -> bytes:
    """The block's records with their captions, as a part of `data_tools.common.results`."""
    lines: list[str] = []
    items = list(read_block(block))
    threads = max(1, 8 // captioning.devices.processes) if captioning.devices.gpus else 1
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), AT_ONCE):
            lines += _caption(captioning, items[start : start + AT_ONCE], pool)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def _caption(captioning: CaptionSettings, items: Sequence[RecordItem], pool: ThreadPoolExecutor) -> Iterator[str]:
    pictures = list(pool.map(_open, items))
    good = [(item, made) for item, made in zip(items, pictures) if isinstance(made, Image.Image)]
    found: dict[int, list[RankedCaption]] = {}
    if good:
        texts = _generated(captioning, good)
        for (item, _), new in zip(good, texts):
            found[item.row] = candidates(item, captioning.language, new)
        if captioning.ranker is not None:
            _rank(load_scorer(captioning.ranker, captioning.devices), captioning.language, good, found)
    for item, made in zip(items, pictures):
        origin = {"id": item.id, "place": item.where}
        if isinstance(made, RecordError):
            entry = {**origin, "what": "record", "rule": made.cause, "value": str(made)}
            yield json.dumps(["dropped", entry], ensure_ascii=False)
        else:
            yield from _outcome(captioning, item, found[item.row])


def _open(item: RecordItem) -> Image.Image | RecordError:
    try:
        item.record  # noqa: B018  (its RecordError is the answer)
        return item.picture()
    except RecordError as error:
        return error


def _generated(captioning: CaptionSettings, good: Sequence[tuple[RecordItem, Image.Image]]) -> list[list[str]]:
    """`samples` captions of each picture."""
    bundle, device, autocast = loaded(captioning.generator, captioning.devices)
    generator = Generator(bundle.model, bundle.template, bundle.config.prompt.questions, device, autocast)
    config = bundle.config
    pixels = _pixels(good, config.model.vision.image_size, config.data.image.decoder)
    made: list[list[str]] = [[] for _ in good]
    for sample in range(captioning.samples):
        decoding = replace(captioning.decoding, seed=_seed(captioning.decoding.seed, good[0][0].row, sample))
        for texts, text in zip(made, generator.captions(list(pixels[:, None]), captioning.language, decoding)):
            texts.append(" ".join(text.split()))
    return made


def _pixels(good: Sequence[tuple[RecordItem, Image.Image]], size: int, decoder: Decoder | None) -> Tensor:
    return torch.stack([eval_pixels(picture, size, decoder) for _, picture in good])


def _seed(seed: int, row: int, sample: int) -> int:
    """Depends on the row alone, so that a continued run writes what an undisturbed one writes."""
    digest = hashlib.blake2b(f"{seed}/{row}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 2


def candidates(item: RecordItem, language: str, made: Sequence[str]) -> list[RankedCaption]:
    """The record's own captions in the language, then new ones; each text once, none blank."""
    texts = {text: False for text in item.record.captions.get(language, ())}
    for text in made:
        if text:
            texts.setdefault(text, True)
    return [RankedCaption(text, new) for text, new in texts.items()]


def _rank(
    judging: Scorer,
    language: str,
    good: Sequence[tuple[RecordItem, Image.Image]],
    found: dict[int, list[RankedCaption]],
) -> None:
    """Give every candidate its similarity to the picture and sort the most similar first."""
    pairs = [(n, caption) for n, (item, _) in enumerate(good) for caption in found[item.row]]
    if not pairs:
        return
    _, features = judging.see(_pixels(good, judging.size, judging.decoder))
    texts = [caption.text for _, caption in pairs]
    for (_, caption), value in zip(pairs, judging.similarity(features, [n for n, _ in pairs], texts, language)):
        caption.similarity = round(value, 4)
    for captions in found.values():
        captions.sort(key=lambda caption: -(caption.similarity or 0.0))


def _outcome(captioning: CaptionSettings, item: RecordItem, captions: list[RankedCaption]) -> Iterator[str]:
    """The record with the captions that stay, and those of its own captions that go."""
    origin = {"id": item.id, "place": item.where}
    kept, lost = captions[: captioning.keep], captions[captioning.keep :] if captioning.keep else []
    for caption in lost:
        if not caption.made:
            entry = {**origin, "what": "caption", "rule": "ranked lower", "value": caption.similarity,
                     "language": captioning.language, "caption": caption.text}  # fmt: skip
            yield json.dumps(["dropped", entry], ensure_ascii=False)
    language, before = captioning.language, item.record.captions
    texts = {**{name: list(each) for name, each in before.items()}, language: [caption.text for caption in kept]}
    texts = {name: each for name, each in texts.items() if each}
    history = item.fields.get("provenance")
    provenance = dict(history) if isinstance(history, dict) else {}
    provenance[language] = {caption.text: _origin(captioning, caption) for caption in kept}
    record = moved(item, captioning.out, captions=texts, provenance=provenance)
    yield json.dumps(["kept", record], ensure_ascii=False)
    for caption in captions:
        if caption.similarity is not None:
            yield json.dumps(["score", ["made" if caption.made else "original", caption.similarity]])


def _origin(captioning: CaptionSettings, caption: RankedCaption) -> dict[str, Any]:
    """Where a caption comes from, and the similarity that it was ranked by."""
    origin: dict[str, Any] = {"by": captioning.generator.name if caption.made else "source"}
    return origin if caption.similarity is None else {**origin, "similarity": caption.similarity}
