"""What runs of `benchmarks.scaling` share: shards of photos, tokenizers, a base bundle, overrides of presets."""

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.stage2_cases import ROOT, TINY, TINY_CHATGLM
from data_tools.chatglm_tokenizer.train import train_ice_text
from data_tools.pack_shards.__main__ import main as pack
from vglm_train import stages
from vglm_train.config.load import load
from vglm_train.files import write_json

DONE = "done"  # a file that is there when all data are
MADE = 400  # pictures of noise, where no photos are given
SHARD = 25  # pictures of a shard: more shards than loader processes
WORDS = "a man woman child dog horse red blue green small large runs jumps sits stands on near the grass sand street"
BERT_WORDS = 30522
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
QUESTION = "[Round 0] 问：Describe this image. 答："  # what the preset asks about a picture that has captions
LONGER = "prompt.max_prompt=64"  # a small tokenizer cuts words into more pieces
QUIET = ("log.wandb.mode=disabled", "data.validation=[]", "evaluate.every=null", "data.languages=[en]")


@dataclass(frozen=True, slots=True)
class MadeData:
    """Files in `folder`."""

    folder: Path

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def overrides(self, stage: str, tiny: bool) -> list[str]:
        """Of the stage's preset: these data, random weights, nothing but training."""
        words = [*QUIET, f"data.train=[{{name: photos, shards: {self.folder / 'shards'}}}]",
                 f"data.workers={2 if tiny else 14}", "optim.warmup={steps: 10}"]  # fmt: skip
        words += ["engine.backend=gloo"] if tiny else []
        shapes = TINY if tiny else []
        if stage == "align":
            return [*words, *shapes, "model.vision.weights=null", "model.qformer.weights=null",
                    f"model.text.tokenizer={self.folder / 'vocab.txt'}"]  # fmt: skip
        if stage == "generate":
            language = [f"model.{part}.weights=null" for part in ("vision", "qformer", "language")]
            language += [*TINY_CHATGLM, self.vocabulary()] if tiny else []
            language += ["model.vision.dtype=bf16"]
            return [*words, *shapes, *language, f"model.language.tokenizer={self.folder / 'ice_text.model'}",
                    "model.language.dtype=bf16", LONGER]  # fmt: skip
        return [*words, LONGER, f"model.bundle={self.base}", "data.holdout=null",
                f"data.validation=[{{name: others, shards: {self.folder / 'held'}}}]", "checkpoint.best=null",
                "evaluate.patience=null", "evaluate.task=caption", "engine.recompute=false",
                *(["tuning.lora.layers=[0, 1]"] if tiny else [])]  # fmt: skip

    def vocabulary(self) -> str:
        """Of the small tokenizer, where the full one's would do as well."""
        pieces = json.loads((self.folder / "pieces.json").read_text("utf-8"))["pieces"]
        return f"model.language.vocabulary={pieces}"


def make_data(folder: Path, photos: Path | None, vocabulary: Path | None) -> MadeData:
    """Pack photos, or pictures of noise, with their captions, or made ones; tokenizers that know the words.

    A `captions.jsonl` in the photos' folder gives {image, captions_en} for each.
    """
    folder.mkdir(parents=True)
    records = list(_records(folder, photos))
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    for split, name in (("train", "shards"), ("val", "held")):
        pack([str(path), "--out", str(folder / name), "--split", split, "--samples-per-shard", str(SHARD)])
    texts = [text for record in records for each in record["captions"].values() for text in each]
    pieces = train_ice_text([*texts, *[QUESTION] * 50], folder / "ice_text.model", 4000)
    write_json(folder / "pieces.json", {"pieces": pieces})
    words = vocabulary.read_text("utf-8").split("\n") if vocabulary else [*SPECIAL, *sorted({*" ".join(texts).split()})]
    words = [word for word in words if word][:BERT_WORDS]
    words += [f"[unused{number}]" for number in range(BERT_WORDS - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    (folder / DONE).touch()
    return MadeData(folder)


def _records(folder: Path, photos: Path | None) -> Iterator[dict[str, object]]:
    rng = random.Random(0)
    known = {}
    if photos is not None and (table := photos / "captions.jsonl").exists():
        rows = map(json.loads, table.read_text("utf-8").splitlines())
        known = {row["image"]: {"en": row["captions_en"]} for row in rows}
    files = sorted(photos.rglob("*.jpg")) if photos else list(_made(folder / "images"))
    for number, file in enumerate(files):
        made = {"en": [" ".join(rng.choices(WORDS.split(), k=rng.randint(6, 14)))]}
        captions = known.get(str(file.relative_to(photos)), made) if photos else made
        yield {
            "id": str(number),
            "image": str(file.resolve()),
            "captions": captions,
            "split": "train" if number % 50 else "val",
        }


def _made(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(MADE):
        grain = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(grain).resize((341, 256), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        path = folder / f"{number}.jpg"
        path.write_bytes(buffer.getvalue())
        yield path


def write_base(data: MadeData, tiny: bool) -> None:
    """The bundle that fine-tuning starts from: what an untrained stage two would leave."""
    words = [*data.overrides("generate", tiny), data.vocabulary()]  # that of the small tokenizer, whose ids it has
    config = load(ROOT / "configs/pretrain/visualglm_stage2.yaml", words)
    stage = stages.build(config)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() and not tiny else "cpu"):
        model = stage.model()
    stage.save(data.base, model, {"run": "benchmark"})
