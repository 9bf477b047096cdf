"""Which findings a chest report states, denies or doubts, and on which side, by the keywords of a table."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

from vglm_train.evaluate.findings.phrases import HAN
from vglm_train.evaluate.findings.sentence import Mention, State, read_sentence
from vglm_train.evaluate.findings.sides import together
from vglm_train.evaluate.findings.spelling import mend_spelling
from vglm_train.evaluate.findings.table import NO_FINDING, FindingsTable, Rules

STRENGTH: tuple[State, ...] = ("present", "uncertain", "absent")  # which of several mentions of a finding counts
SENTENCE = re.compile(rf"(?<=[。!;\n])(?=.)|(?<=\?)(?=[\s{HAN}])|(?<=\.)(?<!\bvs\.)(?=\s)(?!\s+\d+\s*(?:cm|mm))")
LETTERS = {"en": re.compile("[a-z]{2}"), "zh": re.compile(f"[{HAN}]")}


def label(text: str, table: FindingsTable) -> dict[str, Mention]:
    """Finding -> what the text says of it; findings that it does not mention are left out.

    Of several mentions of one finding present counts before uncertain, and uncertain before absent. `no_finding` is
    left out where an abnormal finding is present or uncertain.
    """
    return dict(_label(text, table))


@lru_cache(maxsize=4096)
def _label(text: str, table: FindingsTable) -> Mapping[str, Mention]:
    mentions: dict[str, list[Mention]] = {}
    for language, rules in table.rules.items():
        plain = _plain(text, rules)
        if LETTERS[language].search(plain):
            for sentence in SENTENCE.split(plain):
                for name, mention in read_sentence(sentence, language, table):
                    mentions.setdefault(name, []).append(mention)
    for finding in table.findings:
        if finding.part_of is not None:  # what is there counts as the whole, too; a part alone may be absent
            there = [mention for mention in mentions.get(finding.name, ()) if mention.state != "absent"]
            mentions.setdefault(finding.part_of, []).extend(there)
    found = {name: _strongest(each) for name, each in mentions.items() if each}
    if any(found[name].state != "absent" for name in table.abnormal() if name in found):
        found.pop(NO_FINDING, None)
    return found


def _plain(text: str, rules: Rules) -> str:
    """Lower case, plain signs, contractions as words, misspelt words mended."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    return mend_spelling(plain.replace("can't", "cannot").replace("n't", " not"), rules.words)


def _strongest(mentions: Sequence[Mention]) -> Mention:
    state = min((mention.state for mention in mentions), key=STRENGTH.index)
    return Mention(state, together(mention.side for mention in mentions if mention.state == state))
