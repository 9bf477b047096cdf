"""A row that is no list of turns: its question with the answers to it, or its captions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vglm_train.data.record import RecordError, kind_of
from vglm_train.data.tables.answers import EMPTY, Answer, answers_of, commonest
from vglm_train.data.tables.cells import answer_text, caption_text, doubt, is_missing, says_nothing
from vglm_train.data.tables.choices import Choice, chosen, doubts, is_text_of, read_choices, refuse_letter, written
from vglm_train.data.tables.fields import Columns, by_language, value
from vglm_train.data.tables.pictures import Picture
from vglm_train.data.tables.turns import MARK_IN_ANSWER, Turns, history_turns, marked
from vglm_train.prompt.dialogue import IMAGE, is_chinese

NO_QUESTION = "no question, so that the answer is read as a caption"
OTHER_LANGUAGE = "an answer in another language than the question, left out"
SAMPLED = 100  # characters that the language is told from

Texts = dict[str, Any]  # of a record: turns, answers and options, or captions


def row_texts(row: Mapping[str, Any], columns: Columns, notes: list[str]) -> tuple[Texts, list[Picture]]:
    """What the row asks and answers, or its captions; and the pictures that its texts name.

    `notes` gets what is left out or doubtful. RecordError where nothing is answered, or a cell is no text.
    """
    asked = value(row, columns.question)
    if isinstance(asked, list | tuple) and len(asked) > 1:
        return _several(asked, row, columns, notes)
    question, inside = marked(_question(row, columns, asked))
    choices = read_choices(row, columns.options)
    earlier, pictures = _history(row, columns, notes)
    if not (question or choices or earlier):
        notes += [NO_QUESTION] * bool(columns.question)
        return _captions(row, columns, notes), inside
    by_text = [True]
    say = _answer(question, choices, columns, notes, by_text)
    answers = _of_language(_answers(row, columns, say, notes), question, notes)
    if choices and not (columns.fixed_question and all(by_text)):
        question = written(question, choices)
    texts = [answer.text for answer in answers]
    notes += doubts(choices, texts)
    learned = commonest(answers)
    _doubt(learned, True, notes)
    turns = [*earlier, {"role": "user", "text": question}, {"role": "assistant", "text": learned}]
    found: Texts = {"turns": turns} | ({"answers": texts} if len(texts) > 1 else {})
    if len(choices) > 1:
        found["options"] = [choice.text for choice in choices]
    return found, [*pictures, *inside]


def language_of(text: str) -> str:
    """From the beginning of a long text, which may be one of hundreds of thousands."""
    return "zh" if not text.isascii() and is_chinese(text[:SAMPLED]) else "en"


def _question(row: Mapping[str, Any], columns: Columns, asked: Any) -> str:
    """Context, question and input, a line each; empty where there is neither question nor input."""
    parts = [_line(asked), _line(value(row, columns.input))]
    if any(parts):
        parts = [_line(value(row, columns.context)), *parts]
    return "\n".join(filter(None, parts))


def _line(cell: Any) -> str:
    """A part of a question as it is written."""
    if isinstance(cell, list | tuple) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, str):
        return "" if says_nothing(cell, asked=True) else cell
    if isinstance(cell, bool | list | tuple | dict | bytes) and not is_missing(cell):
        raise RecordError("record", f"a question must be a text: found {kind_of(cell)}")
    return answer_text(cell, "") or ""


def _history(row: Mapping[str, Any], columns: Columns, notes: list[str]) -> tuple[Turns, list[Picture]]:
    held = value(row, columns.history)
    return ([], []) if held is None else history_turns(held, notes)


def _answer(
    question: str, choices: Sequence[Choice], columns: Columns, notes: list[str], by_text: list[bool]
) -> Callable[[Any], str | None]:
    """What makes an answer of a cell. `by_text` gets whether it is a choice's text, where it is a choice."""

    def say(cell: Any) -> str | None:
        if isinstance(cell, bool):
            cell = answer_text(cell, question)
        if columns.options and not choices:
            refuse_letter(cell, question)
        choice = chosen(cell, choices, notes, columns.first_choice) if choices and not is_missing(cell) else None
        if choice is None:
            return answer_text(cell, question)
        by_text.append(is_text_of(choice, cell))
        return choice.text

    return say


def _answers(
    row: Mapping[str, Any], columns: Columns, say: Callable[[Any], str | None], notes: list[str]
) -> list[Answer]:
    """Every answer there is, with its language where the row or a column's name gives it."""
    if by_name := by_language(row, columns):
        found = [
            answer._replace(language=answer.language or name[-2:].lower())
            for name in by_name
            for answer in answers_of(row[name], say, notes)
        ]
    else:
        found = list(answers_of(value(row, columns.answer), say, notes))
    if not found:
        raise RecordError("caption", "the row has no answer")
    return found


def _of_language(answers: list[Answer], question: str, notes: list[str]) -> list[Answer]:
    """Where answers have languages, those in the question's."""
    own = [answer for answer in answers if answer.language in (None, language_of(question))]
    if own and len(own) < len(answers):
        notes.append(OTHER_LANGUAGE)
    return own or answers


def _captions(row: Mapping[str, Any], columns: Columns, notes: list[str]) -> Texts:
    captions: dict[str, list[str]] = {}
    for text, language, _ in _answers(row, columns, caption_text, notes):
        _doubt(text, False, notes)
        captions.setdefault(language or language_of(text), []).append(text)
    return {"captions": captions}


def _several(
    questions: Sequence[Any], row: Mapping[str, Any], columns: Columns, notes: list[str]
) -> tuple[Texts, list[Picture]]:
    """Questions in one list and their answers in another, as turns."""
    answers = value(row, columns.answer)
    if not isinstance(answers, list | tuple) or len(answers) != len(questions):
        number = len(answers) if isinstance(answers, list | tuple) else 1
        raise RecordError("record", f"as many answers as questions are needed: {len(questions)} questions, {number}")
    if read_choices(row, columns.options):
        raise RecordError("record", "several questions in one row have choices: give each question a row")
    earlier, pictures = _history(row, columns, notes)
    turns: Turns = []
    for asked, answer in zip(questions, answers):
        question, inside = marked(_line(asked))
        text = answer_text(answer, question)
        if not question or text is None:
            notes.append(EMPTY)
            continue
        turns += [{"role": "user", "text": question}, {"role": "assistant", "text": text}]
        pictures += inside
    if not turns:
        raise RecordError("caption", "the row has no answer")
    return {"turns": [*earlier, *turns]}, pictures


def _doubt(text: str, asked: bool, notes: list[str]) -> None:
    if (doubtful := doubt(text, asked)) is not None:
        notes.append(doubtful)
    notes += [MARK_IN_ANSWER] * (IMAGE in text)
