"""What stored features are of: an encoder, and the pixels it gets. What would change them changes the key."""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from vglm_train.config.run import Config
from vglm_train.image import Decoder

# Of the files and of how pictures become pixels, by data.image.decoder; 1 knew neither deep pictures nor other formats
VERSIONS: dict[Decoder | None, int] = {None: 2, "pillow": 2, "turbo": 3}


class Encoder(Protocol):
    """A frozen image encoder whose output is [n, num_patches, width] of `dtype`."""

    width: int
    num_patches: int
    dtype: torch.dtype

    @property
    def fused(self) -> int: ...

    @property
    def fp8(self) -> int: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that a stored row depends on, but the picture and the number of its view."""

    encoder: str  # fingerprint of architecture and weights
    tokens: int  # p
    width: int  # c
    dtype: str
    size: int  # side of the square that the encoder sees
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_scale: tuple[float, float]
    flip: bool
    seed: int | None  # of the crops; None where there is one view, which has nothing random
    version: int  # one of VERSIONS
    fused: int = 0  # version of the GPU's fused kernels that computed it, which round in other places
    fp8: int = 0  # version of the products in eight bits that computed it
    squeeze: bool = True  # and `resize`, `resample`: as of data.image
    resize: int | None = None
    resample: str = "bicubic"

    @classmethod
    def of(cls, config: Config, encoder: Encoder, fingerprint: str) -> Self:
        """Of data.image's pixels as `encoder` sees them; data.features must be given."""
        assert config.data.features is not None
        image = config.data.image
        return cls(
            encoder=fingerprint,
            tokens=encoder.num_patches,
            width=encoder.width,
            dtype=str(encoder.dtype).removeprefix("torch."),
            size=config.model.vision.image_size,
            mean=image.mean,
            std=image.std,
            crop_scale=image.crop_scale,
            flip=image.flip,
            seed=config.run.seed if config.data.features.views > 1 else None,
            version=VERSIONS[image.decoder],
            fused=encoder.fused,
            fp8=encoder.fp8,
            squeeze=image.squeeze,
            resize=image.resize,
            resample=image.resample,
        )

    @property
    def key(self) -> str:
        """Name of the folder."""
        return hashlib.sha256(self.json().encode()).hexdigest()[:16]

    def json(self) -> str:
        """What holds, in words. What has a default stands only where it is another, so that stores keep their keys."""
        usual = {field.name: field.default for field in fields(self)}
        said = {name: value for name, value in asdict(self).items() if value != usual[name]}
        return json.dumps(said, indent=2, sort_keys=True) + "\n"

    def crop(self, digest: bytes, view: int) -> random.Random:
        """The random numbers of the crop of view `view` of a picture; with one view the crop is fixed."""
        text = f"{self.seed} {view} ".encode() + digest
        return random.Random(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()))


def holds_older(root: Path, kernels: int) -> bool:
    """Whether a folder holds features of pictures that Pillow decoded and resized, which can still be used.

    kernels: the version of a GPU's fused kernels; features of earlier ones are made anew whatever the decoder.
    """
    every = (said for _, said in _said(root))
    return any(said.get("version") == VERSIONS["pillow"] and said.get("fused", kernels) == kernels for said in every)


def of_earlier_kernels(root: Path, identity: Identity) -> list[str]:
    """Names of the stores in a folder that only the version of a GPU's fused kernels tells from `identity`."""
    wanted = json.loads(identity.json())
    wanted.pop("fused", None)
    return [name for name, said in _said(root) if 0 < said.pop("fused", 0) != identity.fused and said == wanted]


def _said(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and identity of each store in a folder."""
    for path in sorted(root.glob("*/store.json")):
        try:
            said = json.loads(path.read_text("utf-8"))
        except ValueError:
            continue
        if isinstance(said, dict):
            yield path.parent.name, said


def encoder_fingerprint(encoder: Encoder) -> str:
    """SHA-256 of an encoder's modules as they print, and of the name, type, shape and bytes of each weight."""
    found = hashlib.sha256(str(encoder).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        assert isinstance(tensor, Tensor)
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def picture_digest(image: bytes) -> bytes:
    """Which picture an encoded file is: 16 bytes."""
    return hashlib.blake2b(image, digest_size=16).digest()
