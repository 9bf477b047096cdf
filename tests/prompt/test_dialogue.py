"""Several turns and several pictures: where the marks put them, and the ids and labels that become of them."""

from pathlib import Path

import pytest
import torch
from made_tokenizers import ice_text, words_folder

from vglm_train.config.language import Language, Prompt
from vglm_train.config.model import Text
from vglm_train.errors import UserError
from vglm_train.prompt.build import build_template
from vglm_train.prompt.chatglm import build_chatglm
from vglm_train.prompt.dialogue import Dialogue, ImageMarkMismatch, ImageTurn, Turn, image_turns, without_oldest
from vglm_train.prompt.qformer_text import QFormerTokenizer, build_text
from vglm_train.prompt.template import Encoded, Template
from vglm_train.prompt.tokenizers import build_tokenizer

NO, PAD = -100, 1
WORDS = [
    "Question:",
    "▁Question:",
    "▁Answer:",
    "▁Which",
    "▁or",
    "▁Is",
    "▁it?",
    "▁one",
    "▁red",
    "▁yes",
    ".",
    "yes",
    "▁?",
]
ASK, MORE, ANSWER, WHICH, OR, IS, IT, ONE, RED, YES, STOP, BARE_YES, MARK = range(4, 17)
BOS, EOS = 2, 3

PIECES = ["<", "img", ">", "/", "问", "答", "：", "狗", "红", "？", "▁<"]  # from 6 on; 4 is a new line, 5 ▁
OPEN, CLOSE = [16, 7, 8], [16, 9, 7, 8]  # <img> </img> with the blank that begins a text
OPEN_INSIDE = [6, 7, 8]  # <img> behind other text
ASK_ZH, ANSWER_ZH, N = [10, 12], [11, 12], 4
GMASK, SOP, EOP, PAD_ZH = 18, 21, 22, 3


def hf(folder: Path, family: str, places: int = 2, text: QFormerTokenizer | None = None, **prompt) -> Template:
    front, behind = ("<s>", "") if family == "causal" else ("", "</s>")
    words_folder(folder, WORDS, front, behind)
    language = Language(family=family, config="config.json", tokenizer=str(folder))
    return build_template(Prompt(style="blip2", **prompt), language, build_tokenizer(language), places, text)


def chatglm(folder: Path, places: int = 2, **prompt) -> Template:
    file = ice_text(folder, PIECES)
    return build_template(Prompt(**prompt), Language(tokenizer=str(file)), build_chatglm(file), places)


ASKED = Dialogue("Is it?", "yes", (Turn("Which", "one red"),))


@pytest.mark.parametrize(
    ("question", "words", "images"),
    [
        ("what?", "what?", (0,)),
        (" what? ", " what? ", (0,)),  # without a mark nothing is changed
        ("<image>\nwhat?", "what?", (0,)),
        ("what?\n<image>", "what?\n", (6,)),
        ("<image> <image>\n what?", "what?", (0, 0)),
        ("a <image> or <image>?", "a or?", (1, 4)),
        (" <image>a<image><image>", "a", (0, 1, 1)),
        ("<image>", "", (0,)),
    ],
)
def test_marks(question, words, images):
    assert image_turns(Dialogue(question, None)) == [ImageTurn(words, images)]


def test_pictures_without_marks_stand_before_the_first_question():
    turns = image_turns(Dialogue("b", None, (Turn("a", "x"),), images=3))
    assert turns == [ImageTurn("a", (0, 0, 0), "x"), ImageTurn("b")]
    assert image_turns(Dialogue("a", None, images=0)) == [ImageTurn("a")]


@pytest.mark.parametrize(("images", "message"), [(1, "2 <image> marks for 1 picture$"), (3, "2 <image> marks for 3")])
def test_marks_for_other_pictures(images, message):
    with pytest.raises(ImageMarkMismatch, match=message):
        image_turns(Dialogue("<image> b", None, (Turn("<image> a", "x"),), images=images))


def test_an_answer_has_no_mark():
    assert image_turns(Dialogue("b", None, (Turn("a", "<image>"),))) == [
        ImageTurn("a", (0,), "<image>"),
        ImageTurn("b"),
    ]


def test_pictures_of_turns_that_go_stay():
    turns = [ImageTurn("a", (0,), "x"), ImageTurn("bb", (1,), "y"), ImageTurn("ccc", (3,))]
    assert without_oldest(turns, 0) == turns
    assert without_oldest(turns, 1) == [ImageTurn("bb", (0, 1), "y"), turns[2]]
    assert without_oldest(turns, 2) == [ImageTurn("ccc", (0, 0, 3))]


def test_decoder_only_learns_every_answer_at_once(tmp_path):
    row = hf(tmp_path, "causal").encode(ASKED, history_targets=True)
    assert row == Encoded(
        input_ids=[PAD, PAD, BOS, ASK, WHICH, ANSWER, ONE, RED, STOP, MORE, IS, IT, ANSWER, YES, EOS],
        image_starts=(0,),
        labels=[NO, NO, NO, NO, NO, NO, ONE, RED, EOS, NO, NO, NO, NO, YES, EOS],  # </s> where the stop is read
    )


def test_an_answer_with_a_stop_gets_no_second_one(tmp_path):
    made = hf(tmp_path, "causal")
    row = made.encode(Dialogue("Is it?", "yes", (Turn("Which", "one ?"),)), history_targets=True)
    answer = [ONE, MARK]
    assert row.input_ids[6:] == [*answer, MORE, IS, IT, ANSWER, YES, EOS]
    assert row.labels[6:] == [*answer, EOS, NO, NO, NO, YES, EOS]


def test_decoder_only_last_answer_alone(tmp_path):
    made = hf(tmp_path, "causal")
    whole, last = made.encode(ASKED, history_targets=True), made.encode(ASKED)
    assert last.input_ids == whole.input_ids
    assert last.labels == [*[NO] * 13, YES, EOS]
    asked = made.encode_prompt(ASKED)
    assert asked == Encoded(whole.input_ids[:13], (0,), [])


def test_decoder_only_with_pictures_in_every_turn(tmp_path):
    dialogue = Dialogue("<image>\nIs it?", "yes", (Turn("Which <image> or <image> ?", "one red"),))
    row = hf(tmp_path, "causal").encode(dialogue, history_targets=True)
    image = [PAD, PAD]
    first = [BOS, ASK, WHICH, *image, OR, *image, MARK, ANSWER]
    assert row == Encoded(
        input_ids=[*first, ONE, RED, STOP, *image, ASK, IS, IT, ANSWER, YES, EOS],
        image_starts=(3, 6, 13),
        labels=[*[NO] * 10, ONE, RED, EOS, NO, NO, NO, NO, NO, NO, YES, EOS],
    )


def test_encoder_decoder_reads_the_history(tmp_path):
    made = hf(tmp_path, "seq2seq")
    row = made.encode(ASKED, history_targets=True)
    asked = [ASK, WHICH, ANSWER, ONE, RED, STOP, MORE, IS, IT, ANSWER, EOS]
    assert row == Encoded([PAD, PAD, *asked], (0,), [BARE_YES, EOS])
    two = made.encode(Dialogue("Which <image> or <image>", "yes"), history_targets=True)
    assert two == Encoded([ASK, WHICH, PAD, PAD, OR, PAD, PAD, ANSWER, EOS], (2, 5), [BARE_YES, EOS])


def test_chatglm_learns_the_last_answer(tmp_path):
    made = chatglm(tmp_path)
    dialogue = Dialogue("<image>红？", "红", (Turn("狗<image>？", "狗"),), "zh")
    row = made.encode(dialogue, history_targets=True)
    first = [5, *ASK_ZH, 13, *OPEN_INSIDE, PAD_ZH, PAD_ZH, *CLOSE, 15, N, *ANSWER_ZH, 13, N]
    second = [*OPEN_INSIDE, PAD_ZH, PAD_ZH, *CLOSE, *ASK_ZH, 14, 15, N, *ANSWER_ZH]
    prompt = [*first, *second, GMASK, SOP]
    assert row == Encoded(
        input_ids=[*prompt, 5, 14, EOP],
        image_starts=(len([5, *ASK_ZH, 13, *OPEN_INSIDE]), len([*first, *OPEN_INSIDE])),
        labels=[*[NO] * (len(prompt) - 1), SOP, 5, 14, EOP],
    )
    assert made.encode_prompt(dialogue) == Encoded(prompt, row.image_starts, [])


def test_chatglm_with_two_pictures_first(tmp_path):
    row = chatglm(tmp_path, places=1).encode_prompt(Dialogue("狗", None, language="zh", images=2))
    asked = [*CLOSE, *ASK_ZH, 13, N, *ANSWER_ZH, GMASK, SOP]
    assert row == Encoded([*OPEN, PAD_ZH, *CLOSE, *OPEN_INSIDE, PAD_ZH, *asked], (3, 11), [])
    words = chatglm(tmp_path, places=1).encode_prompt(Dialogue("狗", None, language="zh", images=0))
    assert words == Encoded([5, *ASK_ZH, 13, N, *ANSWER_ZH, GMASK, SOP], (), [])


def test_pictures_are_never_cut(tmp_path):
    made = chatglm(tmp_path, places=1, max_prompt=23)
    history = (Turn("<image>狗", "红"), Turn("红", "狗"))
    row = made.encode(Dialogue("狗狗<image>狗狗狗", "红", history, "zh"), history_targets=True)
    kept = [*OPEN, PAD_ZH, *CLOSE, *ASK_ZH, 13, 13, *OPEN_INSIDE, PAD_ZH, *CLOSE, N, *ANSWER_ZH, GMASK, SOP]
    assert row.truncated
    assert row.input_ids == [*kept, 5, 14, EOP]
    assert row.image_starts == (3, 15)
    assert len(kept) - 2 <= 23


def test_lessons_teach_each_answer_once(tmp_path):
    history = tuple(Turn("Which", "one") for _ in range(4))
    dialogue = Dialogue("Which", "one", history)
    turn = 5  # . Question: Which Answer: one, the last without its answer
    frame = 4  # bos Question: Which Answer:
    whole = hf(tmp_path / "a", "causal", max_prompt=frame + 4 * turn)
    assert whole.target_turns(dialogue, history_targets=True) == [4]
    tight = hf(tmp_path / "b", "causal", max_prompt=frame + 4 * turn - 1)
    assert tight.target_turns(dialogue, history_targets=True) == [0, 4]
    pairs = hf(tmp_path / "c", "causal", max_prompt=frame + turn)
    assert pairs.target_turns(dialogue, history_targets=True) == [0, 2, 4]
    assert pairs.target_turns(dialogue) == [0, 1, 2, 3, 4]
    assert hf(tmp_path / "d", "seq2seq").target_turns(dialogue, history_targets=True) == [0, 1, 2, 3, 4]
    row = pairs.encode(dialogue, history_targets=True)
    assert [label for label in row.labels if label != NO] == [ONE, EOS, ONE, EOS]
    assert row.truncated


def test_a_prompt_of_a_long_history_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"with its history is 11 ids long, and prompt\.max_prompt is 10"):
        hf(tmp_path, "causal", max_prompt=10).encode_prompt(ASKED)


def test_a_batch_of_unequal_pictures(tmp_path):
    made = hf(tmp_path, "causal")
    rows = [made.encode(ASKED), None, made.encode(Dialogue("Which <image> or <image>", "one"))]
    batch = made.collate(rows)
    places = [row.nonzero()[:, 0].tolist() for row in batch["visual_mask"]]
    assert places == [[0, 1], [0, 1], [3, 4, 6, 7]]
    assert batch["attention_mask"].sum(1).tolist() == [15, 2, 11]
    batch = made.batch([rows[0], rows[2]], torch.zeros(3, 3, 2, 2))
    assert batch.visual_mask.sum() == 3 * 2


@pytest.fixture
def reader(tmp_path: Path) -> QFormerTokenizer:
    """[PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, is 5, it 6, which 7."""
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "it", "which"]) + "\n")
    return build_text(Text(tokenizer=str(file), max_length=6))


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_the_question_for_a_q_former_that_reads(tmp_path, reader, family):
    made = hf(tmp_path, family, text=reader)
    dialogue = Dialogue("<image> Is it?", "yes", (Turn("<image>Which", "one red"),))
    row = made.encode(dialogue, history_targets=True)
    assert row.question_ids == made.encode_prompt(dialogue).question_ids == (2, 5, 6, 1, 3)  # [CLS] is it ? [SEP]
    assert [label for label in row.labels if label != NO][1:] == [EOS], "one question, one answer a sequence"
    assert made.target_turns(dialogue, history_targets=True) == [0, 1]
    other = made.encode(Dialogue("", "yes"))
    batch = made.collate([row, None, other])
    assert batch["question_ids"].tolist() == [[2, 5, 6, 1, 3], [2, 5, 6, 1, 3], [2, 3, 0, 0, 0], [2, 3, 0, 0, 0]]
    assert batch["question_mask"].sum(1).tolist() == [5, 5, 2, 2]
