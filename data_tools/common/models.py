"""Bundles in the workers of data tools: how similar pictures and captions are, by a stage-one model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vglm_train.checkpoint.bundle.adapter import TENSORS
from vglm_train.checkpoint.bundle.format import TRAINED, ScaledAdapter, read_document
from vglm_train.checkpoint.bundle.read import Bundle, open_bundle
from vglm_train.config.data import Image as ImageSection
from vglm_train.distributed import use_gpu
from vglm_train.errors import UserError
from vglm_train.evaluate.retrieval.evaluator import Embedder
from vglm_train.files import lock, sha256

STAGES = {"align": "stage one", "generate": "stage two", "finetune": "a fine-tuning"}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which bundle with which adapters, and where what it only names has moved: a tower, a fine-tuning's bundle."""

    bundle: Path
    vision_weights: str | None = None
    language_weights: str | None = None
    base: Path | None = None
    adapters: tuple[ScaledAdapter, ...] = ()

    @property
    def name(self) -> str:
        """For a person: BUNDLE + ADAPTER:WEIGHT."""
        return " + ".join([str(self.bundle), *(f"{path}:{weight:g}" for path, weight in self.adapters)])


@dataclass(frozen=True, slots=True)
class Devices:
    """Where models run: a process has a CPU's share of cores, or a GPU of `gpus` for itself."""

    gpus: int
    processes: int
    locks: Path  # folder that tells processes which GPU is taken

    def take(self) -> torch.device:
        """This process's device, for as long as it lives."""
        if not self.gpus:
            torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // self.processes)))
            return torch.device("cpu")
        return torch.device("cuda", _take_gpu(self.locks, self.gpus))


def find_devices(workers: int, locks: Path) -> Devices:
    """All GPUs, one process each, or `workers` processes on the CPU."""
    gpus = torch.cuda.device_count() if use_gpu() else 0
    return Devices(gpus, min(workers, gpus) if gpus else workers, locks)


@lru_cache(maxsize=1)
def _take_gpu(locks: Path, gpus: int) -> int:
    """The first GPU that no other process of this run holds. The lock goes with the process."""
    for number in range(gpus):
        handle = os.open(locks / f"gpu-{number}", os.O_RDWR | os.O_CREAT)
        if lock(handle) is not False:
            return number
        os.close(handle)
    return 0


def check_stage(option: str, bundle: Path, *stages: str) -> None:
    """UserError where `bundle` is none, or of another stage than `option` wants; no weights are read."""
    found = read_document(bundle)["stage"]
    if found not in stages:
        wanted = " or ".join(STAGES[stage] for stage in stages)
        raise UserError(f"{option} {bundle}: a bundle of {STAGES[found]}; give one of {wanted}")


def fingerprint(model: ModelSpec) -> str:
    """Equal where a model's trained weights are."""
    trained = model.bundle / TRAINED
    own = sha256(trained if trained.exists() else model.bundle / TENSORS)
    added = [f"{sha256(path / TENSORS)}:{weight:g}" for path, weight in model.adapters]
    return " + ".join([own, *added])


@lru_cache(maxsize=2)
def loaded(model: ModelSpec, devices: Devices) -> tuple[Bundle, torch.device, bool]:
    """The bundle on this process's device, and whether to autocast; once a process."""
    device = devices.take()
    bundle = open_bundle(
        model.bundle,
        device,
        vision_weights=model.vision_weights,
        language_weights=model.language_weights,
        base=model.base,
        adapters=model.adapters,
    )
    return bundle, device, device.type == "cuda" and bundle.config.engine.precision == "bf16"


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores pairs of pictures and captions by a stage-one model. n pictures, m captions."""

    embedder: Embedder
    size: int  # of its pictures, in pixels
    image: ImageSection  # how its pixels are made
    languages: tuple[str, ...]

    def see(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [n,3,h,w] -> raw [n,p,c], for `match`, and features [n,q,e], for `similarity`."""
        return self.embedder.images(pixels)

    @torch.no_grad()
    def similarity(
        self, features: Tensor, owners: Sequence[int], captions: Sequence[str], language: str
    ) -> list[float]:
        """Caption k belongs to picture `owners[k]` -> ITC similarity [m], the best query's, from -1 to 1."""
        _, _, texts = self.embedder.texts(captions, language)
        rows = torch.tensor(owners, device=features.device)
        return torch.einsum("mqe,me->mq", features[rows], texts).amax(1).float().tolist()

    def match(self, raw: Tensor, owners: Sequence[int], captions: Sequence[str], language: str) -> list[float]:
        """The same pairs -> probability [m] that they match, by ITM."""
        ids, mask, _ = self.embedder.texts(captions, language)
        return self.embedder.match(raw, torch.tensor(owners), ids, mask).float().sigmoid().tolist()


def load_scorer(model: ModelSpec, devices: Devices) -> Scorer:
    """The judge of this process."""
    bundle, device, autocast = loaded(model, devices)
    size, data = bundle.config.model.vision.image_size, bundle.config.data
    embedder = Embedder(bundle.model, bundle.text, device, autocast)
    return Scorer(embedder, size, data.image, data.languages)
