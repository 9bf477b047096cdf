"""VQAv2's accuracy against ten people's answers, with the official rules for texts.

An answer is as right as people agree with it. Each person is left out once; if n of the others gave this answer, it
scores min(1, n / 3). The mean over the ten is the accuracy (Antol et al., VQA, ICCV 2015;
https://visualqa.org/evaluation.html).

Programs differ in which texts they process before they compare them:

| function | answer | people's answers |
|---|---|---|
| `official` (GT-Vision-Lab/VQA, vqaEval.py) | where people disagree | where people disagree |
| `lavis` (salesforce/LAVIS, vqa_tools/vqa_eval.py) | always | punctuation alone, where people disagree |
| `accuracy`, of the task vqa | always | always |
"""

import re
from collections.abc import Callable, Sequence

PEOPLE = 10
NUMBERS = {"none": "0", **{name: str(n) for n, name in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
)}}  # fmt: skip
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
STOPS = 32  # full stops that are removed from one text: the official program passes a flag where the count belongs

# Which words get an apostrophe is not regular: "cant" becomes "can't", "lets" stays.
CONTRACTED = {  # ending -> words that have it
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'ll": "how it somebody someone something they what who why you",
    "'s": "he how somebody someone that there what when where who why",
    "'re": "there they what why you",
    "'am": "ma",
    "'clock": "o",
    "'all": "y",
}
TWICE = {  # of these either apostrophe may be missing
    ("'d", "'ve"): "he it she somebody someone something there they we who you",
    ("n't", "'ve"): "could had might should would",
    ("'all", "'ll"): "y",
}
THRICE = ("y", "'all", "'d", "'ve")  # of these one may be missing
OTHERS = {
    "twas": "'twas",
    "somebody'd": "somebodyd",  # the official program takes this apostrophe away
    **dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at"),
}


def _contractions() -> dict[str, str]:
    """Without an apostrophe -> with it."""
    once = [(word, ending) for ending, words in CONTRACTED.items() for word in words.split()]
    more = [*((word, *endings) for endings, words in TWICE.items() for word in words.split()), THRICE]
    found = {_joined(parts, missing): "".join(parts) for parts in [*once, *more] for missing in range(1, len(parts))}
    return found | OTHERS


def _joined(parts: Sequence[str], missing: int) -> str:
    """The word without the apostrophe of one ending."""
    return "".join(part.replace("'", "") if number == missing else part for number, part in enumerate(parts))


CONTRACTIONS = _contractions()


def without_punctuation(text: str) -> str:
    """Punctuation is removed beside a space, and everywhere if the text has a number such as 1,000; else it becomes a
    space. A full stop stays only before a digit."""
    everywhere, result = re.search(r"\d,\d", text), text
    for mark in PUNCTUATION:
        removed = everywhere or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if removed else " ")
    return re.sub(r"\.(?!\d)", "", result, count=STOPS)


def with_plain_words(text: str) -> str:
    """Lower case, number words as digits, no articles, apostrophes put into contractions, one space between words."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalised(answer: str) -> str:
    """The form in which answers are compared."""
    return with_plain_words(without_punctuation(_one_line(answer)))


def official(output: str, answers: Sequence[str]) -> float:
    """Accuracy from 0 to 1 as the official program computes it. `answers`: one of each person, ten in VQAv2.

    Where all people gave the same answer, nothing is processed: "Red." is then not their "red".
    """
    people = [_one_line(answer) for answer in answers]
    if len(set(people)) == 1:
        return _agreement(_one_line(output), people)
    return _agreement(normalised(output), [normalised(answer) for answer in people])


def lavis(output: str, answers: Sequence[str]) -> float:
    """Accuracy from 0 to 1 as LAVIS computes it, and thus the paper of BLIP-2: by an older official program.

    A person's "two dogs" is not the processed "2 dogs" there.
    """
    process: Callable[[str], str] = without_punctuation if len(set(answers)) > 1 else str
    return _agreement(normalised(output), [process(answer) for answer in answers])


def accuracy(output: str, answers: Sequence[str]) -> float:
    """Accuracy from 0 to 1 with all texts processed. `answers`: one of each person, ten in VQAv2 and OK-VQA."""
    return _agreement(normalised(output), [normalised(answer) for answer in answers])


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _agreement(text: str, people: Sequence[str]) -> float:
    """The accuracy of processed texts. The official program adds in this order, which decides the last digit."""
    assert len(people) > 1
    agree = [person == text for person in people]
    return sum(min(1.0, (sum(agree) - own) / 3) for own in agree) / len(agree)
