"""The preview shows exactly what training reads, and warns where the vocabulary does not fit."""

import base64
import io
import json
import re
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
from data_tools.preview.__main__ import Output, PreviewSample, count_tokens, preview, train_samples, validation_samples
from data_tools.preview.sheet import TEXT_WIDTH, Face, find_face, wrap
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


def test_the_command_writes_a_page_and_a_listing(
    run_file: Path, tmp_path: Path, tool: Callable[..., CompletedProcess[str]]
) -> None:
    shard = tmp_path / "shards" / "shard-000002.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"captions"', b'"captoins"', 1))
    out = tmp_path / "p" / "preview.html"
    done = tool("preview", run_file, "data.image.flip=false", "--rows", 8, "--out", out)
    assert done.returncode == 0, done.stderr
    page = out.read_text("utf-8")
    shown = [Image.open(io.BytesIO(base64.b64decode(found))) for found in re.findall(r"base64,([^\"]+)", page)]
    assert [picture.size for picture in shown] == [(160, 160)] * 7  # 32 pixels, each of them a square
    assert all(len(picture.getcolors(1 << 24)) > 500 for picture in shown)
    texts = re.findall(r"<tr[^>]*><th>(en|zh)</th><td>([^<]*)</td></tr>", page)
    assert len(texts) == 7
    assert all(f"{language}: {text}" in done.stdout for language, text in texts)
    assert any("只" in text for _, text in texts)
    assert "damaged, not shown: shard-000002.tar" in page
    assert '<li class="warn">warning: 16.7 % of the zh tokens are [UNK]' in page
    assert list(out.parent.iterdir()) == [out]
    assert done.stdout.count("tokens: [CLS] [") == 7
    assert "damaged, not shown: shard-000002.tar" in done.stdout
    assert "warning: 16.7 % of the zh tokens are [UNK] (most often: 猫)" in done.stdout
    assert "warning: 0" not in done.stdout
    assert "ITG reads [DEC]" in done.stdout


def test_a_mistake_is_one_line(run_file: Path, tmp_path: Path, tool_here: Callable[..., CompletedProcess[str]]) -> None:
    for override, message in [("model.text.processr=plain", "processor"), ("data.train=[{name: a, shards: no}]", "no")]:
        done = tool_here("preview", run_file, override, "--out", tmp_path / "preview.html")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "preview.html").exists()


def test_the_name_of_a_picture_is_refused(
    run_file: Path, tmp_path: Path, tool_here: Callable[..., CompletedProcess[str]]
) -> None:
    done = tool_here("preview", run_file, "--out", tmp_path / "p.png")
    assert done.returncode == 2
    assert f"give --out {tmp_path / 'p.html'} --png {tmp_path / 'p.png'}" in done.stderr
    assert not list(tmp_path.glob("p.*"))


def test_a_picture_where_the_font_has_the_letters(run_file: Path, tmp_path: Path, monkeypatch) -> None:
    """Pillow's own font has English and no Chinese: no picture with boxes in it is written."""
    monkeypatch.setattr("data_tools.preview.sheet._candidates", lambda: iter(()))
    page, picture = tmp_path / "p.html", tmp_path / "p.png"
    list(preview(load(run_file, ["data.languages=[en]"]), "train", 4, 0, Output(page, picture)))
    with Image.open(picture) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 2 * TEXT_WIDTH
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 1000
    picture.unlink()
    page.unlink()
    with pytest.raises(UserError, match=r"p\.png is not written, the page is: Pillow's own font cannot draw .*--font"):
        list(preview(load(run_file), "train", 4, 0, Output(page, picture)))
    assert page.exists()
    assert not picture.exists()


def test_lines_are_wrapped_within_the_width() -> None:
    font = ImageFont.load_default(15)
    text = "one two " * 30 + "x" * 200
    lines = wrap(text, font, 200)
    assert all(font.getlength(line) <= 200 for line in lines)
    assert " ".join(lines).replace(" ", "") == text.replace(" ", "")
    assert lines[0].endswith(("one", "two"))


def test_letters_that_a_font_lacks(tmp_path: Path) -> None:
    face = Face(ImageFont.load_default(15), "test")
    assert face.missing(["a dog", "一只 dog", "«read» [picture 1] 只"]) == ["一", "只"]
    with pytest.raises(UserError, match="--font"):
        find_face(tmp_path / "none.ttf")
