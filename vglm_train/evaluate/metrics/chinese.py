"""Chinese text scores: by characters, which need no segmenter, and by the words of jieba.

Punctuation counts, white space does not. Segmentation alone can double a CIDEr, so the segmenter is recorded.
"""

import logging
from collections.abc import Iterable
from importlib.metadata import version
from statistics import fmean
from typing import Any

from vglm_train.evaluate.metrics import coco
from vglm_train.evaluate.metrics.base import TextScores

ROUGE = {"rouge-1": "rouge_1", "rouge-2": "rouge_2", "rouge-l": "rouge_l"}


def scores(references: list[list[str]], outputs: list[str]) -> TextScores:
    """bleu4 (sentences, characters), bleu4_word, bleu4_corpus, rouge_1, rouge_2, rouge_l (words), rouge_l_char, cider
    (words), cider_char.
    """
    characters = [[_spaced(text) for text in texts] for texts in references], [_spaced(text) for text in outputs]
    words = [_words(texts) for texts in references], _words(outputs)
    each = {
        "bleu4": _sentence_bleu(*characters),
        "bleu4_word": _sentence_bleu(*words),
        **_rouge(*words),
        "rouge_l_char": _rouge(*characters)["rouge_l"],
    }
    if len(outputs) > 1:  # of one image CIDEr is always 0
        each |= {"cider": coco.each_cider(*words), "cider_char": coco.each_cider(*characters)}
    means = {name: fmean(values) for name, values in each.items()}
    means["bleu4_corpus"] = _corpus_bleu(references, outputs)
    made_by = {
        "segmenter": f"jieba {version('jieba')}, its own dictionary, HMM",
        "bleu4": f"nltk {version('nltk')} sentence_bleu over characters, method3, mean (as ChatGLM's evaluation)",
        "bleu4_word": f"nltk {version('nltk')} sentence_bleu over words, method3, mean",
        "bleu4_corpus": f"sacrebleu {version('sacrebleu')}, tokenize zh",
        "rouge_1, rouge_2, rouge_l": f"rouge-chinese {version('rouge-chinese')} F1 over words, the best reference",
        "rouge_l_char": f"rouge-chinese {version('rouge-chinese')} F1 over characters, the best reference",
        "cider": f"{coco.name()} over words",
        "cider_char": f"{coco.name()} over characters",
    }
    return TextScores(means, made_by, each=each)


def _spaced(units: Iterable[str]) -> str:
    return " ".join(unit for unit in units if unit.strip())


def _words(texts: list[str]) -> list[str]:
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return [_spaced(jieba.cut(text)) for text in texts]


def _sentence_bleu(references: list[list[str]], outputs: list[str]) -> list[float]:
    """Smoothed BLEU-4 of each text."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth = SmoothingFunction().method3
    pairs = [([text.split() for text in texts], output.split()) for texts, output in zip(references, outputs)]
    return [100 * float(sentence_bleu(texts, output, smoothing_function=smooth)) for texts, output in pairs]


def _corpus_bleu(references: list[list[str]], outputs: list[str]) -> float:
    from sacrebleu.metrics.bleu import BLEU

    most = max(map(len, references))
    columns: list[Any] = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    score: float = BLEU(tokenize="zh").corpus_score(outputs, columns).score
    return score


def _rouge(references: list[list[str]], outputs: list[str]) -> dict[str, list[float]]:
    """Each image's best F1 over its references; 0 for an empty output."""
    from rouge_chinese import Rouge

    scorer = Rouge(metrics=list(ROUGE), stats=["f"])
    best = {name: [0.0] * len(outputs) for name in ROUGE}
    for n, (texts, output) in enumerate(zip(references, outputs)):
        for text in texts if output else ():
            scores = scorer.get_scores([output], [text])[0] if text else {name: {"f": 0.0} for name in ROUGE}
            for name in ROUGE:
                best[name][n] = max(best[name][n], scores[name]["f"])
    return {name: [100 * value for value in best[key]] for key, name in ROUGE.items()}
