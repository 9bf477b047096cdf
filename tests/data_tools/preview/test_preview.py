"""The preview shows exactly what training reads, and warns where the vocabulary does not fit."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from data_tools.pack_shards.__main__ import pack
from data_tools.pack_shards.write import PackOptions
from data_tools.preview.__main__ import PreviewSample, count_tokens, train_samples, validation_samples
from data_tools.preview.sheet import MISSING, TEXT_WIDTH, Face, find_face, wrap
from vglm_train.config.load import load
from vglm_train.data.loader import build
from vglm_train.data.processors import PairProcessor
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.prompt.qformer_text import build_text

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cat", "一", "只", "狗"]


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run over 8 noisy pictures in two languages; 猫 is not in its vocabulary, and one caption is too long."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(8):
        Image.fromarray(random.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
        captions = {"en": ["a red dog", "a cat"], "zh": ["一只猫", "一只狗"]}
        if index == 3:
            captions["en"] = ["a red red dog a cat a dog"]
        rows.append({"id": str(index), "image": f"{index}.png", "captions": captions})
    records = tmp_path / "r.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(records, tmp_path / "shards", PackOptions(None, 3, None))
    (tmp_path / "vocab.txt").write_text("".join(piece + "\n" for piece in PIECES), "utf-8")
    path = tmp_path / "run.yaml"
    path.write_text(f"""
run: {{name: try, length: {{steps: 10}}}}
model:
  vision: {{image_size: 32, patch: 16, width: 32, depth: 1, heads: 2, mlp_width: 64, dtype: fp32}}
  qformer: {{layers: 2, width: 32, heads: 2, mlp_width: 64}}
  text: {{tokenizer: {tmp_path / "vocab.txt"}, processor: plain, language_token: true, max_length: 8}}
data:
  train: [{{name: a, shards: {tmp_path / "shards"}}}]
  validation: [{{name: a, shards: {tmp_path / "shards"}}}]
  languages: [en, zh]
  global_batch: 4
  workers: 0
optim: {{warmup: {{steps: 2}}}}
""")
    return path


@pytest.mark.parametrize("epoch", [0, 1])
def test_train_rows_are_those_that_training_reads(run_file: Path, epoch: int) -> None:
    config = load(run_file)
    text = build_text(config.model.text, config.data.languages)
    seen = list(train_samples(config, text, epoch))
    loader = build(config, PairProcessor(text, config.data.languages), Ranks())
    batches = islice(loader.batches(consumed=0), 2 * epoch, 2 * epoch + 2)
    for number, batch in enumerate(batches):
        rows = seen[4 * number : 4 * number + 4]
        assert all(isinstance(row, PreviewSample) for row in rows)
        assert torch.equal(batch.pixels, torch.stack([row.pixels for row in rows]))
        assert batch.image_ids.tolist() == [row.image_id for row in rows]
        ids, _ = text.batch([row.texts[0][2] for row in rows])
        assert torch.equal(batch.text_ids, ids)


def test_validation_shows_every_caption(run_file: Path) -> None:
    config = load(run_file)
    text = build_text(config.model.text, config.data.languages)
    seen = next(iter(validation_samples(config, text)))
    assert [(language, caption) for language, caption, _ in seen.texts] == [
        ("en", "a red dog"), ("en", "a cat"), ("zh", "一只猫"), ("zh", "一只狗")]  # fmt: skip
    with pytest.raises(UserError, match=r"data\.validation is empty"):
        next(validation_samples(load(run_file, ["data.validation=[]"]), text))


def test_unknown_and_cut_are_counted(run_file: Path) -> None:
    config = load(run_file)
    text = build_text(config.model.text, config.data.languages)
    shards = build(config, PairProcessor(text, config.data.languages), Ranks()).dataset.mixture.shards()
    counts = count_tokens(shards, text, ("en", "zh"))
    assert (counts["en"].captions, counts["en"].tokens, counts["en"].unknown, counts["en"].cut) == (15, 43, 0, 1)
    assert (counts["zh"].captions, counts["zh"].tokens, counts["zh"].unknown, counts["zh"].cut) == (16, 48, 8, 0)
    assert counts["zh"].missing == {"猫": 8}


def test_the_command_writes_a_picture_and_a_listing(
    run_file: Path, tmp_path: Path, tool: Callable[..., CompletedProcess[str]]
) -> None:
    shard = tmp_path / "shards" / "shard-000002.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"captions"', b'"captoins"', 1))
    done = tool("preview", run_file, "data.image.flip=false", "--rows", 8, "--out", tmp_path / "p" / "preview.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "p" / "preview.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 2 * TEXT_WIDTH
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 1000
    assert done.stdout.count("tokens: [CLS] [") == 7
    assert "damaged, not shown: shard-000002.tar" in done.stdout
    assert "warning: 16.7 % of the zh tokens are [UNK] (most often: 猫)" in done.stdout
    assert "warning: 0" not in done.stdout
    assert "ITG reads [DEC]" in done.stdout


def test_a_mistake_is_one_line(run_file: Path, tmp_path: Path, tool_here: Callable[..., CompletedProcess[str]]) -> None:
    for override, message in [("model.text.processr=plain", "processor"), ("data.train=[{name: a, shards: no}]", "no")]:
        done = tool_here("preview", run_file, override, "--out", tmp_path / "preview.png")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "preview.png").exists()


def test_lines_are_wrapped_within_the_width() -> None:
    font = ImageFont.load_default(15)
    text = "one two " * 30 + "x" * 200
    lines = wrap(text, font, 200)
    assert all(font.getlength(line) <= 200 for line in lines)
    assert " ".join(lines).replace(" ", "") == text.replace(" ", "")
    assert lines[0].endswith(("one", "two"))


def test_a_font_without_chinese_says_so(tmp_path: Path) -> None:
    face = Face(ImageFont.load_default(15), False, "test")
    assert face.legible("一只 dog") == f"{MISSING}{MISSING} dog"
    with pytest.raises(UserError, match="--font"):
        find_face(tmp_path / "none.ttf")
