"""Small files in ChatGLM's layout: complete, the same every time, and what its tokenizer reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from data_tools.chatglm_tokenizer.train import END, train_ice_text
from vglm_train.errors import UserError
from vglm_train.prompt.chatglm import BLANKS, SPECIAL, build_chatglm

SENTENCES = [
    "a red square left of a blue circle",
    "红色的方块在蓝色圆的左边。",
    "two\tdogs\nrun  there",
    "问：是什么？",
    "",
] * 20


def test_layout(tmp_path):
    path = tmp_path / "new/ice_text.model"
    size = train_ice_text(SENTENCES, path, 460)
    pieces = SentencePieceProcessor(model_file=str(path))
    names = [pieces.id_to_piece(number) for number in range(pieces.get_piece_size())]
    assert size == len(names) <= 460
    assert names[:5] == ["<unk>", "<s>", "</s>", "<pad>", "<n>"]
    assert END == 344
    assert names[-END:-256] == [*SPECIAL, "<|tab|>", *BLANKS]
    assert (names[-256], names[-1]) == ("<0x00>", "<0xFF>")
    tokenizer = build_chatglm(path)
    assert (tokenizer.pad_id, tokenizer.gmask_id, tokenizer.end_id) == (3, size - END + 1, size - END + 5)


def test_text_comes_back(tmp_path):
    train_ice_text(SENTENCES, tmp_path / "ice_text.model", 460)
    tokenizer = build_chatglm(tmp_path)
    for text in (*SENTENCES[:5], "</img>问：龘🙂？\n答：", "  Q:a  \tb\n\nA:１，"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("</img>问：\n答：")) <= 12, "the frame of a prompt is not written in bytes"
    assert not {tokenizer.sop_id, tokenizer.end_id} & set(tokenizer.encode("<sop><eop>"))


def test_same_sentences_same_file(tmp_path):
    for name in ("one", "two"):
        train_ice_text(iter(SENTENCES), tmp_path / name, 450)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_long_sentences_are_learnt_from(tmp_path):
    train_ice_text(["狗" * 5000, "a dog"], tmp_path / "ice_text.model", 420)
    assert 1 < len(build_chatglm(tmp_path).encode("狗狗狗狗")) <= 5
    assert build_chatglm(tmp_path).find("狗") is not None


@pytest.mark.parametrize(
    ("sentences", "size", "message"),
    [
        (SENTENCES, 344, "344 pieces are too few: 344 are ChatGLM's special tokens"),
        (
            SENTENCES,
            350,
            "350 pieces: no vocabulary could be learned: Vocabulary size is smaller .*; give more",
        ),
        (["", " \n"], 400, "no sentences"),
    ],
)
def test_mistakes(tmp_path, sentences, size, message):
    with pytest.raises(UserError, match=message):
        train_ice_text(sentences, tmp_path / "ice_text.model", size)
    assert not list(tmp_path.iterdir())


def test_command(tmp_path):
    records = tmp_path / "records.jsonl"
    row = {"image": "0.jpg", "source": "made", "split": "train", "captions": {"en": ["a red dog"], "zh": ["红色的狗"]}}
    rows = [{**row, "id": str(number), "image_id": f"{number:016x}"} for number in range(20)]
    records.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    out = tmp_path / "ice_text.model"
    command = [sys.executable, "-m", "data_tools.chatglm_tokenizer", str(records), "--out", str(out), "--size", "420"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: {build_chatglm(out).vocabulary} pieces\n"
    failed = subprocess.run(
        [*command, "--split", "none"], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3]
    )
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
