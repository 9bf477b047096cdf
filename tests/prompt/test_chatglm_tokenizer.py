"""ChatGLM's tokenizer: the released numbers come out of the released layout, and text comes back as it was."""

import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from made_tokenizers import ice_text

from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.prompt.chatglm import CONFIG, FILE, ChatGLMTokenizer, build_chatglm
from vglm_train.prompt.tokenizers import build_tokenizer, check_tokenizer

RELEASED = {
    74874: "你好",
    1616: "▁def",
    594: "▁main",
    125936: "():",
    2274: "print",
    89: "('",
    7283: "hello",
    398: "▁world",
    125686: "')",
    61: "#",
    25672: "▁greeting",
}
CODE = "def main():\n    print('hello world')\t# greeting"


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> ChatGLMTokenizer:
    """As many pieces as the released file has, the few that are known in their places."""
    return ChatGLMTokenizer(ice_text(tmp_path_factory.mktemp("released"), RELEASED, 130000))


@pytest.fixture
def small(tmp_path: Path) -> ChatGLMTokenizer:
    return build_chatglm(ice_text(tmp_path / "ice", ["a", "▁a", "dog", "▁dog", "红", "色", "红色", "，"]))


def test_released_numbers(released):
    assert released.vocabulary == 130344
    assert (released.find("[MASK]"), released.gmask_id, released.sop_id, released.end_id) == (
        130000,
        130001,
        130004,
        130005,
    )
    assert (released.pad_id, released.find("\n"), released.find("<n>")) == (3, None, 4)
    assert released.encode("你好") == [5, 74874]  # as printed in ChatGLM-6B's own documentation
    check_tokenizer(released, 130528, "ChatGLM-6B")


def test_released_ids_of_code(released):
    # newline, run of four blanks and tab: ids that the released tokenizer gives, kept in chatglm.cpp's tests
    ids = [1616, 594, 125936, 4, 130011, 2274, 89, 7283, 398, 125686, 130008, 61, 25672]
    assert released.encode(CODE) == ids
    assert released.decode(ids) == CODE
    waving = [130328, 130247, 130233, 130227]
    assert released.encode("👋") == [5, *waving]
    assert released.decode(waving) == "👋"


def test_first_release_counts_image_tokens(tmp_path):
    file = ice_text(tmp_path, RELEASED, 130000)
    (tmp_path / CONFIG).write_text(json.dumps({"num_image_tokens": 20000}), "utf-8")
    for old in (build_chatglm(file), build_chatglm(tmp_path)):
        assert (old.vocabulary, old.gmask_id, old.sop_id, old.end_id) == (150344, 150001, 150004, 150005)
        assert old.encode("你好") == [20005, 94874]
        assert old.decode([12, 19999, 20005, 94874, 150005]) == "你好"
    with pytest.raises(UserError, match=r"does not belong to ChatGLM-6B: its largest id is 150343.*130528"):
        check_tokenizer(old, 130528, "ChatGLM-6B")


def test_small_file(small):
    first = 6 + 8  # id of [MASK]
    assert small.vocabulary == first + 8 + 80 + 256
    assert (small.gmask_id, small.sop_id, small.end_id, small.pad_id) == (first + 1, first + 4, first + 5, 3)
    assert small.encode("a dog") == [7, 9]
    assert small.encode("红色\na") == [5, 12, 4, 6]
    assert small.encode("a\t   a") == [7, first + 8, first + 10, 6]  # tab, then <|blank_3|>
    assert small.encode("") == []


@pytest.mark.parametrize(
    "text",
    [
        "红色，红狗",
        "a dog",
        "a\n\n红\n",
        "\na",
        "  a   dog" + " " * 7 + "a",
        " " * 80 + "a" + " " * 81 + "a" + " " * 85,
        " a ",
        "\t\ta\t",
        "🙂 龘 é",
        "１２ ａ　b",
        "[gMASK] <sop> <eop> <pad> <unk> </s> [MASK]",
        "a\r\nb",
    ],
)
def test_text_comes_back(small, text):
    ids = small.encode(text)
    assert small.decode(ids) == text
    assert max(ids) < small.vocabulary
    assert not {small.gmask_id, small.sop_id, small.end_id, small.pad_id, 0} & set(ids)


def test_decode_leaves_out_what_is_no_text(small):
    around = [small.pad_id, small.gmask_id, small.sop_id, 1, 2]
    assert small.decode([*around, 7, small.end_id, 9, small.vocabulary + 5, small.pad_id]) == "a dog"
    assert small.decode([]) == ""
    assert small.decode(small.encode("🙂")[:3]) == "\ufffd" * 2  # half a character


def test_half_a_character_stops_nothing(small):
    assert small.decode(small.encode("a\ud83d")) == "a?"


def test_save_and_build(small, tmp_path):
    small.save(tmp_path / "saved")
    for path in (tmp_path / "saved", tmp_path / "saved" / FILE):
        again = build_tokenizer(Language(tokenizer="not/there"), path)
        assert isinstance(again, ChatGLMTokenizer)
        assert again.__getstate__() == small.__getstate__()
    old = ChatGLMTokenizer(tmp_path / "saved" / FILE, image_tokens=100)
    old.save(tmp_path / "old")
    assert build_chatglm(tmp_path / "old").encode("a dog") == [107, 109]


def test_weights_folder_holds_the_tokenizer(tmp_path):
    ice_text(tmp_path, ["a"])
    assert build_tokenizer(Language(weights=str(tmp_path))).vocabulary == 7 + 344
    assert build_tokenizer(Language(weights="elsewhere", tokenizer=str(tmp_path / FILE))).vocabulary == 7 + 344


def test_goes_to_a_worker(small):
    assert pickle.loads(pickle.dumps(small)).encode("a dog\n") == small.encode("a dog\n")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(small.encode, "红色 a").result() == small.encode("红色 a")


def without(names: set[str], path: Path) -> Path:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(ice_text(path, ["a"]).read_bytes())
    kept = [piece for piece in model.pieces if piece.piece not in names]
    del model.pieces[:]
    model.pieces.extend(kept)
    (path / FILE).write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:5e97\n", "only a Git LFS pointer"),
        (b"not a model", "not a SentencePiece model"),
        (b"", "empty"),
    ],
)
def test_a_file_that_is_no_model(tmp_path, content, message):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match=rf"{FILE}: {message}.*again"):
        build_chatglm(tmp_path)


def test_a_model_that_is_not_chatglm(tmp_path, shared):
    with pytest.raises(UserError, match=r"lacks the pieces \[gMASK\], <sop>$"):
        build_chatglm(without({"[gMASK]", "<sop>"}, tmp_path))
    with pytest.raises(UserError, match=r"spiece.model: a SentencePiece file, but not ChatGLM's.*\.\.\.$"):
        build_chatglm(shared / "data/tokenizers/albert-spiece-fixture/spiece.model")


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"model.language.weights: .* is an empty folder"):
        build_tokenizer(Language(weights=str(tmp_path)))
    (tmp_path / "latest").write_text("1")
    with pytest.raises(UserError, match=r"no ice_text.model there.*SAT folders hold no tokenizer"):
        build_tokenizer(Language(weights=str(tmp_path)))
    with pytest.raises(UserError, match=r"model.language.tokenizer: no such file or folder: .*gone"):
        build_tokenizer(Language(weights=str(tmp_path), tokenizer=str(tmp_path / "gone")))
    with pytest.raises(UserError, match=r"model.language.weights: no such file or folder: gone"):
        build_tokenizer(Language(weights="gone"))


@pytest.mark.parametrize("config", ["[1]", "{", '{"num_image_tokens": "many"}', '{"num_image_tokens": -1}'])
def test_a_config_that_cannot_be(tmp_path, config):
    ice_text(tmp_path, ["a"])
    (tmp_path / CONFIG).write_text(config, "utf-8")
    with pytest.raises(UserError, match=CONFIG):
        build_chatglm(tmp_path)
