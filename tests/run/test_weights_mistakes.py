"""Weights and vocabularies that do not fit or cannot be read: one error says where and what to do."""

from pathlib import Path

import pytest
import torch
from made_shards import TOKENS
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM

pytestmark = pytest.mark.usefixtures("alone")


def test_vocabulary_too_small_for_the_tokenizer(refused, config: Path, tmp_path: Path) -> None:
    said = refused(config, "model.qformer.vocabulary=200", f"run.folder={tmp_path / 'run'}")
    tokens = len(TOKENS) + 200 + 3
    assert said.startswith(
        f"override model.qformer.vocabulary=200: model.qformer.vocabulary: 200 words cannot hold the {tokens} tokens"
    )
    assert not (tmp_path / "run").exists()


def test_vocabulary_that_does_not_fit_the_weights(refused, config: Path, tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 1024}
    BertForMaskedLM(BertConfig(vocab_size=999, max_position_embeddings=16, **shape)).save_pretrained(tmp_path / "bert")
    said = refused(config, f"model.qformer.weights={tmp_path / 'bert'}", f"run.folder={tmp_path / 'run'}")
    assert said.startswith(f"{tmp_path / 'bert'} has a vocabulary of 999 tokens, the tokenizer with its added tokens")
    assert said.endswith("Set model.text.tokenizer to the tokenizer of these weights.")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["vision", "qformer"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such file or folder"),
        ("text", "a Git LFS pointer"),
        ("cut", "cut short"),
        ("index", "cannot read"),
    ],
)
def test_weights_that_cannot_be_read(refused, config: Path, tmp_path: Path, field: str, kind: str, words: str) -> None:
    path = tmp_path / "weights.safetensors"
    named = path
    if kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "cut":
        save_file({"weight": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "index":
        path.mkdir()
        named = path / "model.safetensors.index.json"
        named.write_text("{")
    absent = path if kind == "missing" else None
    said = refused(config, f"model.{field}.weights={path}", f"run.folder={tmp_path / 'run'}", absent=absent)
    assert words in said
    assert str(named) in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()
