"""Both stages on drawn scenes, in minutes on a CPU.

    python -m examples.demo.run [--quick] [--seed N]

Draws pictures with English and Chinese captions, packs them to shards, trains a small image encoder on the training
pictures, freezes it, and trains a Q-Former with the same train.py and DeepSpeed as any other run. Then it scores
pictures and captions that were held out. A small language model learns sentences, is frozen, and stage two teaches the
Q-Former to make it tell held-out pictures. Everything is made anew in demo_run/ under the current folder. The exit
status is 1 when a promised score is not reached.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from data_tools.common.cli import command
from examples.demo.make_data import splits, write_records
from examples.demo.probe_captions import (
    CaptionProbe,
    broken_caption_promises,
    caption_tables,
    captions_json,
    probe_captions,
)
from examples.demo.probe_pairs import ceilings, score_pairs
from examples.demo.results import Results, as_json, broken_promises, pairs_table, retrieval_table, where
from examples.demo.train_encoder import Pictures, save_encoder, train_encoder
from examples.demo.train_language import train
from vglm_train.config.load import load
from vglm_train.errors import UserError
from vglm_train.files import write_json

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "demo.yaml"
SECOND = ROOT / "configs" / "demo_stage2.yaml"
WORK = Path("demo_run")
MARK = WORK / "made-by-demo"  # what is deleted at the start of the next run bears it
THREADS = 4  # more do not help matrices this small
SHARD = 32  # training scenes; with data.shuffle_shards it says among how many scenes a batch is drawn

ABOUT_ENCODER = """\
A small EVA ViT learns, for each patch of the training pictures, to tell of what stands on it the colour, the shape and
the side of the picture. It sees no caption and no held-out picture, and is frozen from then on. A published encoder
such as EVA-CLIP takes its place in a real run."""


ABOUT_LANGUAGE = """\
A small ChatGLM learns the words of the training scenes from text alone: it reads a scene as five words ("red circle
left blue star") where the image's tokens will be, and describes it or answers a question about it. It never sees a
picture and is frozen from then on. A published ChatGLM-6B takes its place in a real run. Stage two shows it pictures
with captions only, never a question."""


class Demo:
    """The steps, in order; each prints what it does and how long it took."""

    def __init__(self, seed: int, quick: bool) -> None:
        self.seed, self.quick = seed, quick
        self.config = load(CONFIG)
        self.encoder_steps, self.language_steps = (250, 60) if quick else (1000, 600)
        self.changes = [f"run.seed={seed}"]
        if quick:
            self.changes += ["run.length.steps=120", "optim.warmup.steps=30", "evaluate.every=120"]
        self.changes_two = [f"run.seed={seed}", *(["run.length.steps=20", "optim.warmup.steps=5"] if quick else [])]
        self.times: dict[str, float] = {}

    def run(self) -> int:
        """Exit status: 0, or 1 when a promise is broken."""
        _clear()
        with self._step("draw scenes"):
            pictures = write_records(WORK / "data", self.seed, train=1500 if self.quick else None)
        with self._step("pack shards"):
            self._pack()
        with self._step("train the image encoder"):
            self._train_encoder(pictures)
        with self._step("train stage one"):
            _python(ROOT / "train.py", CONFIG, *self.changes)
        with self._step("evaluate"):
            results = self._evaluate()
        with self._step("train the language model"):
            print(ABOUT_LANGUAGE, flush=True)
            loss = train(splits(self.seed)["train"], load(SECOND), self.language_steps, self.seed)
            print(f"loss of its last steps: {loss:.3f} nats a token")
        with self._step("train stage two"):
            _python(ROOT / "train.py", SECOND, *self.changes_two)
        with self._step("describe"):
            probe = probe_captions(
                WORK / "run2" / "bundle", WORK / "shards" / "test", splits(self.seed)["test"], self.seed
            )
        with self._step("report"):
            _python("-m", "vglm_train.report", WORK / "run")
        scores = {"seed": self.seed, "seconds": self.times, **as_json(results), "told": captions_json(probe)}
        write_json(WORK / "results.json", scores)
        return self._tell(results, probe)

    def _pack(self) -> None:
        records = WORK / "data" / "records.jsonl"
        for split in ("train", "val", "test"):
            size = SHARD if split == "train" else 500
            where_to = ("--split", split, "--out", WORK / "shards" / split, "--samples-per-shard", size)
            _python("-m", "data_tools.pack_shards", records, *where_to)
        _python("-m", "data_tools.check_shards", WORK / "shards" / "test")
        _python("-m", "data_tools.vocabulary", records, "--out", WORK / "vocab.txt")

    def _train_encoder(self, pictures: Pictures) -> None:
        vision, image = self.config.model.vision, self.config.data.image
        print(ABOUT_ENCODER, flush=True)
        encoder, right = train_encoder(pictures, vision, image, steps=self.encoder_steps, seed=self.seed)
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in right.items())
        print(f"attributes of the objects that patches get right: {shares}")
        save_encoder(encoder, WORK / "encoder.safetensors")
        _python("-m", "data_tools.preview", CONFIG, "--out", WORK / "preview.html", quiet=True)

    def _evaluate(self) -> Results:
        bundle, shards, out = WORK / "run" / "bundle", WORK / "shards" / "test", WORK / "retrieval.json"
        task = ("--task", "retrieval", "--data", shards, "--out", out, *(("--rerank", 0) if self.quick else ()))
        _python("-m", "vglm_train.evaluate", bundle, *task, quiet=True)
        found = json.loads(out.read_text("utf-8"))
        scenes = splits(self.seed)["test"]
        pairs = score_pairs(bundle, shards, scenes, self.seed)
        return Results(found["images"], found["scores"], found["chance"], ceilings(scenes), pairs)

    def _tell(self, results: Results, probe: CaptionProbe) -> int:
        broken = broken_promises(results, self.quick) + ([] if self.quick else broken_caption_promises(probe))
        for part in (retrieval_table(results), pairs_table(results), caption_tables(probe), where(WORK)):
            print("", *part, sep="\n")
        spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.times.items())
        print(f"\nseconds: {spent}; together {sum(self.times.values()):.0f}")
        good = "above chance, as a quick demo should be" if self.quick else "everything the demo promises was reached"
        print(*(f"NOT REACHED: {promise}" for promise in broken) if broken else (good,), sep="\n")
        return 1 if broken else 0

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        print(f"\n=== {name}", flush=True)
        start = time.monotonic()
        yield
        self.times[name] = time.monotonic() - start
        print(f"--- {name}: {self.times[name]:.0f} s", flush=True)


def _clear() -> None:
    """Begin with an empty folder, so that nothing of an earlier run is used."""
    if WORK.exists() and any(WORK.iterdir()) and not MARK.exists():
        raise UserError(f"{WORK.resolve()} was not made by the demo; move it away, or start in another folder.")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    MARK.touch()


def _python(*words: object, quiet: bool = False) -> None:
    """Run one of the project's commands as a person would, and show it. quiet: its output only if it fails."""
    texts = [str(word) for word in words]
    print("$ python", shlex.join(texts), flush=True)
    done = subprocess.run([sys.executable, *texts], capture_output=quiet, text=True, check=False)
    if done.returncode:
        raise UserError(f"the command above failed with status {done.returncode}. {(done.stderr or '')[-2000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shows that it runs, promises little")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, encoder and run (default 0)")
    args = parser.parse_args()
    os.environ["DS_ACCELERATOR"] = "cpu"
    threads = min(THREADS, os.cpu_count() or 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return Demo(args.seed, args.quick).run()


if __name__ == "__main__":
    command(main)
