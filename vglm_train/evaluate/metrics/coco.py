"""The scorers of pycocoevalcap for segmented texts: words with one space between them.

https://github.com/salaniz/pycocoevalcap, the Python 3 edition of the official COCO caption evaluation. `references[n]`
are those of the text `outputs[n]`. Scores are in per cent.
"""

from collections.abc import Sequence
from importlib.metadata import version
from statistics import fmean

Texts = dict[int, list[str]]


def name() -> str:
    return f"pycocoevalcap {version('pycocoevalcap')}"


def bleu(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4, with the length of the closest reference, without smoothing."""
    from pycocoevalcap.bleu.bleu import Bleu

    scores, _ = Bleu(4).compute_score(*_numbered(references, outputs), verbose=0)
    return [100 * float(score) for score in scores]


def rouge_l(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Mean ROUGE-L, beta 1.2, best precision and best recall over the references."""
    return fmean(each_rouge_l(references, outputs))


def each_rouge_l(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> list[float]:
    """ROUGE-L of every text."""
    from pycocoevalcap.rouge.rouge import Rouge

    return [100 * float(value) for value in Rouge().compute_score(*_numbered(references, outputs))[1]]


def cider(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Mean CIDEr-D. It weighs a word by how few of these images have it in a reference, so one image alone gets 0."""
    return fmean(each_cider(references, outputs))


def each_cider(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> list[float]:
    """CIDEr-D of every text."""
    from pycocoevalcap.cider.cider import Cider

    return [100 * float(value) for value in Cider().compute_score(*_numbered(references, outputs))[1]]


def _numbered(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> tuple[Texts, Texts]:
    return {n: list(texts) for n, texts in enumerate(references)}, {n: [text] for n, text in enumerate(outputs)}
