"""Captions become the ids BLIP-2 gives them, and Chinese is left whole."""

import pickle
from pathlib import Path

import pytest
import torch

from vglm_train.config.model import Text
from vglm_train.errors import UserError
from vglm_train.prompt.dialogue import is_chinese
from vglm_train.prompt.qformer_text import QFormerTokenizer, blip_text, build_text, plain_text

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS = [*SPECIAL, "a", "red", "dog", "##s", "run", ",", "狗", "红", "，", "。", "[", "]", "sep"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(TOKENS) + "\n", "utf-8")
    return path


def encoder(path: Path, **fields) -> QFormerTokenizer:
    return build_text(Text(tokenizer=str(path), **fields))


def test_bert_base_uncased(shared: Path) -> None:
    for form in ("bert-base-uncased/vocab.txt", "bert-base-uncased"):
        text = encoder(shared / "data/tokenizers" / form)
        assert text.encode("Hello world!", "en") == [101, 7592, 2088, 102]
        assert (text.vocabulary, text.dec_id, text.pad_id, text.cls_id) == (30523, 30522, 0, 101)
        assert text.language_ids == {}


def test_bert_base_chinese(shared: Path) -> None:
    text = encoder(shared / "data/tokenizers/bert-base-chinese", processor="plain", language_token=True)
    assert (text.dec_id, text.language_ids, text.vocabulary) == (21128, {"en": 21129, "zh": 21130}, 21131)
    ids = text.encode("两只狗在路上打架。", "zh")
    assert ids == [101, 21130, 697, 1372, 4318, 1762, 6662, 677, 2802, 3373, 511, 102]
    assert text.decode(ids) == "两只狗在路上打架。"


def test_vocabulary_made_here(vocabulary: Path) -> None:
    text = encoder(vocabulary)
    assert text.encode("A red dogs", "en") == [2, 5, 6, 7, 8, 3]
    assert text.encode("purple", "en") == [2, 1, 3]
    assert (text.vocabulary, text.dec_id) == (len(TOKENS) + 1, len(TOKENS))
    assert text.decode([2, 5, 6, 7, 8, 3, 0, 0]) == "a red dogs"


def test_language_token_follows_cls_and_comes_after_dec(vocabulary: Path) -> None:
    text = encoder(vocabulary, processor="plain", language_token=True)
    n = len(TOKENS)
    assert (text.dec_id, text.language_ids, text.vocabulary) == (n, {"en": n + 1, "zh": n + 2}, n + 3)
    assert text.encode("红狗", "zh") == [2, n + 2, 12, 11, 3]
    assert text.encode("red dog", "en") == [2, n + 1, 6, 7, 3]


def test_no_mask_token_means_no_new_id(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(token for token in TOKENS if token != "[MASK]"), "utf-8")
    assert encoder(path).vocabulary == len(TOKENS)


def test_long_captions_keep_sep(vocabulary: Path) -> None:
    assert encoder(vocabulary, max_length=5).encode("red " * 9, "en") == [2, 6, 6, 6, 3]
    with_language = encoder(vocabulary, max_length=5, language_token=True)
    assert with_language.encode("red " * 9, "en") == [2, with_language.language_ids["en"], 6, 6, 3]


def test_batch_pads_to_the_fixed_length(vocabulary: Path) -> None:
    ids, mask = encoder(vocabulary, max_length=6).batch([[2, 5, 3], [], [2, 5, 6, 7, 8, 3]])
    assert ids.tolist() == [[2, 5, 3, 0, 0, 0], [0] * 6, [2, 5, 6, 7, 8, 3]]
    assert mask.tolist() == [[True] * 3 + [False] * 3, [False] * 6, [True] * 6]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


def test_special_tokens_in_a_caption_are_only_letters(vocabulary: Path) -> None:
    text = encoder(vocabulary, processor="plain")
    expected = [2, 7, 15, 17, 16, 3]
    assert text.encode("dog [SEP]", "en") == expected
    assert pickle.loads(pickle.dumps(text)).encode("dog [SEP]", "en") == expected  # as a loader worker gets it


def test_saved_and_loaded(vocabulary: Path, tmp_path: Path) -> None:
    text = encoder(vocabulary, processor="plain", language_token=True)
    text.save(tmp_path / "tokenizer")
    again = encoder(tmp_path / "tokenizer", processor="plain", language_token=True)
    assert (again.vocabulary, again.dec_id, again.language_ids) == (text.vocabulary, text.dec_id, text.language_ids)
    for caption in ("red dogs，", "红狗。 [SEP]"):
        assert again.encode(caption, "zh") == text.encode(caption, "zh")


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ('A "Red" dog, (runs): #1 *now*; ~ok!', "a red dog, runs 1 now ok"),
        ("dog-house's   door .", "dog-house's door"),
        ("w " * 60, " ".join("w" * 50)),
    ],
)
def test_blip_text(caption: str, cleaned: str) -> None:
    assert blip_text(caption) == cleaned


def test_plain_text_keeps_all_but_blanks() -> None:
    assert plain_text("  红色，“狗”！\t(大)\n ") == "红色，“狗”！ (大)"
    assert plain_text("cafe\u0301") == "caf\u00e9"


@pytest.mark.parametrize(
    ("caption", "chinese"),
    [
        ("两只狗。", True),
        ("穿T恤的人", True),
        ("a sign that says 中国", False),
        ("dogs", False),
        ("", False),
        ("。", False),
    ],
)
def test_is_chinese(caption: str, chinese: bool) -> None:
    assert is_chinese(caption) is chinese


def test_blip_refuses_chinese(vocabulary: Path) -> None:
    with pytest.raises(UserError, match=r"'两只狗在路上打架。'.*Set model\.text\.processor to plain"):
        encoder(vocabulary).encode("两只狗在路上打架。", "zh")


def test_not_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("a\nb\n")
    with pytest.raises(UserError, match=r"words\.txt: not a BERT vocabulary, it lacks \[PAD\], \[UNK\]"):
        encoder(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        encoder(path)


def test_no_tokenizer_here(tmp_path: Path, shared: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer here; it needs vocab\.txt"):
        encoder(tmp_path)
    with pytest.raises(UserError, match="no tokenizer here"):
        encoder(shared / "data/tokenizers/gpt2")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        encoder(tmp_path / "missing" / "vocab.txt")


def test_name_that_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"no-such-name .* cannot be downloaded.*Give the path of its vocab"):
        build_text(Text(tokenizer="no-such-name"))


def test_language_without_a_token(vocabulary: Path) -> None:
    with pytest.raises(UserError, match="language_token"):
        build_text(Text(tokenizer=str(vocabulary), language_token=True), ["en", "fr"])
