"""A findings table: the YAML that a person reads and extends, read strictly.

`chest.yaml`, which is shipped, says what its keys mean.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from vglm_train.config import yaml_tree
from vglm_train.config.data import Language
from vglm_train.config.yaml_tree import YamlNode
from vglm_train.errors import UserError
from vglm_train.evaluate.findings.phrases import Patterns, PhraseError, compile_phrases, expression

SHIPPED = Path(__file__).resolve().parent / "chest.yaml"
Uncertain = Literal["positive", "negative", "ignored"]
LANGUAGES: tuple[str, ...] = get_args(Language)
CUES = (
    "negation", "negation after", "uncertain", "uncertain after", "not a cue", "not stated", "new statement", "verbs",
    "goes on with", "sections",
)  # fmt: skip
SIDES = ("left", "right", "both")
TOP = ("name", "extends", "uncertain", "findings", "not a finding", "cues", "sides")
OF_FINDING = ("chinese name", "part of", "abnormal", "side", "normal", *LANGUAGES)
NO_FINDING = "no_finding"  # the whole chest is said to be normal; never beside an abnormal finding
Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table."""

    name: str
    chinese: str
    part_of: str | None  # the finding that it counts as, too
    abnormal: bool
    sided: bool
    stated: Mapping[str, Patterns]  # language -> phrases that say it
    normal: Mapping[str, Patterns]  # language -> phrases that say that it is not there


@dataclass(frozen=True, slots=True)
class Rules:
    """The cues of one language."""

    cues: Mapping[str, Patterns]  # one of CUES -> its phrases
    sides: Mapping[str, Patterns]  # one of SIDES -> its phrases
    no_finding: Patterns  # phrases that hold a finding's words and are none
    words: tuple[str, ...]  # beginnings of words, by which misspelt ones are known


@dataclass(frozen=True, slots=True, eq=False)  # so that it can be the key of a cache
class FindingsTable:
    """A table that was read."""

    name: str
    fingerprint: str  # of its content, without comments
    uncertain: Uncertain  # how a doubted finding counts
    findings: tuple[Finding, ...]
    rules: Mapping[str, Rules]  # by language

    def abnormal(self) -> list[str]:
        """Names of the findings that are something ill."""
        return [finding.name for finding in self.findings if finding.abnormal]

    def parts(self) -> set[str]:
        """Names of the findings that count as another one, too."""
        return {finding.name for finding in self.findings if finding.part_of is not None}

    def chinese(self, name: str) -> str:
        """What a finding is called in Chinese."""
        return next(finding.chinese for finding in self.findings if finding.name == name)


@cache
def shipped_table() -> FindingsTable:
    """The table that belongs to this version of the package."""
    return read_table(SHIPPED)


def read_table(path: Path) -> FindingsTable:
    """The table at `path`. UserError with file and line for whatever is not as the shipped table has it."""
    content = _content(path)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]
    findings = tuple(_finding(name, fields) for name, fields in content["findings"].items())
    rules = {language: _rules(content, language) for language in LANGUAGES}
    return FindingsTable(content["name"], digest, content["uncertain"], findings, rules)


def _content(path: Path) -> Content:
    """What the file says as plain values, upon what it extends; every field is there."""
    root = yaml_tree.read(path, needs="a findings table needs at least `name:` and `findings:`")
    fields = _mapping(root, "the table", TOP)
    content = _empty()
    if (base := fields.get("extends")) is not None:
        if base.value != SHIPPED.stem:
            raise UserError(f"{base.where}: extends: the table there is is {SHIPPED.stem!r}, found {base.describe()}")
        content = _content(SHIPPED)
    if absent := [key for key in ("name", "findings") if key not in fields]:
        raise UserError(f"{root.where}: {absent[0]}: is missing; {SHIPPED} shows how a table looks")
    content["name"] = _text(fields["name"], "name")
    if (policy := fields.get("uncertain")) is not None:
        content["uncertain"] = _choice(policy, "uncertain", get_args(Uncertain))
    _add_languages(content["not a finding"], fields.get("not a finding"), "not a finding")
    for key, known in (("cues", CUES), ("sides", SIDES)):
        for language, node in _mapping(fields.get(key), key, LANGUAGES).items():
            for name, phrases in _mapping(node, f"{key}.{language}", known).items():
                _add_phrases(content[key][language][name], phrases, f"{key}.{language}.{name}", language)
    for name, node in _mapping(fields["findings"], "findings").items():
        _add_finding(content["findings"], name, node)
    _check_parts(content["findings"], fields["findings"])
    _check_denials(content, fields["findings"])
    _check_cues(content, root)
    return content


def _empty() -> Content:
    return {
        "uncertain": "positive",
        "findings": {},
        "not a finding": {language: [] for language in LANGUAGES},
        "cues": {language: {name: [] for name in CUES} for language in LANGUAGES},
        "sides": {language: {name: [] for name in SIDES} for language in LANGUAGES},
    }


def _add_finding(findings: Content, name: str, node: YamlNode) -> None:
    fields, where = _mapping(node, f"findings.{name}", OF_FINDING), f"findings.{name}"
    new: Content = {
        "chinese name": name,
        "part of": None,
        "abnormal": True,
        "side": True,
        "normal": {k: [] for k in LANGUAGES},
    }
    finding = findings.setdefault(name, {**new, **{language: [] for language in LANGUAGES}})
    for key in ("chinese name", "part of"):
        if key in fields:
            finding[key] = _text(fields[key], f"{where}.{key}")
    for key in ("abnormal", "side"):
        if key in fields:
            if not isinstance(fields[key].value, bool):
                raise UserError(f"{fields[key].where}: {where}.{key}: yes or no, found {fields[key].describe()}")
            finding[key] = fields[key].value
    for language in LANGUAGES:
        if language in fields:
            _add_phrases(finding[language], fields[language], f"{where}.{language}", language)
    _add_languages(finding["normal"], fields.get("normal"), f"{where}.normal")
    if not any(finding[language] for language in LANGUAGES):
        raise UserError(f"{node.where}: {where}: has no phrase; give en: or zh: a list of them")


def _add_languages(lists: Content, node: YamlNode | None, where: str) -> None:
    for language, phrases in _mapping(node, where, LANGUAGES).items():
        _add_phrases(lists[language], phrases, f"{where}.{language}", language)


def _add_phrases(phrases: list[str], node: YamlNode, where: str, language: str) -> None:
    """Append the phrases of a list."""
    if not isinstance(node.value, list):
        raise UserError(f"{node.where}: {where}: a list of phrases, [one, two], found {node.describe()}")
    for each in node.value:
        if not isinstance(each.value, str):
            raise UserError(f'{each.where}: {where}: a phrase in quotes, such as "no", found {each.describe()}')
        try:
            expression(each.value, language)
        except PhraseError as error:
            raise UserError(f"{each.where}: {where}: {each.value!r}: {error}") from None
        if each.value in phrases:
            raise UserError(f"{each.where}: {where}: {each.value!r} is there already; keep one")
        phrases.append(each.value)


def _check_parts(findings: Content, node: YamlNode) -> None:
    """UserError for a `part of` that names no finding, or one that is itself a part."""
    for name, finding in findings.items():
        whole = finding["part of"]
        if whole is not None and (whole not in findings or findings[whole]["part of"] is not None):
            own = node.step(name)
            raise UserError(
                f"{(own or node).where}: findings.{name}.part of: {whole!r} is no finding of the table, or is a part "
                "itself"
            )


def _check_denials(content: Content, node: YamlNode) -> None:
    """UserError for a phrase of an abnormal finding that denies it, and would be read as stating it."""
    cues = {
        language: [compile_phrases(content["cues"][language][name], language) for name in ("negation", "not a cue")]
        for language in LANGUAGES
    }
    for name, fields in _mapping(node, "findings").items():
        for language in LANGUAGES if content["findings"][name]["abnormal"] else ():
            phrases = fields.step(language)
            for each in cast(list[YamlNode], phrases.value) if phrases is not None else ():
                denial, no_cue = (_beginning(str(each.value), patterns) for patterns in cues[language])
                if len(denial) > len(no_cue):
                    raise UserError(
                        f"{each.where}: findings.{name}.{language}: {each.value!r} begins with {denial!r}, which "
                        "denies, and would be read as the finding itself; name the finding alone. A phrase that says "
                        "that nothing is there goes under normal:; one that is the finding all the same also under "
                        f"cues.{language}.not a cue:"
                    )


def _beginning(phrase: str, patterns: Patterns) -> str:
    """What of the patterns a phrase begins with; empty for nothing."""
    text = phrase.strip().lstrip("(").lower()
    return text[: max((end for start, end, _ in patterns.spans(text) if start == 0), default=0)]


def _check_cues(content: Content, root: YamlNode) -> None:
    """UserError for a language in which nothing can be denied."""
    for language in LANGUAGES:
        spoken = any(finding[language] for finding in content["findings"].values())
        if spoken and not content["cues"][language]["negation"]:
            raise UserError(
                f"{root.where}: cues.{language}.negation: is missing, so that what a report denies would count as "
                f"stated; write `extends: {SHIPPED.stem}`, or give the cues"
            )


def _mapping(node: YamlNode | None, where: str, known: tuple[str, ...] = ()) -> dict[str, YamlNode]:
    """The entries of a mapping, empty for None. UserError for another value, or a key that is none of `known`."""
    if node is None:
        return {}
    if not isinstance(node.value, dict):
        raise UserError(f"{node.where}: {where}: expected keys with values, found {node.describe()}")
    wrong = next((key for key in node.value if known and key not in known), None)
    if wrong is not None:
        raise UserError(
            f"{node.value[wrong].where}: {where}: {wrong!r} is none of {', '.join(known)}; mend or remove it"
        )
    return node.value


def _choice(node: YamlNode, where: str, known: tuple[str, ...]) -> str:
    if node.value not in known:
        raise UserError(f"{node.where}: {where}: one of {', '.join(known)}, found {node.describe()}")
    return str(node.value)


def _text(node: YamlNode, where: str) -> str:
    if not isinstance(node.value, str) or not node.value.strip():
        raise UserError(f"{node.where}: {where}: a text, found {node.describe()}")
    return node.value


def _finding(name: str, fields: Content) -> Finding:
    stated, normal = (
        {language: compile_phrases(phrases[language], language) for language in LANGUAGES}
        for phrases in (fields, fields["normal"])
    )
    part_of = cast(str | None, fields["part of"])
    return Finding(name, fields["chinese name"], part_of, fields["abnormal"], fields["side"], stated, normal)


def _rules(content: Content, language: str) -> Rules:
    cues, sides = (
        {name: compile_phrases(phrases, language) for name, phrases in content[key][language].items()}
        for key in ("cues", "sides")
    )
    phrases = [phrase for finding in content["findings"].values() for phrase in finding[language]]
    others = content["not a finding"][language]
    words = dict.fromkeys(each for phrase in (*others, *phrases) if (each := phrase.rstrip("*").lower()).isalpha())
    return Rules(cues, sides, compile_phrases(others, language), tuple(words))
