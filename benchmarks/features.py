"""Stored features against the image encoder at full size: `python -m benchmarks.features`.

align     stage one: EVA ViT-g/14 and BERT-base Q-Former, 100 pairs a step.
generate  stage two: the same before OPT-2.7B, 128 images of 64 tokens a step.

Weights and features are random. Without stored features a step's pictures lie on the device already, so nothing of
reading and decoding is counted; with them everything is: a store in FOLDER, its checksums, loader workers, the copy to
the device. The pictures' files, 100 KB each, are read and hashed as in training. Both steps are the engine's. The ratio
printed at the end compares the fastest variants of both.
"""

import argparse
import gc
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import stage1, stream
from benchmarks.rates import product_rate
from benchmarks.stage1 import HEADER, measure
from vglm_train import distributed
from vglm_train.batch import IGNORED, Batch, PromptBatch, target_places
from vglm_train.config.data import Data, Features, Image
from vglm_train.config.language import Language
from vglm_train.config.model import Model
from vglm_train.config.run import Config, Optim, Run
from vglm_train.data.features.identity import Identity, picture_digest
from vglm_train.data.features.store import FeatureStore, Writer, row_key
from vglm_train.distributed import Ranks
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.engine.device_prefetch import DevicePrefetch
from vglm_train.model.flops import flops_per_pair, generation_cost, vision_flops
from vglm_train.model.vision import VisionEncoder
from vglm_train.model.visual import VisualModel
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language
from vglm_train.objective.base import Objective
from vglm_train.objective.generation import GenerationObjective

ROOT = Path(__file__).resolve().parents[1]
OPT = Language(family="causal", config=str(ROOT / "configs/language/opt-2.7b"), tokenizer="unused")
TINY_LANGUAGE = Language(tokenizer="unused", layers=2, width=32, heads=2, mlp_width=64, vocabulary=200)
SOP = 190  # of the toy
TEXT, BEFORE = 32, 1  # tokens of text, and how many of them are no targets (</s>)
TARGETS = {"align": 2.3, "generate": 1.4}  # least ratios that are wanted
ROWS = {"align": 100, "generate": 128}
BATCHES = 6  # of rows in the store
FILE_BYTES = 100_000

Step = Callable[[Batch], None]
ReadingStep = Callable[..., None]  # of a batch, and of what to look ahead in


def build(stage: str, tiny: bool, ranks: Ranks) -> tuple[Objective, Model]:
    """The stage's objective with random weights, and its shapes."""
    config = stage1.TINY if tiny else stage1.FULL
    if stage == "align":
        return stage1.build_objective(config, ranks.device, compiled=False), config
    config = replace(config, language=TINY_LANGUAGE if tiny else OPT)
    torch.manual_seed(0)
    with ranks.device:
        model = build_visual_language(config, Image().mean, Image().std, sop_id=SOP)
    return GenerationObjective(model).train(), config


def batches(stage: str, config: Model, rows: int, device: torch.device) -> Sequence[Batch]:
    """Random pictures and text on the device."""
    if stage == "align":
        return stage1.batches(config, rows, 2, device)
    tokens, q = config.qformer.queries + TEXT, config.qformer.queries
    ids = torch.randint(5, SOP, (rows, tokens), device=device)
    ids[:, q + BEFORE] = SOP
    size = config.vision.image_size
    labels = ids.where(torch.arange(tokens, device=device) >= q + BEFORE, IGNORED)
    return [
        PromptBatch(
            pixels=torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8, device=device),
            valid=torch.ones(rows, dtype=torch.bool, device=device),
            input_ids=ids,
            attention_mask=torch.ones_like(ids, dtype=torch.bool),
            visual_mask=(torch.arange(tokens, device=device) < q).expand_as(ids).contiguous(),
            labels=labels,
            targets=target_places(labels, apart=False),
        )
    ]


def cost(stage: str, objective: Objective, config: Model) -> tuple[float, float]:
    """Floating point operations of one row's step, and those of the image encoder among them."""
    image = vision_flops(config.vision)
    if stage == "align":
        return flops_per_pair(config, stage1.VOCABULARY), image
    assert isinstance(objective.model, VisualLanguageModel)
    q = config.qformer.queries
    tokens = {"visual": q, "sequence": q + TEXT, "target": TEXT - BEFORE}
    return generation_cost(config, objective.model).of(1, tokens), image


def engine_step(objective: Objective, rows: int, ranks: Ranks) -> ReadingStep:
    """What train.py runs: DeepSpeed with ZeRO 1, gradients clipped. `ahead`: what is read while the device computes."""
    config = Config(run=Run(name="benchmark"), optim=Optim(clip=1.0), data=Data(global_batch=rows))
    engine = DeepSpeedEngine(objective, config, 1, ranks)

    def factors(batch: Batch) -> dict[str, torch.Tensor]:
        return {name: objective.weights[name] / count for name, count in objective.units(batch).items()}

    def step(batch: Batch, ahead: DevicePrefetch | None = None) -> None:
        engine.step([batch], lambda: [factors(batch)], 1e-4, ahead and ahead.look_ahead)

    return step


def write_store(folder: Path, config: Model, vision: VisionEncoder, rows: int, device: torch.device) -> FeatureStore:
    """Files in place of pictures, in a shard, and random features for each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = [rng.bytes(FILE_BYTES) for _ in range(rows * BATCHES)]
    stream.write_source(folder / "pictures", iter(files))
    data = Data(features=Features(folder=str(folder)), image=Image(crop_scale=(1.0, 1.0), flip=False))
    whole = Config(run=Run(name="benchmark"), model=config, data=data)
    store = FeatureStore(folder / "features", Identity.of(whole, vision, "random"), 1)
    with Writer(store) as writer:
        for start in range(0, len(files), rows):
            keys = [row_key(picture_digest(file), 0) for file in files[start : start + rows]]
            made = torch.randn(len(keys), *store.shape, device=device).to(store.dtype)
            writer.add(np.array(keys, "S20"), made.cpu())
    store.refresh()
    return store


def stored(folder: Path, store: FeatureStore, rows: int, workers: int, ranks: Ranks) -> Generator[Batch]:
    """Endless batches with features [rows,p,c] as the training stream gives them."""
    loader = stream.stream(folder / "pictures", rows, workers)
    loader.pin = ranks.device.type == "cuda"
    loader.use_features(store)
    return loader.batches(0)


def in_memory() -> Path | None:
    """A folder in memory with space for a store and the loader workers' batches; None if there is none."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and shutil.disk_usage(shm).free > 4 * 2**30 else None


def features_of(batch: Batch) -> Tensor:
    assert batch.features is not None
    return batch.features


def run(stage: str, arguments: argparse.Namespace, folder: Path, ranks: Ranks) -> float:
    """Measure one stage; prints as it goes. The ratio of rates: stored to the fastest with the encoder."""
    rows, device = arguments.batch or ROWS[stage], ranks.device
    objective, config = build(stage, arguments.tiny, ranks)
    model = objective.model
    assert isinstance(model, VisualModel)
    assert isinstance(model.vision, VisionEncoder)
    data, rate = batches(stage, config, rows, device), product_rate(device)
    whole, image = cost(stage, objective, config)
    store = write_store(folder / stage, config, model.vision, rows, device)
    print(
        f"\n{stage}: {rows} rows a step, {(whole - image) / 1e9:.0f} GFLOP a row and {image / 1e9:.0f} of the encoder"
    )
    print(f"store: {store.row_bytes / 1e6:.2f} MB a picture, {len(store)} pictures in {folder}\n{HEADER}", flush=True)
    step = engine_step(objective, rows, ranks)
    on_device = model.encode_image(data[0].pixels)
    host = stored(folder / stage, store, rows, arguments.workers, ranks)
    reading = DevicePrefetch(host, device)
    empty = torch.empty(0, dtype=torch.uint8, device=device)

    def known(batch: Batch) -> None:
        step(replace(batch, pixels=empty, features=on_device))

    def read(batch: Batch) -> None:
        step(replace(batch, pixels=empty, features=features_of(next(reading))), reading)

    def report(name: str, variant: Step, flops: float) -> float:
        result = measure(name, variant, data, arguments.steps, rows * flops / rate)
        print(result.row(), flush=True)
        return result.seconds

    encoders, stores = [], []
    for how in ways(stage, model, device, arguments.compile):
        encoders.append(report(f"encoder{how}", step, whole))
        report(f"features on the device{how}", known, whole - image)
        stores.append(report(f"stored{how}", read, whole - image))
    alone = measure("reading alone", lambda _: features_of(next(reading)), data, arguments.steps, float("nan"))
    print(f"{'reading alone':32} {rows / alone.seconds:9.1f} {1e3 * alone.seconds:9.2f}")
    host.close()
    ratio = min(encoders) / min(stores)
    print(f"{stage}: {ratio:.2f} times as fast with stored features; wanted {TARGETS[stage]}, by arithmetic at most "
          f"{whole / (whole - image):.2f}", flush=True)  # fmt: skip
    return ratio


def ways(stage: str, model: VisualModel, device: torch.device, compiled: bool) -> Iterator[str]:
    """The ways to run a step, one after the other; each is set up when its name is yielded."""
    yield ""
    graphs = stage == "align" and device.type == "cuda"
    if graphs:
        model.graph_passes()
        yield ", graphs"
    if compiled:
        model.qformer.graphs = None
        model.compile_blocks()
        yield ", compiled"
    if graphs and compiled:
        model.graph_passes()
        yield ", compiled and graphs"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--stage", choices=("align", "generate"), help="default: both")
    parser.add_argument("--batch", type=int, help="rows a step")
    parser.add_argument("--steps", type=int, default=20, help="steps measured")
    parser.add_argument("--workers", type=int, default=6, help="loader workers")
    parser.add_argument(
        "--folder", type=Path, help="where the store is made, and deleted (default: memory, if there is space)"
    )
    parser.add_argument("--compile", action="store_true", help="measure compiled blocks of the Q-Former too")
    parser.add_argument("--tiny", action="store_true", help="a toy shape, to try the script")
    arguments = parser.parse_args(argv)
    ranks = distributed.start(grow=arguments.stage == "align")
    name = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory(dir=arguments.folder or in_memory()) as folder:
        for stage in [arguments.stage] if arguments.stage else ["align", "generate"]:
            run(stage, arguments, Path(folder), ranks)
            gc.collect()
            if ranks.device.type == "cuda":
                torch.cuda.empty_cache()
    distributed.stop()


if __name__ == "__main__":
    main()
