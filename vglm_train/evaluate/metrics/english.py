"""English: what the COCO evaluation gives, by pycocoevalcap."""

from dataclasses import replace
from importlib.metadata import version
from statistics import fmean

from vglm_train.evaluate.metrics import coco, java
from vglm_train.evaluate.metrics.base import TextScores


def scores(references: list[list[str]], outputs: list[str], with_java: bool = True) -> TextScores:
    """bleu1 ... bleu4, rouge_l, cider, and with Java meteor. Without Java another tokenizer stands in and is named."""
    if not with_java:
        return _scores([_plain(texts) for texts in references], _plain(outputs), _plain_name())
    flat = [text for texts in references for text in texts] + outputs
    lost: dict[str, list[str]] = {}  # reason -> what it costs
    try:
        words, tokenizer = java.tokenize(flat), f"Stanford PTBTokenizer 3.4.1 of {coco.name()}"
    except java.NoJava as error:
        words, tokenizer = _plain(flat), _plain_name()
        lost[str(error)] = ["words by nltk's tokenizer, not PTB's, so scores differ a little from published ones"]
    queue = iter(words)
    references = [[next(queue) for _ in texts] for texts in references]
    outputs = list(queue)
    found = _scores(references, outputs, tokenizer)
    try:
        found.scores["meteor"] = java.meteor(references, outputs)
        found.made_by["meteor"] = f"METEOR 1.5 of {coco.name()}"
    except java.NoJava as error:
        lost.setdefault(str(error), []).append("no METEOR")
    return replace(found, notes=tuple(f"{reason}: {'; '.join(costs)}" for reason, costs in lost.items()))


def _scores(references: list[list[str]], outputs: list[str], tokenizer: str) -> TextScores:
    """What needs no Java, of texts cut into words."""
    each = {"rouge_l": coco.each_rouge_l(references, outputs), "cider": coco.each_cider(references, outputs)}
    found = {f"bleu{n}": value for n, value in enumerate(coco.bleu(references, outputs), 1)}
    found |= {name: fmean(values) for name, values in each.items()}
    made_by = {"tokenizer": f"{tokenizer}, lower case, no punctuation", "bleu1-4, rouge_l, cider": coco.name()}
    return TextScores(found, made_by, each=each)


def _plain_name() -> str:
    return f"TreebankWordTokenizer of nltk {version('nltk')}"


def _plain(texts: list[str]) -> list[str]:
    """The tokenizer nearest to PTB's that needs no Java, less the same punctuation."""
    from nltk.tokenize import TreebankWordTokenizer
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    cut, dropped = TreebankWordTokenizer().tokenize, {word.lower() for word in PUNCTUATIONS} | set("()[]{}")
    return [" ".join(word for word in cut(text.lower()) if word not in dropped) for text in texts]
