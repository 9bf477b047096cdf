"""Scorers of texts and answers, without a model.

`english` and `chinese` compare captions and reports with references, by the usual libraries, which are an extra of the
package. `answers` and `vqav2` score answers to questions. `bootstrap` gives the intervals. The names of
metrics are built in `vglm_train/config/metric_names.py`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

from vglm_train.errors import UserError
from vglm_train.evaluate.metrics.base import TextScores

LIBRARIES = {
    "pycocoevalcap": "pycocoevalcap",
    "nltk": "nltk",
    "jieba": "jieba",
    "rouge_chinese": "rouge-chinese",
    "sacrebleu": "sacrebleu",
}  # module -> package


def missing() -> UserError | None:
    """The error that names the libraries for text scores that are not installed; None if there is none."""
    absent = [package for module, package in LIBRARIES.items() if find_spec(module) is None]
    if not absent:
        return None
    return UserError(f"caption scores need {', '.join(absent)}. In a clone: pip install -e '.[eval]'")


def text_scores(
    language: str, references: Sequence[Sequence[str]], outputs: Sequence[str], java: bool = True
) -> TextScores:
    """Scores of one output for each image against the image's references, of which there is at least one.

    Without `java`, English is scored without METEOR and the PTB tokenizer, Java programs that take 10 seconds and more
    to start. Line breaks and runs of white space count as one space. UserError if a library is missing.
    """
    error = missing()
    if error is not None:
        raise error
    assert len(references) == len(outputs) > 0
    assert all(references)
    score = _scorer(language, java)
    return score([[_line(text) for text in texts] for texts in references], [_line(text) for text in outputs])


def _scorer(language: str, java: bool) -> Callable[[list[list[str]], list[str]], TextScores]:
    if language == "zh":
        from vglm_train.evaluate.metrics import chinese

        return chinese.scores
    from vglm_train.evaluate.metrics import english

    return partial(english.scores, with_java=java)


def _line(text: str) -> str:
    return " ".join(text.split())
