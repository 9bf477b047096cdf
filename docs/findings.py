"""The table of how well the findings table reads, measured when the pages are made."""

from collections.abc import Iterator
from typing import Literal

from vglm_train.evaluate.findings.measure import measure_table
from vglm_train.evaluate.findings.table import shipped_table

Language = Literal["en", "zh"]
HEAD = {
    "en": ["75 sentences each", "precision", "recall", "same state", "same side"],
    "zh": ["各 75 句", "精确率", "召回率", "状态相同", "左右相同"],
}
ROWS = {
    ("blind", "en"): {"en": "English, writers had not seen the table", "zh": "英文，作者没有见过此表"},
    ("blind", "zh"): {"en": "Chinese, writers had not seen the table", "zh": "中文，作者没有见过此表"},
    ("own", "en"): {"en": "English, the table was mended by them", "zh": "英文，曾用来修改此表"},
    ("own", "zh"): {"en": "Chinese, the table was mended by them", "zh": "中文，曾用来修改此表"},
}


def reading_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first; per cent."""
    yield HEAD[language]
    measured = measure_table(shipped_table())
    for (half, of), named in ROWS.items():
        reading = measured[half][of]
        values = (reading.precision, reading.recall, reading.state, reading.side)
        yield [named[language], *("-" if value is None else f"{value:.1f}" for value in values)]
