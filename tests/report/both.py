"""Sentences in both languages say the same."""

import re
from collections.abc import Sequence

from vglm_train.log.tongues import Text
from vglm_train.report.sentence import Sentence

NUMBER = re.compile(r"\d+(?:[.,]\d+)*%?")


def same_numbers(sentences: Sequence[Sentence]) -> Sequence[Sentence]:
    """The sentences, each of which has Chinese words and the same numbers in both languages."""
    for sentence in sentences:
        check_numbers(sentence.text)
    return sentences


def check_numbers(text: Text) -> None:
    assert re.search("[\u4e00-\u9fff]", text.zh), text
    assert not re.search("[\u4e00-\u9fff]", text.en), text
    assert sorted(NUMBER.findall(text.en)) == sorted(NUMBER.findall(text.zh)), text
