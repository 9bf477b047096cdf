"""Sentences that refer to an earlier study, told by words in two languages.

A model sees one study, so it cannot know what "unchanged" means; it learns to invent it. This is a list of words: it
misses some sentences, and some that it finds compare with nothing.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Rule(NamedTuple):
    """`pattern`: a regular expression; `example`: a sentence that it finds."""

    words: str
    pattern: str
    example: str


_STUDY = (
    r"(?:stud(?:y|ies)|exam(?:ination)?s?|films?|radiographs?|x-?rays?|images?|imaging|cts?|scans?|reports?|mris?|"
    r"ultrasounds?|comparisons?)"
)
_SIDE = r"(?:the )?(?:left|right|opposite|contralateral|other|normal|adjacent|same)\b"
ENGLISH = (
    Rule(
        "compared with, in comparison, comparison is made (not with the other side)",
        rf"\b(?:compared|comparing|in comparison)\b(?! (?:to|with) {_SIDE})|"
        rf"\bcomparison (?:is|was|with|to)\b(?! {_SIDE})",
        "Compared with the film of yesterday the effusion is larger.",
    ),
    Rule(
        "prior, previous, earlier, last study",
        rf"\b(?:prior|previous|earlier|last|preceding|old)\b(?: [\w/-]+){{0,3}}? {_STUDY}\b",
        "The nodule of the previous chest CT is not seen.",
    ),
    Rule("the priors", r"\b(?:from|to|with|than|since|the) priors?\b(?! \w)", "Similar to prior."),
    Rule(
        "previously seen",
        r"\bpreviously(?: \w+)? (?:seen|noted|described|demonstrated|identified|visuali[sz]ed|reported|shown)\b",
        "The previously noted opacity has cleared.",
    ),
    Rule("interval", r"\binterval\b(?! of)", "Interval increase of the left effusion."),
    Rule(
        "unchanged, no change", r"\bunchanged\b|\b(?:no|without|not)(?: \w+){0,2} changed?\b", "No significant change."
    ),
    Rule("stable", r"(?<!hemodynamically )(?<!clinically )\bstable\b(?! condition)", "Stable cardiomegaly."),
    Rule("again seen", r"\b(?:once )?again\b|\bre-?demonstrat\w+", "Again seen is a right pleural effusion."),
    Rule("persistent", r"\bpersist(?:s|ed|ent(?:ly)?|ing)?\b", "Persistent opacity in the left base."),
    Rule("remains", r"\bremains?\b|\bcontinues? to\b", "The heart remains enlarged."),
    Rule("new", r"\bnew(?:ly)?\b(?! (?:diagnosed|symptom|fever))", "New opacity in the right lower lobe."),
    Rule(
        "has increased, worsened, resolved",
        r"\b(?:has|have|had)(?: \w+){0,2} (?:increased|decreased|worsened|improved|resolved|cleared|progressed|"
        r"enlarged|grown|developed|removed|changed)\b",
        "The effusion has slightly increased.",
    ),
    Rule(
        "worsening, improving, resolving",
        r"\b(?:worsen(?:ed|ing)|improv(?:ed|ing|ement)|resolv(?:ed|ing))\b",
        "Improving oedema.",
    ),
    Rule(
        "since",
        r"\bsince (?:the |that )?(?:prior|previous|last|earlier|initial|yesterday|\d)",
        "Smaller since the last admission.",
    ),
)
CHINESE = (
    Rule(
        "与前片比较",
        r"与.{0,12}?(?:前|旧|老|上次|既往|原|\d).{0,14}?(?:比较|对比|相比|对照|比对)",
        "与前片比较，病灶缩小。",
    ),
    Rule("对比前片", r"(?:对比|对照|比较).{0,3}(?:前|旧|老|上次|既往|原|\d{4})", "对比旧片，右肺结节增大。"),
    Rule("较前", r"较(?:前(?!缘|部|壁|方|段)|旧|老片|上次|既往|原|\d{4}|\d+[月年])|比前", "左侧胸腔积液较前增多。"),
    Rule(
        "同前",
        r"[同如](?:前(?!缘|部|壁|方|上|侧|胸|列)|上次|旧片|老片)|"
        r"与(?:前|上次|旧片|老片).{0,4}(?:相仿|相似|相同|一致|类似)",
        "余大致同前。",
    ),
    Rule(
        "前片、旧片",
        r"(?:前|旧|老|原)片|(?:上|前)一?次(?:检查|片|CT|胸片|影像|摄片)|"
        r"既往(?:片|检查|CT|胸片|影像)",
        "前片所示结节未见显示。",
    ),
    Rule(
        "无变化", r"(?:未见|无)(?:明显|显著|著)?(?:变化|改变)(?=[，。；,;]|$)|变化不(?:大|明显|著)", "病灶无明显变化。"
    ),
    Rule(
        "复查（不是建议）",
        r"^(?!.*(?:建议|必要时|定期|短期|择期|随访|随诊|请|嘱)).*?"
        r"(?<!个月后)(?<!年后)复查",
        "肺炎治疗后复查。",
    ),
    Rule("新见、新增", r"新(?:见|增|发|出现)", "右肺新见斑片影。"),
    Rule(
        "吸收、好转",
        r"(?:已|部分|大部|大部分|基本|完全|明显|有所|逐渐|进一步)吸收|吸收好转|"
        r"好转|进展(?=[，。；,;]|$)",
        "右肺炎症部分吸收。",
    ),
    Rule("仍见", r"仍(?:见|可见|存|有|然)|依然|持续存在", "左肺仍见条索影。"),
    Rule("原病灶", r"原(?:有|来|先|见|右|左|双)", "原有胸腔积液已消失。"),
    Rule("已消失", r"已(?:基本|完全|大部)?(?:消失|拔除|缩小|增大)", "气胸已基本消失。"),
)
RULES = {"en": ENGLISH, "zh": CHINESE}
"""Language -> rules; a sentence refers to an earlier study where any of them finds something."""

_FOUND = {
    language: re.compile("|".join(f"(?:{rule.pattern})" for rule in rules), re.IGNORECASE)
    for language, rules in RULES.items()
}
_ENDS = re.compile(r"(?<=[.;!?])(?<!\b\d\.)(?<!\b\d\d\.)[ \t]+|(?<=[。；！？])|\n+")


def sentences(text: str) -> Iterator[str]:
    """The sentences of a report, with their signs."""
    yield from (each.strip() for each in _ENDS.split(text) if each.strip())


def refers_to_earlier(sentence: str) -> bool:
    """Whether it says how something was in an earlier study."""
    return any(pattern.search(sentence) is not None for pattern in _FOUND.values())


def without_earlier(text: str) -> str:
    """The text without such sentences, the others as they are, one a line where the text has lines."""
    lines = (" ".join(each for each in sentences(line) if not refers_to_earlier(each)) for line in text.splitlines())
    return "\n".join(line for line in lines if line)
