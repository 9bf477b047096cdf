"""What was streamed is what decoding all ids at once gives, and is never taken back."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt.made_tokenizers import ice_text, words_folder
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from vglm_train.chat.text import HALF, TextStream
from vglm_train.config.language import Prompt
from vglm_train.prompt.blip2 import CausalTemplate
from vglm_train.prompt.chatglm import build_chatglm
from vglm_train.prompt.tokenizers import HfTokenizer
from vglm_train.prompt.visualglm import PLACEHOLDER, VisualGLMTemplate

TEXTS = [
    "a photo of a dog, and more!",
    "第一张照片: 红色的狗? 是!",
    "naïve café 😀 ＿ x",
    PLACEHOLDER,
    "中,:a;文  two\n\nlines\t.",
]


def template(kind: str, folder: Path):
    if kind == "ice":
        pieces = [*"，。,!:;?[]abc中文狗训练时间", "▁a", "▁[[", "训练时间]]", "▁photo", "狗,", ":中"]
        return VisualGLMTemplate(
            Prompt(max_prompt=200), build_chatglm(ice_text(folder, dict(enumerate(pieces, 6)), 40)), 4
        )
    if kind == "words":
        words_folder(folder, ["▁a", "a", "photo", "▁photo", *"第张照片：，。", "▁", "\n"])
        tokenizer = HfTokenizer(PreTrainedTokenizerFast.from_pretrained(str(folder)))
    elif kind == "bytes":
        backend = Tokenizer(BPE())
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["</s>"], initial_alphabet=alphabet)
        backend.train_from_iterator(TEXTS * 3, trainer)
        tokenizer = HfTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    else:  # as LLaMA's and T5's: pieces with bytes for what they lack
        pieces = [("<unk>", 0.0), ("</s>", 0.0), *((f"<0x{n:02X}>", -5.0) for n in range(256))]
        pieces += [(piece, -2.0) for piece in ("▁", "▁a", "a", "photo", "▁photo", "中", "文", ",", "▁,", "！")]
        backend = Tokenizer(Unigram(pieces, unk_id=0, byte_fallback=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        tokenizer = HfTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>"))
    return CausalTemplate(Prompt(style="blip2", asked="{}", max_prompt=200), tokenizer, 4)


@pytest.fixture(scope="module")
def templates():
    with tempfile.TemporaryDirectory() as folder:
        yield {kind: template(kind, Path(folder) / kind) for kind in KINDS}


KINDS = ("ice", "words", "bytes", "pieces")


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_the_whole_text(templates, kind):
    made, shown = templates[kind], [0]
    known = [made.tokenizer.encode(text) for text in TEXTS]
    vocabulary = made.tokenizer.vocabulary

    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(st.lists(st.one_of(st.integers(0, vocabulary - 1).map(lambda n: [n]), st.sampled_from(known)), max_size=12))
    def check(parts: list[list[int]]) -> None:
        ids = [token for part in parts for token in part if token != made.end_id]
        stream = TextStream(made)
        pieces = [stream.push(token) for token in ids]
        shown[0] += sum(map(bool, pieces))
        assert "".join([*pieces, stream.finish()]) == stream.text
        whole = made.decode(ids)
        if kind == "pieces" and HALF in whole:
            return  # one wrong byte makes transformers lose all bytes beside it, which were shown already
        assert stream.text == whole
        assert not stream.stopped

    check()
    assert shown[0] > 500


@pytest.mark.parametrize("kind", ["ice", "bytes"])
def test_a_stop_string_ends_the_text_before_it(templates, kind):
    made = templates[kind]

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(
        st.lists(st.sampled_from([*"abc ", "中", "狗", ",", "\n"]), max_size=20),
        st.sampled_from(["ab", "a", "\n", "中a", "bc a"]),
    )
    def check(letters: list[str], stop: str) -> None:
        stream, ids, shown = TextStream(made, (stop,)), made.tokenizer.encode("".join(letters)), ""
        for token in ids:
            shown += stream.push(token)
            if stream.stopped:
                break
        shown += stream.finish()
        whole = made.polish(made.tokenizer.decode(ids))
        assert shown == whole.split(stop)[0].rstrip()
        assert stream.stopped == (stop in whole)

    check()


def test_half_a_character_is_held_back(templates):
    made = templates["bytes"]
    ids = [made.tokenizer.find(letter) for letter in "ðŁĺĢ"]  # the four bytes of an emoji, byte-level
    stream = TextStream(made)
    assert [stream.push(token) for token in ids] == ["", "", "", "😀"]
    cut = TextStream(made)
    assert [cut.push(token) for token in ids[:2]] == ["", ""]
    assert cut.finish() == "\ufffd", "an answer that ends within a character says so"


def test_punctuation_waits_for_the_next_character(templates):
    made = templates["ice"]
    for text, wanted in [("a,中", "a，中"), ("a,a", "a,a"), ("中,a", "中，a"), ("a,", "a,")]:
        stream, shown = TextStream(made), []
        for token in made.tokenizer.encode(text):
            shown.append(stream.push(token))
        assert "," not in "".join(shown) or wanted[1] == ","
        assert "".join(shown) + stream.finish() == wanted
