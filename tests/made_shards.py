"""Real shards, small and made on the fly: webdataset's writer, JPEGs whose colour tells the sample."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from webdataset import TarWriter

from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.shards.shard import Shard

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "number", "第", "张", "照", "片"]


def jpeg(number: int, size: tuple[int, int] = (40, 32)) -> bytes:
    """A gradient over a colour that depends on the number."""
    y, x = np.mgrid[: size[1], : size[0]]
    planes = [(37 * number + 3 * x) % 256, (91 * number + 5 * y) % 256, np.full_like(x, 53 * number % 256)]
    out = io.BytesIO()
    Image.fromarray(np.stack(planes, 2).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def sample(number: int, **members: Any) -> dict[str, Any]:
    """Sample `number` as the writer takes it, its image_id is the number; `members` replace or (None) drop."""
    record = {
        "id": str(number),
        "image_id": number,
        "captions": {"en": [f"a photo number {number}", f"photo {number}"], "zh": [f"第{number}张照片"]},
    }
    whole = {"__key__": f"{number:06d}", "jpg": jpeg(number), "json": json.dumps(record).encode()} | members
    return {name: value for name, value in whole.items() if value is not None}


def write_shard(path: Path, samples: Sequence[dict[str, Any]]) -> None:
    with TarWriter(str(path)) as writer:
        for each in samples:
            writer.write(each)


def write_manifest(folder: Path, counts: dict[str, int], **extra: Any) -> Manifest:
    """A manifest of the files as they are now."""
    shards = []
    for name, samples in counts.items():
        content = (folder / name).read_bytes()
        shards.append(Shard(name, folder / name, samples, len(content), hashlib.sha256(content).hexdigest()))
    manifest = Manifest(folder / "manifest.json", tuple(shards), extra)
    manifest.write()
    return manifest


def write_source(folder: Path, counts: Sequence[int], first: int = 0, **extra: Any) -> Path:
    """Shards of so many samples, numbered through from `first`, with their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, count in enumerate(counts):
        write_shard(folder / f"shard-{index:06d}.tar", [sample(first + n) for n in range(count)])
        first += count
    write_manifest(folder, {f"shard-{index:06d}.tar": count for index, count in enumerate(counts)}, **extra)
    return folder
