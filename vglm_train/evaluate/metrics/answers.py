"""Scores of short answers: right or wrong for closed questions, overlap of words for open ones.

The usual script for medical questions (LLaVA-Med, `llava/eval/run_eval_batch.py`) looks for letters: it finds "no" in
"normal", and both "yes" and "no" in "yes and no". This module compares whole words.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{HAN}]|\d+\.\d+|[^\W{HAN}]+")  # a Chinese character is a word
ARTICLES = frozenset({"a", "an", "the"})

YES = frozenset({"yes", "yeah", "yep", "true"})
NO = frozenset({"no", "not", "none", "nope", "never", "false", "cannot"})
HAN_YES = ("是的", "对的", "有的", "正确", "存在", "可以", "是", "有", "对", "能", "会")
HAN_NO = ("不是", "没有", "不存在", "不可以", "不正确", "不能", "不会", "不对", "错误", "没", "无", "否", "不")
# 是, 有 and negations mean yes or no anywhere; 能, 会, 对 only at the beginning of a clause: 可能 is neither
CLAUSE = re.compile(r"[^\w\s]+")
LEADING = re.compile("(?!无[法论]|对[称比于])(?:" + "|".join(sorted((*HAN_YES, *HAN_NO), key=len, reverse=True)) + ")")
INNER = re.compile(r"没有|不是|不存在|未见|未发现|无(?![法论])|否|不|(?<!所)(?<!具)有(?!限)|存在|是(?!否)")
NEGATIONS_BEFORE = frozenset({"not", "no", "不", "非", "无"})


def words(text: str) -> list[str]:
    """Lower-case words and numbers without punctuation; each Chinese character is one."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("'", "").replace("\u2019", "")
    return WORD.findall(plain)


def normalised(text: str) -> list[str]:
    """`words` without English articles; with them if there are no others."""
    all_words = words(text)
    return [word for word in all_words if word not in ARTICLES] or all_words


def polarity(text: str) -> bool | None:
    """True if the first word that means yes or no, in English or Chinese, means yes; None if there is no such word."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    if re.search(f"[{HAN}]", plain):
        return _chinese_polarity(plain)
    for word in re.findall(r"[a-z']+", plain):
        if word in YES:
            return True
        if word in NO or word.endswith("n't"):
            return False
    return None


def _chinese_polarity(text: str) -> bool | None:
    for clause in CLAUSE.split(text):
        match = LEADING.match(clause.strip()) or INNER.search(clause)
        if match:
            return match[0] in HAN_YES
    return None


def truth_polarity(truth: str) -> bool | None:
    """True or False if the true answer is a plain yes or no, else None."""
    whole = "".join(words(truth))
    if whole in YES or whole in HAN_YES:
        return True
    return False if whole in {"no", "nope", "false"} or whole in HAN_NO else None


def closed(output: str, truth: str, options: Iterable[str] = ()) -> bool:
    """Whether the answer to a closed question is right.

    Yes or no: the first word of the answer that means either counts. Other choices: the answer is the true option, or
    names the true one of `options` and no other. Without other options it must be the true one and nothing else.
    """
    yes = truth_polarity(truth)
    if yes is not None:
        return polarity(output) == yes
    if exact(output, truth):
        return True
    others = {tuple(words(option)) for option in options} - {tuple(words(truth))}
    return bool(others) and _named(words(output), {*others, tuple(words(truth))}) == {tuple(words(truth))}


def _named(output: list[str], options: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Options that the answer names without a negation; of two options one of which contains the other, the longer."""
    named, position = set(), 0
    longest_first = sorted((option for option in options if option), key=len, reverse=True)
    while position < len(output):
        match = next((o for o in longest_first if tuple(output[position : position + len(o)]) == o), None)
        if match and not _is_negated(output[:position]):
            named.add(match)
        position += len(match) if match else 1
    return named


def _is_negated(before: list[str]) -> bool:
    return bool(before) and (before[-1] in NEGATIONS_BEFORE or before[-2:] == ["不", "是"])


def question_options(question: str, truth: str) -> list[str]:
    """The options that a question names ("... left or right?"), each with as many words as the true answer.

    Empty unless the true answer is among them.
    """
    true = tuple(normalised(truth))
    parts = [normalised(part) for part in re.split(r"\s+or\s+|[,，、]|还是|或者", question.lower().rstrip("?？。. "))]
    if len(parts) < 2 or not true:
        return []
    k = len(true)
    ends = {tuple(part[-k:]) for part in parts[:-1]} | {tuple(part[:k]) for part in parts[1:]}
    return [" ".join(end) for end in sorted(ends) if len(end) == k] if true in ends else []


def exact(output: str, truth: str) -> bool:
    """Whether the words are the same, apart from case, punctuation and articles."""
    return normalised(output) == normalised(truth)


def overlap(output: str, truth: str) -> tuple[float, float]:
    """(recall, F1) of the true words in the answer; repeated words count. Chinese is compared by character."""
    answer, true = Counter(normalised(output)), Counter(normalised(truth))
    shared = (answer & true).total()
    if not shared:
        return 0.0, 0.0
    return shared / true.total(), 2 * shared / (answer.total() + true.total())


def commonest(answers: Sequence[str]) -> str:
    """The commonest of the answers, the first one of equally common ones."""
    return Counter(answers).most_common(1)[0][0]
