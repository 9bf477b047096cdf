"""Chinese: by characters where no segmenter can sway the score, by jieba's words where words are asked for.

White space is not counted, punctuation is. Segmentation alone can double a CIDEr, hence the record of it.
"""

import logging
from collections.abc import Iterable
from importlib.metadata import version
from statistics import fmean

from vglm_train.evaluate.metrics import coco
from vglm_train.evaluate.metrics.base import TextScores

ROUGE = {"rouge-1": "rouge_1", "rouge-2": "rouge_2", "rouge-l": "rouge_l"}


def scores(references: list[list[str]], outputs: list[str]) -> TextScores:
    """bleu4 (sentences, characters), bleu4_word, bleu4_corpus, rouge_1, rouge_2, rouge_l (words), rouge_l_char, cider
    (words), cider_char.
    """
    letters = [[_spaced(text) for text in texts] for texts in references], [_spaced(text) for text in outputs]
    words = [_words(texts) for texts in references], _words(outputs)
    each = {
        "bleu4": _sentence_bleu(*letters),
        "bleu4_word": _sentence_bleu(*words),
        **_rouge(*words),
        "rouge_l_char": _rouge(*letters)["rouge_l"],
        "cider": coco.each_cider(*words),
        "cider_char": coco.each_cider(*letters),
    }
    found = {name: fmean(values) for name, values in each.items()}
    found["bleu4_corpus"] = _corpus_bleu(references, outputs)
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
    return TextScores(found, made_by, each=each)


def _spaced(units: Iterable[str]) -> str:
    return " ".join(unit for unit in units if unit.strip())


def _words(texts: list[str]) -> list[str]:
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return [_spaced(jieba.cut(text)) for text in texts]


def _sentence_bleu(references: list[list[str]], outputs: list[str]) -> list[float]:
    """BLEU-4 of each text, smoothed."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth = SmoothingFunction().method3
    cut = [([text.split() for text in texts], output.split()) for texts, output in zip(references, outputs)]
    return [100 * float(sentence_bleu(texts, output, smoothing_function=smooth)) for texts, output in cut]


def _corpus_bleu(references: list[list[str]], outputs: list[str]) -> float:
    from sacrebleu.metrics import BLEU

    most = max(map(len, references))
    columns: list = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    return BLEU(tokenize="zh").corpus_score(outputs, columns).score


def _rouge(references: list[list[str]], outputs: list[str]) -> dict[str, list[float]]:
    """Each image's best F1 over its references; 0 where nothing is said."""
    from rouge_chinese import Rouge

    scorer = Rouge(metrics=list(ROUGE), stats=["f"])
    best = {name: [0.0] * len(outputs) for name in ROUGE}
    for n, (texts, output) in enumerate(zip(references, outputs)):
        for text in texts if output else ():
            found = scorer.get_scores([output], [text])[0] if text else {name: {"f": 0.0} for name in ROUGE}
            for name in ROUGE:
                best[name][n] = max(best[name][n], found[name]["f"])
    return {name: [100 * value for value in best[key]] for key, name in ROUGE.items()}
