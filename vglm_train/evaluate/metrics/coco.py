"""The scorers of pycocoevalcap over texts that are segmented already: words with one space between.

https://github.com/salaniz/pycocoevalcap, the Python 3 edition of the official COCO caption evaluation. One text each
in `outputs`, its references in the same place of `references`; scores in per cent.
"""

from collections.abc import Sequence
from importlib.metadata import version
from statistics import fmean

Texts = dict[int, list[str]]


def name() -> str:
    return f"pycocoevalcap {version('pycocoevalcap')}"


def bleu(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4, length of the closest reference, no smoothing."""
    from pycocoevalcap.bleu.bleu import Bleu

    found, _ = Bleu(4).compute_score(*_numbered(references, outputs), verbose=0)
    return [100 * float(value) for value in found]


def rouge_l(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Mean ROUGE-L, beta 1.2, best precision and best recall over the references."""
    return fmean(each_rouge_l(references, outputs))


def each_rouge_l(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> list[float]:
    """ROUGE-L of every text."""
    from pycocoevalcap.rouge.rouge import Rouge

    return [100 * float(value) for value in Rouge().compute_score(*_numbered(references, outputs))[1]]


def cider(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """Mean CIDEr-D. Words are weighted by how few of these images' references have them: 0 for a single image."""
    return fmean(each_cider(references, outputs))


def each_cider(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> list[float]:
    """CIDEr-D of every text."""
    from pycocoevalcap.cider.cider import Cider

    return [100 * float(value) for value in Cider().compute_score(*_numbered(references, outputs))[1]]


def _numbered(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> tuple[Texts, Texts]:
    return {n: list(texts) for n, texts in enumerate(references)}, {n: [text] for n, text in enumerate(outputs)}
