"""Short answers: right or wrong where there is a choice, overlap of words where there is none.

The usual script for medical questions (LLaVA-Med, `llava/eval/run_eval.py`) finds "no" in "normal", leaves answers that
it cannot judge out of the count, and gives nothing for a choice other than yes or no. Here words are whole, every
answer counts, and a choice is matched as such.
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
# 是, 有 and negations say yes or no wherever they stand; 能, 会, 对 do so only where a clause begins: 可能 is neither
CLAUSE = re.compile(r"[^\w\s]+")
LEADING = re.compile("(?!无[法论]|对[称比于])(?:" + "|".join(sorted((*HAN_YES, *HAN_NO), key=len, reverse=True)) + ")")
INNER = re.compile(r"没有|不是|不存在|未见|未发现|无(?![法论])|否|不|(?<!所)(?<!具)有(?!限)|存在|是(?!否)")
REFUSED_BEFORE = frozenset({"not", "no", "不", "非", "无"})


def words(text: str) -> list[str]:
    """Lower-case words and numbers without punctuation; each Chinese character is one."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("'", "").replace("\u2019", "")
    return WORD.findall(plain)


def normalised(text: str) -> list[str]:
    """`words` without English articles, unless nothing else is there."""
    found = words(text)
    return [word for word in found if word not in ARTICLES] or found


def polarity(text: str) -> bool | None:
    """What the first word that says yes or no says, in English or Chinese; None where there is none."""
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
        found = LEADING.match(clause.strip()) or INNER.search(clause)
        if found:
            return found[0] in HAN_YES
    return None


def truth_polarity(truth: str) -> bool | None:
    """True or False where a true answer is a plain yes or no, else None."""
    whole = "".join(words(truth))
    if whole in YES or whole in HAN_YES:
        return True
    return False if whole in {"no", "nope", "false"} or whole in HAN_NO else None


def closed(output: str, truth: str, options: Iterable[str] = ()) -> bool:
    """Whether an answer chooses what is true.

    Yes or no: the first word of the answer that says either. Other choices: the answer is the true one, or names the
    true one of `options` and no other. Without other options it must be the true one and nothing else.
    """
    wanted = truth_polarity(truth)
    if wanted is not None:
        return polarity(output) == wanted
    if exact(output, truth):
        return True
    others = {tuple(words(option)) for option in options} - {tuple(words(truth))}
    return bool(others) and _named(words(output), {*others, tuple(words(truth))}) == {tuple(words(truth))}


def _named(output: list[str], options: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Options that stand in the answer; where one holds another, the longer."""
    found, place = set(), 0
    longest_first = sorted((option for option in options if option), key=len, reverse=True)
    while place < len(output):
        here = next((o for o in longest_first if tuple(output[place : place + len(o)]) == o), None)
        if here and not _refused(output[:place]):
            found.add(here)
        place += len(here) if here else 1
    return found


def _refused(before: list[str]) -> bool:
    return bool(before) and (before[-1] in REFUSED_BEFORE or before[-2:] == ["不", "是"])


def offered(question: str, truth: str) -> list[str]:
    """The choices that a question names ("... left or right?"), as many words each as the true answer; [] if none.

    The true answer must be among them.
    """
    wanted = tuple(normalised(truth))
    parts = [normalised(part) for part in re.split(r"\s+or\s+|[,，、]|还是|或者", question.lower().rstrip("?？。. "))]
    if len(parts) < 2 or not wanted:
        return []
    k = len(wanted)
    ends = {tuple(part[-k:]) for part in parts[:-1]} | {tuple(part[:k]) for part in parts[1:]}
    return [" ".join(end) for end in sorted(ends) if len(end) == k] if wanted in ends else []


def exact(output: str, truth: str) -> bool:
    """The same words, but for case, punctuation and articles."""
    return normalised(output) == normalised(truth)


def overlap(output: str, truth: str) -> tuple[float, float]:
    """(recall, F1) of the truth's words in the answer, each as often as it stands there. Chinese by character."""
    said, true = Counter(normalised(output)), Counter(normalised(truth))
    shared = (said & true).total()
    if not shared:
        return 0.0, 0.0
    return shared / true.total(), 2 * shared / (said.total() + true.total())


def commonest(answers: Sequence[str]) -> str:
    """What most say; the first of equals."""
    return Counter(answers).most_common(1)[0][0]
