"""Tokenizers of transformers: what they put around a text is known apart from it, and text is taken literally."""

import contextlib
import json
import logging
import pickle
from pathlib import Path

import pytest
from made_tokenizers import gpt2_folder, ice_text, words_folder

from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.prompt.tokenizers import HfTokenizer, Tokenizer, build_tokenizer, check_tokenizer

WORDS = ("a", "▁red", "▁dog", "▁</s>", "红", "狗")


def build(folder: Path, family: str = "causal") -> Tokenizer:
    return build_tokenizer(Language(family=family, config="config.json", tokenizer=str(folder)))


def test_ids_and_text(tmp_path):
    tokenizer = build(words_folder(tmp_path, WORDS))
    assert tokenizer.encode("a red dog") == [4, 5, 6]
    assert tokenizer.decode([2, 4, 5, 6, 3, 1, 1, 999]) == "a red dog"
    assert tokenizer.encode("红狗") == [8, 9]
    assert tokenizer.decode([8, 9]) == "红狗"
    assert (tokenizer.vocabulary, tokenizer.pad_id, tokenizer.end_id, tokenizer.find("红")) == (10, 1, 3, 8)
    assert tokenizer.find("蓝") is None


@pytest.mark.parametrize(
    ("front", "behind", "ids"), [("", "", ([], [])), ("<s>", "", ([2], [])), ("", "</s>", ([], [3]))]
)
def test_what_stands_around_a_text(tmp_path, front, behind, ids):
    tokenizer = build(words_folder(tmp_path, WORDS, front, behind))
    assert isinstance(tokenizer, HfTokenizer)
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ids
    assert tokenizer.encode("a red") == [4, 5]


def test_text_is_literal(tmp_path):
    tokenizer = build(words_folder(tmp_path, WORDS))
    assert tokenizer.encode("a </s>") == [4, 7]  # the word, not the token
    for copy in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        assert copy.encode("a </s>") == [4, 7]
    assert tokenizer.encode("a\ud83d") == [0]


def test_nothing_is_cut_or_padded(tmp_path):
    """A tokenizer.json may carry both, as those exported by sentence-transformers do."""
    file = words_folder(tmp_path, WORDS) / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 6},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    file.write_text(json.dumps(content), "utf-8")
    assert build(tmp_path).encode("a red dog red") == [4, 5, 6, 5]


def test_save_and_build(tmp_path):
    tokenizer = build(words_folder(tmp_path / "one", WORDS, "<s>"))
    tokenizer.save(tmp_path / "two")
    again = build_tokenizer(Language(family="causal", weights="gone"), tmp_path / "two")
    assert isinstance(again, HfTokenizer)
    assert (again.prefix_ids, again.suffix_ids, again.pad_id, again.end_id) == ([2], [], 1, 3)
    assert again.encode("a </s> dog") == tokenizer.encode("a </s> dog") == [4, 7, 6]


def test_without_a_padding_token_the_end_token_pads(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "vglm_train"):
        tokenizer = build(words_folder(tmp_path, WORDS, pad_token=None))
    assert tokenizer.pad_id == tokenizer.end_id == 3
    assert "no padding token; </s> pads" in caplog.text


def test_opt(tmp_path, shared):
    tokenizer = build(gpt2_folder(tmp_path, shared / "data/tokenizers/roberta-opt"))
    assert isinstance(tokenizer, HfTokenizer)
    assert tokenizer.encode("Hello, my dog is cute") == [31414, 6, 127, 2335, 16, 11962]
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids, tokenizer.pad_id, tokenizer.end_id) == ([2], [], 1, 2)
    assert tokenizer.encode("\n") == [50118]
    assert tokenizer.vocabulary == 50265
    text = "Two dogs  run .\n狗在跑。🙂 it's , 2 </s>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    check_tokenizer(tokenizer, 50272, "OPT")


def test_gpt2_puts_nothing_around(tmp_path, shared):
    marks = {key: "<|endoftext|>" for key in ("bos_token", "eos_token", "unk_token")}
    folder = gpt2_folder(
        tmp_path, shared / "data/tokenizers/gpt2", add_bos_token=False, **marks, pad_token="<|endoftext|>"
    )
    tokenizer = build(folder)
    assert isinstance(tokenizer, HfTokenizer)
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids, tokenizer.vocabulary) == ([], [], 50257)
    with pytest.raises(UserError, match=r"does not belong to small.*largest id is 50256.*has 50000 ids"):
        check_tokenizer(tokenizer, 50000, "small")


def test_t5_over_sentencepiece(tmp_path, shared):
    """T5's class over another model's pieces, which have neither </s> nor <pad> where T5 has them."""
    (tmp_path / "spiece.model").write_bytes(
        (shared / "data/tokenizers/albert-spiece-fixture/spiece.model").read_bytes()
    )
    marks = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "extra_ids": 0}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", **marks}), "utf-8")
    tokenizer = build(tmp_path, "seq2seq")
    assert isinstance(tokenizer, HfTokenizer)
    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == ([], [tokenizer.end_id])
    start, whole = tokenizer.encode("question: what? answer:"), tokenizer.encode("question: what? answer: two dogs")
    assert whole[: len(start)] == start
    assert whole[len(start) :] == tokenizer.encode("two dogs")
    assert tokenizer.decode(whole) == "question: what? answer: two dogs"


def test_no_tokenizer_there(tmp_path):
    (tmp_path / "config.json").write_text("{}", "utf-8")
    with pytest.raises(UserError, match=r"no tokenizer here; model.language.tokenizer needs a folder"):
        build(tmp_path)
    with pytest.raises(UserError, match=r"no tokenizer here"):
        build(ice_text(tmp_path / "ice", ["a"]))
    with pytest.raises(UserError, match=r"no such file or folder"):
        build(tmp_path / "gone")


def test_a_tokenizer_that_cannot_be_loaded(tmp_path):
    (words_folder(tmp_path, WORDS) / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match=r"the tokenizer cannot be loaded: .+"):
        build(tmp_path)


def test_code_from_a_folder_is_not_run(tmp_path):
    words_folder(tmp_path, WORDS)
    config = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n", "utf-8")
    with contextlib.suppress(UserError):  # or read without it, as tokenizer.json says all
        build(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_no_end_token(tmp_path):
    with pytest.raises(UserError, match="no end token, so no answer would end"):
        build(words_folder(tmp_path, WORDS, eos_token=None))
