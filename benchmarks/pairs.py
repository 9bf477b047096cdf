"""A stream of 330 million pairs: `python -m benchmarks.pairs`.

Chinese and English at equal weight, as VisualGLM was pretrained: a tenth of the shards is Chinese. One tar of each
language is written, with its index, and lies under the names of all shards (hard links), so every file that a manifest
lists can be read. What is measured is what a run does, in processes of their own:

start    seconds from reading the manifests to the first batch, the comparison of the inputs with a checkpoint included,
         and how much memory grows over what the imports take; the same with a tenth of the shards
resumes  the 1,000 samples after places drawn at random, beside what a walk over all places says
shares   how far the share of each language is from one half, over that walk
check    seconds of `vglm train --check` with VisualGLM's configuration of stage one and these shards
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.record import record
from benchmarks.stream import memory, write_source
from vglm_train.checkpoint.inputs import gather_inputs
from vglm_train.config.data import Data, Source
from vglm_train.config.data import Image as Augmentation
from vglm_train.config.model import Model, Text, Vision
from vglm_train.config.run import Config, Log, Run
from vglm_train.data import loader
from vglm_train.data.processors import PairProcessor
from vglm_train.data.sampling.mixture import Mixture, build_mixture
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.splits import read_manifests
from vglm_train.distributed import Ranks
from vglm_train.prompt.qformer_text import build_text

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"chinese": ("zh", "照片"), "english": ("en", "a photo")}
BATCH = 250
FROM = 200_000_000  # where the walk begins: Chinese is in its fourth epoch, English in its first
AFTER = 1000  # samples that are compared after a place
TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "照", "片")


@dataclass(frozen=True, slots=True)
class Start:
    """What a process found that began to read the stream somewhere. MiB grown: over what the imports take."""

    keys: tuple[str, ...]  # of the samples in order: source/shard/key
    plan_s: float  # manifests, all files looked for, the order
    inputs_s: float  # what a checkpoint compares
    first_batch_s: float  # from the beginning
    seconds: float  # until all keys were there
    main_mib: float
    worker_mib: float  # 0 without workers


def pictures(number: int, different: int = 64) -> Iterator[bytes]:
    """So many JPEGs of 256 px."""
    rng, made = np.random.default_rng(0), []
    for _ in range(min(number, different)):
        image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((256, 256))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=85)
        made.append(out.getvalue())
    return (made[index % different] for index in range(number))


def write(folder: Path, shards: int, samples: int) -> None:
    """Both sources, beside each manifest one of a tenth of its shards, and a vocabulary."""
    folder.joinpath("vocab.txt").write_text("\n".join(TOKENS) + "\n", "utf-8")
    for name, (language, text) in SOURCES.items():
        names = shards // 11 if language == "zh" else shards - shards // 11
        source = write_source(folder / name, pictures(samples), names, text, language)
        whole = Manifest.read(source)
        few = max(1, names // 10)
        Manifest(source / "tenth.json", whole.shards[:few], {"captions": {language: few * samples}}).write()


def configuration(folder: Path, manifest: str, workers: int) -> Config:
    train = tuple(Source(name=name, shards=str(folder / name / manifest), weight=1) for name in SOURCES)
    image = Augmentation(crop_scale=(0.5, 1.0))
    data = Data(train=train, languages=("zh", "en"), global_batch=BATCH, workers=workers, image=image)
    model = Model(vision=Vision(image_size=224), text=Text(tokenizer=str(folder / "vocab.txt"), processor="plain"))
    return Config(run=Run(name="pairs"), data=data, model=model, log=Log(samples=True))


def read(folder: Path, manifest: str, first: int, samples: int, workers: int) -> Start:
    """Read so many samples from position `first` on, as a run that begins or continues there does."""
    config = configuration(folder, manifest, workers)
    processor = PairProcessor(build_text(config.model.text, config.data.languages), config.data.languages)
    before, began = memory(psutil.Process())[0], time.perf_counter()  # all that is imported is imported
    manifests = read_manifests(config)
    compared = time.perf_counter()
    gather_inputs(config, manifests, dict, Ranks())
    planned = time.perf_counter()
    batches = loader.build(config, processor, Ranks(), manifests).batches(first)
    keys = list(next(batches).keys)
    first_batch = time.perf_counter()
    for batch in islice(batches, -(-samples // BATCH) - 1):
        keys += batch.keys
    ended = time.perf_counter()
    inside = [memory(child)[0] for child in psutil.Process().children()]
    grown = memory(psutil.Process())[0] - before, max(inside, default=before) - before
    batches.close()
    seconds = compared - began, planned - compared, first_batch - began, ended - began
    return Start(tuple(keys[:samples]), *seconds, *grown)


def apart(folder: Path, manifest: str, first: int, samples: int, workers: int) -> Start:
    """`read` in a process of its own."""
    words = ["--folder", str(folder), "--manifest", manifest, "--first", str(first), "--read", str(samples)]
    command = [sys.executable, "-m", "benchmarks.pairs", *words, "--workers", str(workers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a process that reads the stream ended with {done.returncode}:\n{done.stderr}")
    content = json.loads(done.stdout.splitlines()[-1])
    return Start(**{**content, "keys": tuple(content["keys"])})


def places(draws: int, number: int) -> list[int]:
    """So many of the walk's whole steps behind which it goes on for AFTER samples."""
    return sorted(FROM + BATCH * each for each in random.Random(0).sample(range((draws - AFTER) // BATCH + 1), number))


def walk(mixture: Mixture, draws: int, stops: Sequence[int]) -> tuple[dict[str, int], list[list[str]]]:
    """Over `draws` positions from FROM on: samples of each source, and the keys of those behind each stop."""
    counts, wanted = dict.fromkeys(SOURCES, 0), {stop + number: "" for stop in stops for number in range(AFTER)}
    for position in range(FROM, FROM + draws):
        sample = mixture.at(position)
        counts[sample.source] += 1
        if position in wanted:
            wanted[position] = f"{sample.source}/{sample.shard.name}/{sample.nth:06d}"
    return counts, [[wanted[stop + number] for number in range(AFTER)] for stop in stops]


def check(folder: Path) -> float:
    """Seconds of `vglm train --check` of VisualGLM's stage one with these shards."""
    text = (ROOT / "configs/pretrain/visualglm_stage1.yaml").read_text("utf-8")
    for name in SOURCES:
        text = text.replace(f"shards/{name}", str(folder / name))
    config = folder / "visualglm_stage1.yaml"
    config.write_text(text, "utf-8")
    began = time.perf_counter()
    command = [sys.executable, "-m", "vglm_train.train", str(config), "--check", f"run.folder={folder / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or " pairs an epoch" not in done.stdout:
        raise SystemExit(f"--check ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


def start(folder: Path, samples: int, workers: int) -> None:
    for manifest in ("tenth.json", "manifest.json"):
        begun = apart(folder, manifest, 0, samples, workers)
        pairs = sum(Manifest.read(folder / name / manifest).samples for name in SOURCES)
        print(f"start, {pairs:,} pairs: {_words(begun)}", flush=True)
        whole = manifest == "manifest.json"
        values = {key: value for key, value in asdict(begun).items() if key != "keys"}
        record("start" if whole else "start, a tenth", f"{samples} samples, {workers} workers", values=values)


def resumes(folder: Path, draws: int, number: int, workers: int) -> None:
    stops, config = places(draws, number), configuration(folder, "manifest.json", workers)
    mixture = build_mixture(config.data, read_manifests(config), config.run.seed)
    began = time.perf_counter()
    counts, expected = walk(mixture, draws, stops)
    microseconds = 1e6 * (time.perf_counter() - began) / draws
    error = max(abs(count / draws - 1 / len(SOURCES)) for count in counts.values())
    print(f"shares: {counts} of {draws:,}, at most {error:.1e} from equal; {microseconds:.1f} us a draw")
    record("shares", f"{draws} draws", values={"error": error, "us_a_draw": microseconds})
    found = [apart(folder, "manifest.json", stop, AFTER, workers) for stop in stops]
    same = sum(list(one.keys) == keys for one, keys in zip(found, expected, strict=True))
    slowest = max(found, key=lambda one: one.seconds)
    print(f"resumes: {same} of {number} gave the same {AFTER} samples; the slowest: {_words(slowest)}")
    values = {"same": float(same), "of": float(number), "first_batch_s": max(one.first_batch_s for one in found)}
    record("resumes", f"{AFTER} samples each, {workers} workers", values={**values, "seconds": slowest.seconds})
    if same < number:
        raise SystemExit("a resume read other samples than the walk")


def _words(begun: Start) -> str:
    return (
        f"plan {begun.plan_s:.2f} s, inputs {begun.inputs_s:.2f} s, first batch after {begun.first_batch_s:.2f} s, "
        f"{len(begun.keys):,} samples after {begun.seconds:.2f} s; memory grew by {begun.main_mib:.0f} MiB, a worker's "
        f"by {begun.worker_mib:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.pairs", description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, default=33_000, help="a tenth of them Chinese (default %(default)s)")
    parser.add_argument("--samples", type=int, default=10_000, help="of a shard (default %(default)s)")
    parser.add_argument("--draws", type=int, default=10_000_000, help="of the walk (default %(default)s)")
    parser.add_argument("--resumes", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="read a stream that was written there, and print a Start")
    parser.add_argument("--manifest", default="manifest.json", help="of --folder")
    parser.add_argument("--first", type=int, default=0, help="position of --folder's stream")
    parser.add_argument("--read", type=int, default=AFTER, help="samples of --folder's stream")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.folder:
        print(json.dumps(asdict(read(args.folder, args.manifest, args.first, args.read, args.workers))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, args.shards, args.samples)
        start(folder, 5 * AFTER, args.workers)
        seconds = check(folder)
        print(f"--check: {seconds:.1f} s", flush=True)
        record("--check", "configs/pretrain/visualglm_stage1.yaml, once", values={"seconds": seconds})
        resumes(folder, args.draws, args.resumes, args.workers)


if __name__ == "__main__":
    main()
