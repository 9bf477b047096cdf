"""BLIP-2's prompts for decoder-only and encoder-decoder models, id by id."""

from pathlib import Path

import pytest
from made_tokenizers import gpt2_folder, words_folder

from vglm_train.config.language import Language, Prompt
from vglm_train.errors import UserError
from vglm_train.prompt.build import build_template
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer, Turn
from vglm_train.prompt.template import Encoded, Template
from vglm_train.prompt.tokenizers import build_tokenizer

# <unk> 0, <pad> 1, <s> 2, </s> 3, then these from 4 on
WORDS = [
    "Question:",
    "▁what?",
    "▁Answer:",
    "▁a",
    "▁dog",
    "a",
    "▁red",
    "问",
    "：",
    "答",
    "狗",
    "红",
    "\n",
    "▁where?",
    "▁there.",
]
NO, PAD, EOS = -100, 1, 3
LONG = "a dog" + " red dog" * 4  # ten words


def template(folder: Path, family: str, front: str, behind: str, **prompt) -> Template:
    words_folder(folder, [*WORDS, "▁Question:", "▁dog.", "."], front, behind)
    language = Language(family=family, config="config.json", tokenizer=str(folder))
    return build_template(Prompt(style="blip2", **prompt), language, build_tokenizer(language), 2)


def causal(folder: Path, front: str = "<s>", **prompt) -> Template:
    return template(folder, "causal", front, "", **prompt)


def seq2seq(folder: Path, **prompt) -> Template:
    return template(folder, "seq2seq", "", "</s>", **prompt)


def test_causal_question(tmp_path):
    row = causal(tmp_path).encode(Dialogue("what?", "a dog"))
    assert row == Encoded(
        input_ids=[PAD, PAD, 2, 4, 5, 6, 7, 8, EOS],  # the answer's first word has its blank: ▁a, not a
        image_starts=(0,),
        labels=[NO, NO, NO, NO, NO, NO, 7, 8, EOS],
    )


def test_causal_caption_makes_bos_a_target(tmp_path):
    row = causal(tmp_path).encode(Dialogue("", "a dog"))
    assert row == Encoded([PAD, PAD, 2, 9, 8, EOS], (0,), [NO, NO, 2, 9, 8, EOS])
    assert causal(tmp_path).encode_prompt(Dialogue("", None)) == Encoded([PAD, PAD, 2], (0,), [])


def test_causal_without_bos(tmp_path):
    made = causal(tmp_path, front="")
    assert made.encode(Dialogue("", "a dog")) == Encoded([PAD, PAD, 9, 8, EOS], (0,), [NO, NO, 9, 8, EOS])
    assert made.encode_prompt(Dialogue("", None)) == Encoded([PAD, PAD], (0,), [])
    assert made.encode(Dialogue("what?", "a")).input_ids == [PAD, PAD, 4, 5, 6, 7, EOS]


def test_causal_prompt_before_a_caption(tmp_path):
    """As LAVIS fine-tunes captions: `a` here for its "a photo of ", whose blank goes to the next word."""
    row = causal(tmp_path, asked="{}").encode(Dialogue("a ", "dog"))
    assert row == Encoded([PAD, PAD, 2, 9, 8, EOS], (0,), [NO, NO, NO, NO, 8, EOS])


def test_causal_chinese_has_no_blanks(tmp_path):
    made = causal(tmp_path, asked="问：{}答：")
    row = made.encode(Dialogue("狗", "红狗", language="zh"))
    assert row == Encoded([PAD, PAD, 2, 11, 12, 14, 13, 12, 15, 14, EOS], (0,), [*[NO] * 8, 15, 14, EOS])
    assert made.decode([15, 14, EOS, 14]) == "红狗"


def test_history(tmp_path):
    dialogue = Dialogue("where?", "a", (Turn("what?", "a dog"),))
    turn = [4, 5, 6, 7, 8, 21, 19, 17, 6]  # Question: what? Answer: a dog. Question: where? Answer:
    assert causal(tmp_path / "one").encode_prompt(dialogue) == Encoded([PAD, PAD, 2, *turn], (0,), [])
    assert seq2seq(tmp_path / "two").encode_prompt(dialogue) == Encoded([PAD, PAD, *turn, EOS], (0,), [])


def test_prompt_is_the_beginning_of_what_is_learnt(tmp_path):
    made = causal(tmp_path)
    for dialogue in (Dialogue("what?", "a dog"), Dialogue("", "a dog"), Dialogue("", "狗", language="zh")):
        asked = made.encode_prompt(dialogue).input_ids
        assert made.encode(dialogue).input_ids[: len(asked)] == asked


def test_an_end_of_ones_own(tmp_path):
    made = causal(tmp_path, end="\n")
    assert made.end_id == 16
    assert made.encode(Dialogue("", "a\n\n red dog\n")).input_ids == [PAD, PAD, 2, 9, 10, 8, 16]
    assert made.decode([9, 8, 16, 8, EOS]) == "a dog"
    with pytest.raises(UserError, match=r"prompt.end: 'a dog' is 2 ids \(9, 8\) for this tokenizer and must be one"):
        causal(tmp_path, end="a dog")
    assert causal(tmp_path, end="<s>").end_id == 2


def test_causal_cutting(tmp_path):
    turns = (Turn("where?", "there"), Turn("what?", "dog"))
    dialogue = Dialogue("what? " * 30, LONG, turns)
    row = causal(tmp_path, max_prompt=10, max_answer=4).encode(dialogue)
    assert row == Encoded(
        input_ids=[PAD, PAD, 2, 4, *[5] * 7, 6, 7, 8, 10, 8],
        image_starts=(0,),
        labels=[*[NO] * 12, 7, 8, 10, 8],
        truncated=True,
    )
    short = causal(tmp_path, max_answer=11).encode(Dialogue("what?", LONG))
    assert (short.truncated, short.labels[-1], len(short.labels)) == (False, EOS, 17)
    assert causal(tmp_path, max_answer=10).encode(Dialogue("what?", LONG)).labels[-1] == 8
    with pytest.raises(UserError, match=r"is 34 ids long, and prompt.max_prompt is 10"):
        causal(tmp_path, max_prompt=10).encode_prompt(Dialogue(("what? " * 31).strip(), None))


def test_max_prompt_without_room(tmp_path):
    with pytest.raises(UserError, match=r"prompt.max_prompt: 3 ids are too few for any question in 'en'"):
        causal(tmp_path, max_prompt=3).encode(Dialogue("what?", "a"))


@pytest.mark.parametrize("answer", [None, "", "\n "])
def test_an_empty_answer(tmp_path, answer):
    for made in (causal(tmp_path / "one"), seq2seq(tmp_path / "two")):
        with pytest.raises(EmptyAnswer, match=r"an answer is empty: the one to 'what\?'"):
            made.encode(Dialogue("what?", answer))


def test_seq2seq_question(tmp_path):
    row = seq2seq(tmp_path).encode(Dialogue("what?", "a dog"))
    assert row == Encoded([PAD, PAD, 4, 5, 6, EOS], (0,), [9, 8, EOS])
    assert seq2seq(tmp_path).encode(Dialogue("", "a dog")) == Encoded([PAD, PAD, EOS], (0,), [9, 8, EOS])


@pytest.mark.parametrize(
    ("caption", "split", "first"),
    [
        ("a dog red dog", 0.0, 1),
        ("a dog red dog", 0.49, 1),
        ("a dog red dog", 0.5, 2),
        ("a dog red dog", 0.999, 2),
        ("a dog red", 0.999, 1),
        ("a dog", 0.999, 1),
        ("a", 0.5, 0),
        (LONG, 0.2, 2),
        (LONG, 0.999, 5),
        ("a dog red dog", None, 0),
    ],
)
def test_prefix_split(tmp_path, caption, split, first):
    made = seq2seq(tmp_path, prefix_split=True)
    words = made.tokenizer.encode(caption)
    row = made.encode(Dialogue("", caption), split)
    assert row == Encoded([PAD, PAD, *words[:first], EOS], (0,), [*words[first:], EOS])
    asked = made.encode(Dialogue("what?", caption), split)
    assert asked.input_ids == [PAD, PAD, 4, 5, 6, *words[:first], EOS]


def test_prefix_split_covers_each_point_alike(tmp_path):
    made = seq2seq(tmp_path, prefix_split=True)
    cuts = [len(made.encode(Dialogue("", LONG), number / 100).input_ids) - 3 for number in range(100)]
    assert [cuts.count(first) for first in range(7)] == [0, 20, 20, 20, 20, 20, 0]


def test_prefix_split_only_where_it_is_configured(tmp_path):
    assert seq2seq(tmp_path).encode(Dialogue("", "a dog"), 0.5).labels == [9, 8, EOS]
    with pytest.raises(UserError, match=r"prompt.prefix_split: needs a seq2seq language model.*family is causal"):
        causal(tmp_path, prefix_split=True)


def test_seq2seq_cutting(tmp_path):
    made = seq2seq(tmp_path, prefix_split=True, max_prompt=6, max_answer=6)
    row = made.encode(Dialogue("what?", LONG), 0.9)  # the midpoint of six words is 3, but there is room for 2
    assert row == Encoded([PAD, PAD, 4, 5, 6, 9, 8, EOS], (0,), [10, 8, 10, 8, 10, 8], truncated=True)
    roomy = seq2seq(tmp_path, prefix_split=True, max_answer=6).encode(Dialogue("", LONG), 0.9)
    assert roomy == Encoded([PAD, PAD, 9, 8, 10, EOS], (0,), [8, 10, 8, 10, 8, 10], truncated=True)
    row = made.encode(Dialogue("what? " * 9, "a dog"), 0.9)
    assert row == Encoded([PAD, PAD, 4, 5, 5, 5, 6, EOS], (0,), [9, 8, EOS], truncated=True)


def test_seq2seq_labels_have_a_length_of_their_own(tmp_path):
    made = seq2seq(tmp_path)
    rows = made.collate([made.encode(Dialogue("what?", "a")), None, made.encode(Dialogue("", LONG))])
    assert rows["input_ids"].tolist() == [[1, 1, 4, 5, 6, 3], [1] * 6, [1, 1, 3, 1, 1, 1]]
    assert rows["attention_mask"].sum(1).tolist() == [6, 2, 3]
    assert rows["visual_mask"].int().tolist() == [[1, 1, 0, 0, 0, 0]] * 3
    assert rows["labels"].tolist()[:2] == [[9, 3, *[NO] * 9], [NO] * 11]
    assert rows["labels"].tolist()[2][-2:] == [8, 3]
    prompts = made.collate([made.encode_prompt(Dialogue("what?", None))])
    assert prompts["labels"].tolist() == [[NO]]


def test_opt_as_lavis_has_it(tmp_path, shared):
    language = Language(family="causal", config="config.json", tokenizer=str(tmp_path))
    gpt2_folder(tmp_path, shared / "data/tokenizers/roberta-opt")
    tokenizer = build_tokenizer(language)
    made = build_template(Prompt(style="blip2", end="\n"), language, tokenizer, 3)
    row = made.encode(Dialogue("", "two dogs play"))
    assert row == Encoded([1, 1, 1, 2, 7109, 3678, 310, 50118], (0,), [NO, NO, NO, 2, 7109, 3678, 310, 50118])
    row = made.encode(Dialogue("what is it?", "two dogs"))
    asked = [45641, 35, 99, 16, 24, 116, 31652, 35]  # Question: what is it? Answer:
    assert row == Encoded([1, 1, 1, 2, *asked, 80, 3678, 50118], (0,), [*[NO] * 12, 80, 3678, 50118])
    assert made.decode(row.labels[12:]) == "two dogs"
    assert made.decode(tokenizer.encode("狗在跑。🙂")) == "狗在跑。🙂"
