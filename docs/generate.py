"""Writes the pages that are made of the code, and tables of numbers: `make reference`, or `python -m docs.generate`.

It stands here and not in the package, because only those who change the code need it. A test compares the pages with
what this gives.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from docs import tables
from docs.arguments import commands
from docs.formats import formats
from docs.keys import configuration
from docs.markdown import MADE, table
from docs.protocols import protocols
from docs.words import ChineseWords, Words
from vglm_train.config.metric_meanings import ANSWERS_ZH, EVALUATION, PLACES, TRAINING, Metric
from vglm_train.config.metric_names import ANSWER_SCORES

DOCS = Path(__file__).resolve().parent


def pages(chinese: ChineseWords) -> dict[Path, str]:
    """File -> what it must hold. `chinese` then knows which texts it had no words for."""
    texts = {}
    for language, words in (("en", Words()), ("zh", chinese)):
        reference = DOCS / language / "reference"
        texts[reference / "configuration.md"] = configuration(words)
        texts[reference / "commands.md"] = commands(words)
        texts[reference / "formats.md"] = formats(words)
        texts[reference / "metrics.md"] = metrics(language)
        texts[reference / "protocols.md"] = protocols(words)
    return {**{path: f"{text.rstrip()}\n" for path, text in texts.items()}, **dict(tables.pages())}


def metrics(language: str) -> str:
    """Names and meanings, and below them what a person wrote about evaluation."""
    heads = {
        "en": ("Metric names", "The same in `metrics.jsonl` and W&B.", ("name", "is"), "Scores of answers", "In full"),
        "zh": ("指标名称", "`metrics.jsonl` 与 W&B 中相同。", ("名称", "含义"), "答案的分数", "全名"),
    }
    title, text, head, answers, whole = heads[language]
    scores = ANSWER_SCORES if language == "en" else ANSWERS_ZH
    parts = [f"# {title}", MADE, text]
    parts.append(table(head, ((_names(metric), getattr(metric, language)) for metric in (*TRAINING, *EVALUATION))))
    parts += [f"## {answers}", table(("{ANSWER}", head[1]), ((f"`{name}`", what) for name, what in scores.items()))]
    places = ((f"`{{{name}}}`", ", ".join(values)) for name, values in PLACES.items() if values != (".+",))
    parts.append(table(("{...}", head[1]), places))
    written = (DOCS / language / "reference/evaluation.txt").read_text("utf-8").rstrip("\n")
    listed = ((f"`{name}`", ", ".join(f"`{each}`" for each in expand(name))) for name in _of_languages())
    return "\n\n".join([*parts, written, f"## {whole}", table((head[0], whole), listed)]) + "\n"


def _names(metric: Metric) -> str:
    """As they are listed, and an example of the first one that has places."""
    examples = [expand(name) for name in metric.names.split() if "{" in name]
    example = f" (`{examples[0][0]}`)" if examples and examples[0] else ""
    return ", ".join(f"`{name}`" for name in metric.names.split()) + example


def _of_languages() -> Iterator[str]:
    """Names that every language has; whoever searches the pages for one in full finds it."""
    names = (name for metric in EVALUATION for name in metric.names.split())
    yield from (name for name in names if "{LANG}" in name)


def expand(name: str) -> list[str]:
    """Every metric that a name with places such as {LANG} means; none where a place may be anything."""
    parts = re.split(r"\{(\w+)\}", name)
    values = [PLACES[part] if number % 2 else (part,) for number, part in enumerate(parts)]
    return [] if (".+",) in values else ["".join(each) for each in itertools.product(*values)]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages; with `--check` only compare.

    Exit status: 1 where a text has no Chinese, or, with `--check`, where a page was stale.
    """
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a page is stale")
    check = parser.parse_args(argv).check
    chinese = ChineseWords()
    texts = pages(chinese)
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path.relative_to(DOCS.parent)}")
        if not check:
            path.write_text(texts[path], "utf-8")
    for text in dict.fromkeys(chinese.missing):
        print(f"docs/zh/reference.po has no Chinese for: {text}")
    for text in chinese.unused():
        print(f"docs/zh/reference.po has Chinese that no page says: {text}")
    return int(bool(chinese.missing) or bool(chinese.unused()) or (check and bool(stale)))


if __name__ == "__main__":
    sys.exit(main())
