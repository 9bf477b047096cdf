"""How well the keywords read: precision and recall on sentences that people labelled.

Two halves of 150 sentences belong to the package: `own` by those who wrote the table, `blind` by people who had not
seen it. The blind half is the fair one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

from vglm_train.config import yaml_tree
from vglm_train.config.data import Language
from vglm_train.config.yaml_tree import YamlNode
from vglm_train.errors import UserError
from vglm_train.evaluate.findings.label import label
from vglm_train.evaluate.findings.sentence import Mention, State
from vglm_train.evaluate.findings.sides import Side
from vglm_train.evaluate.findings.table import FindingsTable

HALVES = {half: Path(__file__).resolve().parent / f"sentences_{half}.yaml" for half in ("own", "blind")}
KEYS = ("text", "lang", "findings", "sides")
POSITIVE = ("present", "uncertain")  # as scores count a finding, unless the table's `uncertain` says otherwise


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence with what it states."""

    text: str
    language: str
    findings: Mapping[str, State]
    sides: Mapping[str, Side]


@dataclass(frozen=True, slots=True)
class Reading:
    """How well one language of one half is read, in per cent; None where there was nothing to be right about."""

    sentences: int
    precision: float | None  # of the findings read as present or uncertain, those that are
    recall: float | None  # of the findings that are present or uncertain, those that are read so
    state: float | None  # of the findings named by the people or read, those read with the very state
    side: float | None  # of the findings rightly read whose side is known and the table reads, those with that side


def read_sentences(path: Path) -> list[Sentence]:
    """The labelled sentences of a YAML file. UserError with file and line for what is not as in the shipped ones."""
    root = yaml_tree.read(path, needs="labelled sentences stand below `sentences:`")
    node = root.step("sentences")
    if node is None or not isinstance(node.value, list):
        raise UserError(f"{path}: needs `sentences:` with a list of {{text, lang, findings, sides}}")
    return [_sentence(each) for each in node.value]


def _sentence(node: YamlNode) -> Sentence:
    if not isinstance(node.value, dict):
        raise UserError(f"{node.where}: a sentence is {{text, lang, findings, sides}}, found {node.describe()}")
    if wrong := [key for key in node.value if key not in KEYS]:
        raise UserError(f"{node.where}: {wrong[0]!r} is none of {', '.join(KEYS)}")
    text, language = (node.value.get(key) for key in ("text", "lang"))
    if text is None or not isinstance(text.value, str) or language is None or language.value not in get_args(Language):
        raise UserError(f"{node.where}: give text: and lang: {' or '.join(get_args(Language))}")
    findings = _choices(node, "findings", get_args(State))
    sides = _choices(node, "sides", get_args(Side))
    return Sentence(text.value, str(language.value), cast(Any, findings), cast(Any, sides))


def _choices(node: YamlNode, key: str, known: Sequence[str]) -> dict[str, str]:
    """A mapping of findings to one of `known`."""
    below = node.step(key)
    if below is None and key == "sides":
        return {}
    if below is None or not isinstance(below.value, dict):
        raise UserError(f"{node.where}: {key}: {{finding: {' | '.join(known)}}}")
    for each in below.value.values():
        if each.value not in known:
            raise UserError(f"{each.where}: {key}: one of {', '.join(known)}, found {each.describe()}")
    return {name: str(each.value) for name, each in below.value.items()}


@cache
def shipped_sentences(half: str) -> tuple[Sentence, ...]:
    """The sentences of a half that belongs to the package."""
    return tuple(read_sentences(HALVES[half]))


def measure_table(table: FindingsTable) -> dict[str, dict[str, Reading]]:
    """Half -> language -> how well the table reads the shipped sentences, by the 14 observations of these."""
    return {half: measure(table, shipped_sentences(half)) for half in HALVES}


def measure(table: FindingsTable, sentences: Sequence[Sentence]) -> dict[str, Reading]:
    """Language -> how well the table reads the sentences. Findings that no sentence names, or that the table does not
    have, are not counted.
    """
    named = {name for sentence in sentences for name in sentence.findings}
    judged = named & {finding.name for finding in table.findings}
    sided = {finding.name for finding in table.findings if finding.sided}
    return {
        language: _reading(list(_pairs(table, sentences, language, judged)), sided)
        for language in dict.fromkeys(sentence.language for sentence in sentences)
    }


def _pairs(
    table: FindingsTable, sentences: Sequence[Sentence], language: str, judged: set[str]
) -> Iterator[tuple[Sentence, dict[str, Mention]]]:
    for sentence in sentences:
        if sentence.language == language:
            read = {name: mention for name, mention in label(sentence.text, table).items() if name in judged}
            findings = {name: state for name, state in sentence.findings.items() if name in judged}
            yield replace(sentence, findings=findings), read


def _reading(pairs: Sequence[tuple[Sentence, dict[str, Mention]]], sided: set[str]) -> Reading:
    read, true, right, named, same, sides, right_sides = (0,) * 7
    for sentence, mentions in pairs:
        stated = {name for name, mention in mentions.items() if mention.state in POSITIVE}
        gold = {name for name, state in sentence.findings.items() if state in POSITIVE}
        read, true, right = read + len(stated), true + len(gold), right + len(stated & gold)
        for name in mentions.keys() | sentence.findings.keys():
            named += 1
            same += name in mentions and mentions[name].state == sentence.findings.get(name)
        for name in stated & gold & sentence.sides.keys() & sided:
            sides += 1
            right_sides += mentions[name].side == sentence.sides[name]
    parts = ((right, read), (right, true), (same, named), (right_sides, sides))
    return Reading(len(pairs), *(100 * part / whole if whole else None for part, whole in parts))
