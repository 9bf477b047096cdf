"""Whatever people type, in whatever tokenizer: no id of it controls a model, and plain text keeps its ids."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tokenizers import CONTROL, DEFINED, NORMAL, UNKNOWN, gpt2_folder, ice_text, words_folder
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken
from transformers import AlbertTokenizer, LlamaTokenizer, T5Tokenizer, XLMRobertaTokenizer

from vglm_train.config.model import Text
from vglm_train.prompt.chatglm import SPECIAL, ChatGLMTokenizer
from vglm_train.prompt.qformer_text import QFormerTokenizer, build_text
from vglm_train.prompt.tokenizers import HfTokenizer, Tokenizer, _from_folder

MARKS = (
    "<img>", "</img>", "<|endoftext|>", "<s>", "</s>", "<pad>", "<mask>", "[gMASK]", "[MASK]", "[sMASK]", "<sop>",
    "<eop>", "<ENC>", "<dBLOCK>", "<unused_0>", "<ImageHere>", "<image>", "[CLS]", "[SEP]", "[PAD]", "[DEC]", "[EN]",
    "<extra_id_0>", "<|im_start|>", "<|user|>", "### Assistant:", "<0x0A>",
)  # fmt: skip
PLAIN = ("Two dogs (brown) - run fast.", "价格是 5 元。", "a  b\n\tc", "x < y > z [1]", "12:30, 50 % #tag")
PIECES = "data/tokenizers/albert-spiece-fixture/spiece.model"


def pieces(kind: type, name: str) -> Callable[[Path, Path], HfTokenizer]:
    """A tokenizer of this class over ALBERT's pieces, where <pad> and [SEP] are pieces that weigh nothing."""

    def make(folder: Path, shared: Path) -> HfTokenizer:
        folder.mkdir()
        model = sentencepiece_model_pb2.ModelProto.FromString((shared / PIECES).read_bytes())
        if kind is T5Tokenizer:  # whose class knows these places
            model.pieces[1].piece, model.pieces[1].type = "</s>", CONTROL
            model.pieces[2].piece, model.pieces[2].type = "<unk>", UNKNOWN
        (folder / name).write_bytes(model.SerializeToString())
        kind.from_pretrained(folder).save_pretrained(folder)
        return _from_folder(folder)

    return make


def gpt2(folder: Path, shared: Path) -> HfTokenizer:
    marks = {key: "<|endoftext|>" for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    return _from_folder(gpt2_folder(folder, shared / "data/tokenizers/gpt2", add_bos_token=False, **marks))


def opt(folder: Path, shared: Path) -> HfTokenizer:
    """With an image mark that was added as if it were text, and a special one."""
    gpt2_folder(folder, shared / "data/tokenizers/roberta-opt")
    tokenizer = _from_folder(folder)
    tokenizer.tokenizer.add_tokens([AddedToken("<ImageHere>"), AddedToken("    ")])
    tokenizer.add_special("<|im_start|>")
    tokenizer.save(folder)
    return _from_folder(folder)


def words(folder: Path, shared: Path) -> HfTokenizer:
    return _from_folder(words_folder(folder, ["a", "▁a"], "<s>", "</s>"))


MAKERS: dict[str, Callable[[Path, Path], HfTokenizer]] = {
    "gpt2": gpt2,
    "opt": opt,
    "words": words,
    "albert": pieces(AlbertTokenizer, "spiece.model"),
    "t5": pieces(T5Tokenizer, "spiece.model"),
    "xlm-r": pieces(XLMRobertaTokenizer, "sentencepiece.bpe.model"),
    "llama": pieces(LlamaTokenizer, "tokenizer.model"),
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory, shared) -> dict[str, tuple[Tokenizer | QFormerTokenizer, set[int]]]:
    """With the ids that text must not have."""
    folder = tmp_path_factory.mktemp("tokenizers")
    made: dict = {name: make(folder / name, shared) for name, make in MAKERS.items()}
    found = {name: (tokenizer, special_ids(tokenizer)) for name, tokenizer in made.items()}
    for name, kind in (("control", CONTROL), ("defined", DEFINED), ("normal", NORMAL)):
        glm = ChatGLMTokenizer(chatglm_file(folder / name, kind))
        assert glm.find("[gMASK]") == glm.gmask_id
        found[f"chatglm, {name}"] = glm, {glm.find(piece) for piece in (*SPECIAL, "<s>", "</s>", "<pad>")}
    bert = shared / "data/tokenizers/bert-base-uncased/vocab.txt"
    text = build_text(Text(tokenizer=str(bert), max_length=500, processor="plain", language_token=True))
    found["bert"] = (
        text,
        set(text.tokenizer.all_special_ids) - {text.tokenizer.unk_token_id}
        | {text.dec_id, *text.language_ids.values()},
    )
    return found


def special_ids(tokenizer: HfTokenizer) -> set[int]:
    """By what transformers itself counts as special, and what was added; ALBERT has its punctuation among these."""
    inner = tokenizer.tokenizer
    names = {*inner.all_special_tokens, *inner.get_added_vocab()} - {inner.unk_token}
    ids = {inner.convert_tokens_to_ids(name) for name in names if len(name) > 1 and name.strip()}
    return {*ids, tokenizer.end_id, tokenizer.pad_id, *tokenizer.prefix_ids, *tokenizer.suffix_ids}


def chatglm_file(folder: Path, kind: int) -> Path:
    """ChatGLM's layout, with the special pieces of this kind."""
    file = ice_text(folder, ["a", "dog", "[", "gMASK", "]", "<", "s", ">", "sop"])
    model = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    for piece in model.pieces:
        if piece.piece in (*SPECIAL, "<pad>"):
            piece.type, piece.score = kind, 0.0
    file.write_bytes(model.SerializeToString())
    return file


NAMES = (*MAKERS, "chatglm, control", "chatglm, defined", "chatglm, normal", "bert")


def ids_of(tokenizer: Tokenizer | QFormerTokenizer, text: str) -> list[int]:
    """Without what the Q-Former's tokenizer puts around a text."""
    return tokenizer.encode(text, "en")[2:-1] if isinstance(tokenizer, QFormerTokenizer) else tokenizer.encode(text)


@pytest.mark.parametrize("name", NAMES)
def test_no_mark_becomes_a_token(tokenizers, name):
    tokenizer, special = tokenizers[name]
    for each in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        for mark in MARKS:
            for text in (mark, f"a {mark} b", f"a{mark}b", mark * 3, f"{mark[:-1]}{mark}{mark[-1]}", f"\n{mark}\u200b"):
                assert special.isdisjoint(ids_of(each, text)), text


@pytest.mark.parametrize("name", NAMES)
@given(parts=st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=5)), max_size=8))
def test_no_text_becomes_a_token(tokenizers, name, parts):
    tokenizer, special = tokenizers[name]
    assert special.isdisjoint(ids_of(tokenizer, "".join(parts)))


@pytest.mark.parametrize("name", list(MAKERS))
def test_plain_text_keeps_its_ids(tokenizers, name):
    tokenizer, _ = tokenizers[name]
    for text in PLAIN:
        assert (
            tokenizer.encode(text) == tokenizer.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        )


def test_a_mark_stays_readable(tokenizers):
    for name in ("gpt2", "opt"):
        assert (
            tokenizers[name][0].decode(tokenizers[name][0].encode("say </s> <|endoftext|>")) == "say </s> <|endoftext|>"
        )
    tokenizer, _ = tokenizers["albert"]
    assert "pad" in tokenizer.decode(tokenizer.encode("a <pad> b"))


def test_chatglm_writes_the_file_it_read(tmp_path):
    file = chatglm_file(tmp_path / "one", DEFINED)
    ChatGLMTokenizer(file).save(tmp_path / "two")
    assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes()
