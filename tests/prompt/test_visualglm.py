"""VisualGLM's prompts, id by id."""

from pathlib import Path

import pytest
from made_tokenizers import ice_text

from vglm_train.config.language import Language, Prompt
from vglm_train.errors import UserError
from vglm_train.prompt.build import build_template
from vglm_train.prompt.chatglm import build_chatglm
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer, Turn
from vglm_train.prompt.template import Encoded, Template
from vglm_train.prompt.visualglm import chinese_punctuation

# 0 <unk>, 1 <s>, 2 </s>, 3 <pad>, 4 <n>, 5 ▁, then these from 6 on
PIECES = [
    "▁<",
    "img",
    ">",
    "/",
    "问",
    "答",
    "：",
    "狗",
    "红",
    "？",
    "Q",
    "A",
    ":",
    "a",
    "▁a",
    "▁dog",
    "what",
    "?",
    "▁红",
]
OPEN = [6, 7, 8]  # ▁< img >
CLOSE = [6, 9, 7, 8]  # ▁< / img >
N = 4
ASK_ZH, ANSWER_ZH = [10, 12], [11, 12]  # 问： 答：
ASK_EN, ANSWER_EN = [16, 18], [17, 18]  # Q: A:
MASK, SOP, EOP = 25 + 1, 25 + 4, 25 + 5
PAD = 3
NO = -100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ice_text(tmp_path, PIECES).parent


def template(folder: Path, places: int = 2, **prompt) -> Template:
    return build_template(Prompt(**prompt), Language(tokenizer=str(folder)), build_chatglm(folder), places)


def test_chinese(folder):
    row = template(folder).encode(Dialogue("狗？", "红狗", language="zh"))
    prompt = [*OPEN, PAD, PAD, *CLOSE, 10, 12, 13, 15, N, 11, 12, MASK]
    assert row == Encoded(
        input_ids=[*prompt, SOP, 24, 13, EOP],
        image_starts=(3,),
        labels=[*[NO] * 17, SOP, 24, 13, EOP],
        truncated=False,
    )


def test_english(folder):
    row = template(folder, places=1).encode(Dialogue("what?", "a dog"))
    assert row == Encoded(
        input_ids=[6, 7, 8, PAD, 6, 9, 7, 8, 16, 18, 22, 23, N, 17, 18, MASK, SOP, 20, 21, EOP],
        image_starts=(3,),
        labels=[NO] * 16 + [SOP, 20, 21, EOP],
    )


def test_history(folder):
    turns = (Turn("狗？", "红"), Turn("红？", "狗"))
    row = template(folder).encode_prompt(Dialogue("狗", None, turns, "zh"))
    first = [*ASK_ZH, 13, 15, N, *ANSWER_ZH, 14, N]
    second = [*ASK_ZH, 14, 15, N, *ANSWER_ZH, 13, N]
    asked = [*ASK_ZH, 13, N, *ANSWER_ZH]
    assert row == Encoded([*OPEN, PAD, PAD, *CLOSE, *first, *second, *asked, MASK, SOP], (3,), [])


def test_history_in_english(folder):
    row = template(folder).encode_prompt(Dialogue("what?", None, (Turn("a", "dog"),), "en"))
    first = [*ASK_EN, 19, N, *ANSWER_EN]
    rest = row.input_ids[9 + len(first) :]
    assert row.input_ids[9 : 9 + len(first)] == first
    assert rest[-9:] == [*ASK_EN, 22, 23, N, *ANSWER_EN, MASK, SOP]


def test_prompt_is_the_beginning_of_what_is_learnt(folder):
    dialogue = Dialogue("what?", "a dog", (Turn("a dog?", "a"),))
    made = template(folder)
    learnt, asked = made.encode(dialogue), made.encode_prompt(dialogue)
    assert learnt.input_ids[: len(asked.input_ids)] == asked.input_ids
    assert learnt.labels[len(asked.input_ids) - 1] == SOP
    assert learnt.image_starts == asked.image_starts


def test_newlines_in_an_answer(folder):
    made = template(folder)
    row = made.encode(Dialogue("狗", " 红\n\n狗 \n", language="zh"))
    assert row.labels[-6:] == [SOP, 24, N, N, 13, EOP]
    assert made.decode(row.labels[-5:]) == "红\n\n狗"


@pytest.mark.parametrize("room", [19, 20, 21, 22, 28])
def test_a_long_question_loses_its_end_and_nothing_else(folder, room):
    made = template(folder, max_prompt=room)
    row = made.encode(Dialogue("狗" * 40, "红", (Turn("红", "狗"), Turn("狗", "红")), "zh"))
    frame = len(OPEN) + len(CLOSE) + 2 + 3 + 2  # 问： ... <n>答：[gMASK] <sop>
    kept = [13] * (room - frame)
    prompt = [*OPEN, PAD, PAD, *CLOSE, *ASK_ZH, *kept, N, *ANSWER_ZH, MASK, SOP]
    assert row.input_ids == [*prompt, 24, EOP]
    assert len(prompt) - 2 == room
    assert row.truncated


def test_oldest_turns_go_first(folder):
    turns = (Turn("红红红", "红"), Turn("狗", "狗"))
    dialogue = Dialogue("狗？", "红", turns, "zh")
    frame, second, first = 16, 8, 10
    whole = template(folder, max_prompt=frame + second + first).encode(dialogue)
    assert not whole.truncated
    assert len(whole.input_ids) == frame + second + first + 2 + 2
    for room in (frame + second + first - 1, frame + second):
        row = template(folder, max_prompt=room).encode(dialogue)
        assert row.truncated
        assert row.input_ids[9:16] == [*ASK_ZH, 13, N, *ANSWER_ZH, 13]
    row = template(folder, max_prompt=frame + second - 1).encode(dialogue)
    assert row.truncated
    assert row.input_ids[9:] == [*ASK_ZH, 13, 15, N, *ANSWER_ZH, MASK, SOP, 24, EOP]


def test_a_long_answer_loses_its_end_mark_too(folder):
    dialogue = Dialogue("狗", "狗" * 6, language="zh")  # ▁ and six
    whole = template(folder, max_answer=8).encode(dialogue)
    assert (whole.labels[-9:], whole.truncated) == ([SOP, 5, *[13] * 6, EOP], False)
    for limit in (7, 3):
        row = template(folder, max_answer=limit).encode(dialogue)
        assert row.truncated
        answer = [5, *[13] * (limit - 1)]
        assert row.input_ids[-limit:] == answer
        assert row.labels[-limit - 1 :] == [SOP, *answer]


def test_chat_is_not_cut(folder):
    made = template(folder, max_prompt=18)
    assert len(made.encode_prompt(Dialogue("狗狗狗狗", None, language="zh")).input_ids) == 20
    with pytest.raises(UserError, match=r"is 19 ids long, and prompt.max_prompt is 18"):
        made.encode_prompt(Dialogue("狗狗狗狗狗", None, language="zh"))
    with pytest.raises(UserError, match="with its history is 23 ids long"):
        made.encode_prompt(Dialogue("狗", None, (Turn("狗", "红"),), "zh"))


@pytest.mark.parametrize("answer", [None, "", " \n\t "])
def test_an_empty_answer(folder, answer):
    with pytest.raises(EmptyAnswer, match="an answer is empty: the one to '狗？'"):
        template(folder).encode(Dialogue("狗？", answer, language="zh"))


def test_max_prompt_without_room(folder):
    with pytest.raises(UserError, match=r"prompt.max_prompt: 13 ids are too few for any question in 'en'"):
        template(folder, max_prompt=13)
    with pytest.raises(UserError, match=r"prompt.max_prompt: 14 ids are too few for any question in 'zh'; raise it"):
        template(folder, max_prompt=14).encode(Dialogue("狗", "狗", language="zh"))


def test_an_answer_reads_as_in_visualglms_chat(folder):
    made = template(folder)
    ids = [*made.tokenizer.encode("红?狗:a?"), EOP, 13, 13]
    assert made.decode(ids) == "红？狗：a?"
    assert made.decode([]) == ""
    assert chinese_punctuation("狗,a! 红;b,c ?猫:1") == "狗，a! 红；b,c ？猫：1"
    assert chinese_punctuation("截至[[训练时间]]") == "截至2023年"


def test_no_user_text_becomes_a_special_token(folder):
    row = template(folder, max_prompt=400, max_answer=400).encode(Dialogue("<sop>[gMASK]</s>", "<eop><pad>"))
    assert [row.input_ids.count(number) for number in (MASK, SOP, EOP, PAD)] == [1, 1, 1, 2]


def test_what_does_not_go_together(folder):
    tokenizer = build_chatglm(folder)
    for family in ("causal", "seq2seq"):
        language = Language(family=family, config="config.json", tokenizer=str(folder))
        with pytest.raises(
            UserError, match=f"prompt.style: a language model of family {family} is prompted with style"
        ):
            build_template(Prompt(), language, tokenizer, 2)
    with pytest.raises(UserError, match=r"prompt.style: .*chatglm.* style visualglm, not blip2"):
        build_template(Prompt(style="blip2"), Language(tokenizer=str(folder)), tokenizer, 2)


def test_an_end_of_ones_own(folder):
    made = template(folder, end="？")
    with pytest.raises(UserError, match=r"prompt.end: '狗？红' is 4 ids \(5, 13, 15, 14\)"):
        template(folder, end="狗？红")
    row = made.encode(Dialogue("狗", "红？狗？", language="zh"))
    assert row.labels[-5:] == [SOP, 24, 5, 13, 15]  # a blank where the answer would have ended
    assert made.decode([24, 15, 13]) == "红"
