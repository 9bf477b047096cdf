"""VQAv2's accuracy against ten people's answers.

An answer is as right as people agree with it. Each person is left out once; if n of the others gave this answer, it
scores min(1, n / 3). The mean over the ten is the accuracy (Antol et al., VQA, ICCV 2015;
https://visualqa.org/evaluation.html). Texts are normalised first as described there: lower case, full stops only in
numbers, number words as digits, no articles, apostrophes put into contractions, other punctuation a space.
"""

import re
from collections.abc import Sequence
from statistics import fmean

PEOPLE = 10
NUMBERS = {"none": "0", **{name: str(n) for n, name in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
)}}  # fmt: skip
ARTICLES = frozenset({"a", "an", "the"})
CONTRACTED = {  # ending -> words that have it
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could i might must should they we what who would you that there",
    "'d": "he how it she that there they we what where who you someone something somebody",
    "'ll": "how it that there they what who you someone something somebody",
    "'s": "he how it let that there what when where who why someone something somebody",
    "'re": "they there what who why you",
    "'m": "i",
    "'am": "ma",
    "'clock": "o",
    "'all": "y",
}
PLAIN_WORDS = frozenset(
    {"its", "were", "wed", "well", "shell", "hell", "ill", "id"}
)  # which are words without the apostrophe


def _contractions() -> dict[str, str]:
    """Without the apostrophe -> with it."""
    whole = [word + ending for ending, words in CONTRACTED.items() for word in words.split()]
    return {word.replace("'", ""): word for word in whole if word.replace("'", "") not in PLAIN_WORDS}


CONTRACTIONS = _contractions()
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def normalised(answer: str) -> str:
    """The form in which answers are compared."""
    text = " ".join(answer.lower().split())
    numbers_with_commas = re.search(r"\d,\d", text)
    for mark in PUNCTUATION:
        removed = f"{mark} " in text or f" {mark}" in text or numbers_with_commas
        text = text.replace(mark, "" if removed else " ")
    text = re.sub(r"(?<!\d)\.(?!\d)|\.(?=\s|$)", "", text)
    kept = [NUMBERS.get(word, word) for word in text.split() if word not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


def accuracy(output: str, answers: Sequence[str]) -> float:
    """Accuracy from 0 to 1. `answers`: one of each person, ten in VQAv2 and OK-VQA."""
    assert len(answers) > 1
    text, people = normalised(output), [normalised(answer) for answer in answers]
    agree = [person == text for person in people]
    return fmean(min(1.0, (sum(agree) - own) / 3) for own in agree)
