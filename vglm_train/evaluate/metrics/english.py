"""English text scores: those of the COCO evaluation, by pycocoevalcap."""

from dataclasses import replace
from importlib.metadata import version
from statistics import fmean

from vglm_train.evaluate.metrics import coco, java
from vglm_train.evaluate.metrics.base import TextScores


def scores(references: list[list[str]], outputs: list[str], with_java: bool = True) -> TextScores:
    """bleu1 ... bleu4, rouge_l, cider, and meteor with Java. Without Java, words are split by another tokenizer."""
    if not with_java:
        return _scores([_plain(texts) for texts in references], _plain(outputs), _plain_name())
    flat = [text for texts in references for text in texts] + outputs
    losses: dict[str, list[str]] = {}  # reason -> what is lost by it
    try:
        words, tokenizer = java.tokenize(flat), f"Stanford PTBTokenizer 3.4.1 of {coco.name()}"
    except java.NoJava as error:
        words, tokenizer = _plain(flat), _plain_name()
        losses[str(error)] = ["words by nltk's tokenizer, not PTB's, so scores differ a little from published ones"]
    queue = iter(words)
    references = [[next(queue) for _ in texts] for texts in references]
    outputs = list(queue)
    result = _scores(references, outputs, tokenizer)
    try:
        result.scores["meteor"] = java.meteor(references, outputs)
        result.made_by["meteor"] = f"METEOR 1.5 of {coco.name()}"
    except java.NoJava as error:
        losses.setdefault(str(error), []).append("no METEOR")
    return replace(result, notes=tuple(f"{reason}: {'; '.join(lost)}" for reason, lost in losses.items()))


def _scores(references: list[list[str]], outputs: list[str], tokenizer: str) -> TextScores:
    """The scores that need no Java, of texts split into words."""
    each = {"rouge_l": coco.each_rouge_l(references, outputs)}
    if len(outputs) > 1:  # of one image CIDEr is always 0
        each["cider"] = coco.each_cider(references, outputs)
    scores = {f"bleu{n}": value for n, value in enumerate(coco.bleu(references, outputs), 1)}
    scores |= {name: fmean(values) for name, values in each.items()}
    made_by = {"tokenizer": f"{tokenizer}, lower case, no punctuation", "bleu1-4, rouge_l, cider": coco.name()}
    return TextScores(scores, made_by, each=each)


def _plain_name() -> str:
    return f"TreebankWordTokenizer of nltk {version('nltk')}"


def _plain(texts: list[str]) -> list[str]:
    """Words by the tokenizer nearest to PTB's that needs no Java, without the same punctuation."""
    from nltk.tokenize import TreebankWordTokenizer
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    tokenize, dropped = TreebankWordTokenizer().tokenize, {word.lower() for word in PUNCTUATIONS} | set("()[]{}")
    return [" ".join(word for word in tokenize(text.lower()) if word not in dropped) for text in texts]
