"""English: what the COCO evaluation gives, by pycocoevalcap."""

from importlib.metadata import version

from vglm_train.evaluate.metrics import TextScores, coco, java


def scores(references: list[list[str]], outputs: list[str]) -> TextScores:
    """bleu1 ... bleu4, rouge_l, cider, and with Java meteor. Without Java another tokenizer stands in and is named."""
    flat = [text for texts in references for text in texts] + outputs
    lost: dict[str, list[str]] = {}  # reason -> what it costs
    try:
        words, tokenizer = java.tokenize(flat), f"Stanford PTBTokenizer 3.4.1 of {coco.name()}"
    except java.NoJava as error:
        words, tokenizer = _plain(flat), f"TreebankWordTokenizer of nltk {version('nltk')}"
        lost[str(error)] = ["words by nltk's tokenizer, not PTB's, so scores differ a little from published ones"]
    queue = iter(words)
    references = [[next(queue) for _ in texts] for texts in references]
    outputs = list(queue)
    found = {f"bleu{n}": value for n, value in enumerate(coco.bleu(references, outputs), 1)}
    found |= {"rouge_l": coco.rouge_l(references, outputs), "cider": coco.cider(references, outputs)}
    made_by = {"tokenizer": f"{tokenizer}, lower case, no punctuation", "bleu1-4, rouge_l, cider": coco.name()}
    try:
        found["meteor"] = java.meteor(references, outputs)
        made_by["meteor"] = f"METEOR 1.5 of {coco.name()}"
    except java.NoJava as error:
        lost.setdefault(str(error), []).append("no METEOR")
    return TextScores(found, made_by, tuple(f"{reason}: {'; '.join(costs)}" for reason, costs in lost.items()))


def _plain(texts: list[str]) -> list[str]:
    """The tokenizer nearest to PTB's that needs no Java, less the same punctuation."""
    from nltk.tokenize import TreebankWordTokenizer
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    cut, dropped = TreebankWordTokenizer().tokenize, {word.lower() for word in PUNCTUATIONS} | set("()[]{}")
    return [" ".join(word for word in cut(text.lower()) if word not in dropped) for text in texts]
