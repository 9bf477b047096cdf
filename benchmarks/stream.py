"""Speed, memory and start of the data stream: `python -m benchmarks.stream [decode | workers | start]`.

decode  samples a second of one core's time with each of data.image.decoder, against a plain webdataset and PIL pipeline
        (`plain` below) over the same shards. The photos are those of a folder, shrunk to a short side of 256 and 375
        pixels, and enlarged with grain. `--generated` makes photos of noise instead.
workers samples a second of the whole loader with so many workers, with each of data.image.decoder.
start   a generated manifest of 10,000 shards and 10 million records (one shard under 10,000 names): time from reading
        the manifest to the first batch, and memory of the loader workers at its start and after many shards.
"""

import argparse
import hashlib
import io
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import torch
import webdataset
from PIL import Image, ImageFilter
from torch import Tensor

from benchmarks.record import record
from vglm_train.config.data import Data, Source
from vglm_train.config.data import Image as Augmentation
from vglm_train.config.model import Model, Text, Vision
from vglm_train.config.run import Config, Run
from vglm_train.data import loader
from vglm_train.data.processors import PairProcessor
from vglm_train.data.sample import read_sample
from vglm_train.data.shards.index import make_index, write_index
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.shards.shard import Shard
from vglm_train.distributed import Ranks
from vglm_train.image import Decoder
from vglm_train.prompt.qformer_text import build_text

PHOTOS = Path(__file__).resolve().parents[1] / "../shared/data/flickr/images"
SIZE, SCALE = 224, (0.5, 1.0)
DECODERS: tuple[Decoder, ...] = ("pillow", "turbo")
MEAN, STD = torch.tensor(Augmentation().mean).view(3, 1, 1), torch.tensor(Augmentation().std).view(3, 1, 1)


def plain(shard: Path) -> Iterator[Tensor]:
    """What one writes without this project: decode, random crop, bicubic resize, mirror, float, normalise."""

    def pixels(image: Image.Image) -> Tensor:
        for _ in range(10):
            area = image.width * image.height * random.uniform(*SCALE)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w <= image.width and h <= image.height:
                break
        else:
            w = h = min(image.width, image.height)
        left, top = random.randint(0, image.width - w), random.randint(0, image.height - h)
        image = image.crop((left, top, left + w, top + h)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        array = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (array - MEAN) / STD

    dataset = webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False).decode("pilrgb")
    for image, _ in dataset.to_tuple("jpg", "json"):
        yield pixels(image)


def pictures(folder: Path | None, number: int) -> Iterator[Image.Image]:
    """Those of a folder, or such as have about the detail of photos, of noise at several scales."""
    if folder is not None:
        yield from (Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))[:number])
        return
    rng = np.random.default_rng(1)
    for _ in range(number):
        total = np.zeros((375, 500, 3), np.float32)
        for cell, strength in ((100, 60), (25, 40), (6, 20), (2, 8)):
            noise = rng.normal(128, 50, (375 // cell + 2, 500 // cell + 2, 3)).clip(0, 255).astype(np.uint8)
            layer = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
            total += (np.asarray(layer, np.float32) - 128) * (strength / 50)
        yield Image.fromarray((128 + total).clip(0, 255).astype(np.uint8)).filter(ImageFilter.SHARPEN)


def photos(folder: Path | None, number: int, short: int, grain: float) -> Iterator[bytes]:
    """JPEGs of a short side of `short` pixels, with noise of `grain` levels where they are enlarged."""
    rng = np.random.default_rng(0)
    for picture in pictures(folder, number):
        factor = short / min(picture.size)
        image = picture.resize(
            (round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC
        )
        if grain:
            noise = rng.normal(0, grain, (image.height, image.width, 1)).astype(np.float32)
            image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=92)
        yield out.getvalue()


def write_source(folder: Path, images: Iterator[bytes], names: int = 1, text: str = "a photo", language="en") -> Path:
    """One shard of the images with its index, under so many names, and the manifest. `text`: of the captions."""
    folder.mkdir()
    first = folder / "shard-000000.tar"
    samples = 0
    with webdataset.TarWriter(str(first)) as tar:
        for number, image in enumerate(images):
            record = {"id": str(number), "image_id": number, "captions": {language: [f"{text} {number}"]}}
            tar.write({"__key__": f"{number:06d}", "jpg": image, "json": json.dumps(record).encode()})
            samples += 1
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    write_index(first, make_index(first), digest)
    shards = []
    for number in range(names):
        path = folder / f"shard-{number:06d}.tar"
        if number:
            path.hardlink_to(first)
            path.with_suffix(".idx").hardlink_to(first.with_suffix(".idx"))
        shards.append(Shard(path.name, path, samples, first.stat().st_size, digest, {language: samples}))
    Manifest(folder / "manifest.json", tuple(shards), {"captions": {language: samples * names}}).write()
    return folder


def stream(source: Path, batch: int, workers: int, decoder: Decoder = "turbo") -> loader.Loader:
    """The project's loader, as a run of one process builds it."""
    vocabulary = source.parent / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo"]) + "\n")
    text = Text(tokenizer=str(vocabulary), processor="plain")
    data = Data(
        train=(Source(name="photos", shards=str(source)),),
        global_batch=batch,
        workers=workers,
        image=Augmentation(crop_scale=SCALE, decoder=decoder),
    )
    config = Config(run=Run(name="stream"), data=data, model=Model(vision=Vision(image_size=SIZE), text=text))
    return loader.build(config, PairProcessor(build_text(text, ("en",)), ("en",)), Ranks())


def decode(folder: Path | None, number: int, rounds: int) -> None:
    print(f"samples a second of one core's time, median of {rounds} rounds")
    print(f"{'short side':>10} {'plain':>9} {'pillow':>9} {'turbo':>9} {'turbo/plain':>12} {'turbo/pillow':>12}")
    with tempfile.TemporaryDirectory() as temporary:
        for short, grain in ((256, 0.0), (375, 0.0), (1333, 4.0), (2000, 4.0), (3000, 4.0)):
            count = number if short < 1000 else max(8, number // 8)
            source = write_source(Path(temporary) / str(short), photos(folder, count, short, grain))
            measured = [_rates(source) for _ in range(rounds)]
            first, old, new = (statistics.median(column) for column in zip(*measured))
            print(f"{short:10} {first:9.1f} {old:9.1f} {new:9.1f} {new / first:12.2f} {new / old:12.2f}", flush=True)
            values = {"plain_per_s": first, "pillow_per_s": old, "times_plain": new / first, "times_pillow": new / old}
            method = f"median of {rounds} rounds of {count} photos, processor time of one core"
            record(f"short side {short}", method, samples_per_s=new, values=values)


def _rates(source: Path) -> list[float]:
    """Of `plain`, pillow and turbo, one after the other, so that other load on the machine affects all."""
    began = time.process_time()
    samples = sum(1 for _ in plain(source / "shard-000000.tar"))
    seconds = [time.process_time() - began]
    for decoder in DECODERS:
        dataset = stream(source, samples, 0, decoder).dataset
        began = time.process_time()
        for row in range(samples):
            read_sample(dataset.reader, dataset.mixture.at(row), dataset.builder)
        seconds.append(time.process_time() - began)
    return [samples / each for each in seconds]


def together(folder: Path | None, number: int, workers: int) -> None:
    print(f"samples a second of the loader with {workers} workers, batches of 100")
    with tempfile.TemporaryDirectory() as temporary:
        for short in (256, 375):
            source = write_source(Path(temporary) / str(short), photos(folder, number, short, 0.0), names=20)
            for decoder in DECODERS:
                batches = stream(source, 100, workers, decoder).batches(0)
                for _ in range(4 * workers):  # those that stand ready
                    next(batches)
                began = time.perf_counter()
                for _ in range(20 * workers):
                    next(batches)
                rate = 2000 * workers / (time.perf_counter() - began)
                batches.close()
                print(f"{short:10} {decoder:>8} {rate:9.1f}", flush=True)


def start(folder: Path | None, shards: int, batches: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        images = list(islice(photos(folder, 50, 32, 0.0), 50)) * 20
        for names in (10, shards):
            source = write_source(Path(temporary) / str(names), iter(images), names)
            began = time.perf_counter()
            made = stream(source, 256, workers)
            read = time.perf_counter() - began
            iterator = made.batches(0)
            next(iterator)
            first = time.perf_counter() - began
            before = [memory(child) for child in psutil.Process().children()]
            for _ in range(batches):
                next(iterator)
            after = [memory(child) for child in psutil.Process().children()]
            iterator.close()
            print(
                f"{names} shards, {made.epoch_samples:,} records: plan {read:.2f} s, first batch after {first:.2f} s; "
                f"a worker's RSS / own memory in MiB: {worst(before)} at first, {worst(after)} "
                f"after {batches} batches of 256",
                flush=True,
            )
            values = {"plan_s": read, "first_batch_s": first}
            for when, sizes in (("at_first", before), ("afterwards", after)):
                rss, own = (max(column) for column in zip(*sizes))
                values |= {f"worker_mib_{when}": rss, f"worker_own_mib_{when}": own}
            record(f"{names} shards", f"one start, and {batches} batches of 256", values=values)


def memory(process: psutil.Process) -> tuple[float, float]:
    """Resident memory with what is shared with the parent (its libraries), and without, in MiB."""
    memory_info = process.memory_full_info()
    return memory_info.rss / 2**20, memory_info.uss / 2**20


def worst(values: list[tuple[float, float]]) -> str:
    return " / ".join(f"{max(column):.0f}" for column in zip(*values))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.stream", description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=("decode", "workers", "start"), help="default: all")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of JPEGs")
    parser.add_argument("--generated", action="store_true", help="photos of noise instead")
    parser.add_argument("--number", type=int, default=200, help="photos of the smallest size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = None if arguments.generated else arguments.photos
    if folder is not None and not any(folder.glob("*.jpg")):
        parser.error(f"--photos {folder}: there is no *.jpg in it; name another folder, or take --generated")
    if arguments.what in (None, "decode"):
        decode(folder, arguments.number, arguments.rounds)
    if arguments.what in (None, "workers"):
        together(folder, arguments.number, arguments.workers)
    if arguments.what in (None, "start"):
        start(folder, arguments.shards, arguments.batches, arguments.workers)


if __name__ == "__main__":
    main()
