"""Scores by a protocol's rules: of answers, of captions, and of matched pictures and texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.metric_names import RERANK, language_metric
from vglm_train.data.eval_captions import EvalItem
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.metrics import missing, text_scores
from vglm_train.evaluate.protocols.generate import Output
from vglm_train.evaluate.protocols.official import OfficialItem, OfficialSet
from vglm_train.evaluate.protocols.rules import ANSWER_RULES, mean
from vglm_train.evaluate.protocols.schema import Matching, Protocol
from vglm_train.evaluate.retrieval.evaluator import Embedder, RetrievalEvaluator
from vglm_train.progress import Progress
from vglm_train.prompt.qformer_text import QFormerTokenizer

LANGUAGE = "en"  # of every benchmark here


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores in per cent (CIDEr: times 100), in the protocol's order."""

    scores: dict[str, float]
    items: int  # that were scored
    by_type: dict[str, dict[str, float]] = field(default_factory=dict)  # type -> scores
    marks: list[dict[str, float]] = field(default_factory=list)  # of each answer from 0 to 1; of a caption as `scores`
    queries: list[dict[str, Any]] = field(default_factory=list)  # of retrieval, with the marks of each
    made_by: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what could not be measured as the protocol says, and why


def score_answers(protocol: Protocol, outputs: Sequence[Output]) -> Measured:
    """By the rules for single answers. A score that no answer has is left out; without true answers that is all."""
    marks = []
    for item, output in outputs:
        scores = protocol.scores if item.answers else ()
        points = {score.name: ANSWER_RULES[score.rule](item, output) for score in scores}
        marks.append({name: value for name, value in points.items() if value is not None})
    types = dict.fromkeys(item.type for item, _ in outputs if item.type is not None and item.answers)
    of_type = {kind: [own for (item, _), own in zip(outputs, marks) if item.type == kind] for kind in types}
    by_type = {kind: _means(protocol, own) for kind, own in sorted(of_type.items())}
    return Measured(_means(protocol, marks), len(outputs), by_type, marks)


def _means(protocol: Protocol, marks: Sequence[dict[str, float]]) -> dict[str, float]:
    columns = {score.name: [own[score.name] for own in marks if score.name in own] for score in protocol.scores}
    return {name: mean(points) for name, points in columns.items() if points}


def score_captions(protocol: Protocol, outputs: Sequence[Output]) -> Measured:
    """By pycocoevalcap."""
    if (error := missing()) is not None:
        raise error
    found = text_scores(LANGUAGE, [item.answers for item, _ in outputs], [text for _, text in outputs])
    scores = {score.name: found.scores[score.rule] for score in protocol.scores if score.rule in found.scores}
    each = {score.name: found.each[score.rule] for score in protocol.scores if score.rule in found.each}
    marks = [{name: values[number] / 100 for name, values in each.items()} for number in range(len(outputs))]
    return Measured(scores, len(outputs), marks=marks, made_by=found.made_by, notes=found.notes)


def score_retrieval(
    protocol: Protocol, bundle: Bundle, items: OfficialSet, workers: int, device: torch.device
) -> Measured:
    """Recall after ITM has scored the best candidates again. A picture that stands there twice counts as two, as in
    LAVIS."""
    matching = protocol.matching
    assert matching is not None
    text = _text(bundle, matching)
    read = list(Progress(len(items), "image", "read").over(items.read(workers)))
    if len(read) < 2:
        raise UserError(
            f"--protocol {protocol.name}: {len(read)} of its pictures can be read; two are needed at least."
        )
    autocast = device.type == "cuda" and bundle.config.engine.precision == "bf16"
    embedder = Embedder(bundle.model, text, device, autocast, progress=True)
    count = min(matching.candidates.value, sum(len(item.answers) for item in read))
    ranks, pictures = Ranks(device=device), [_eval_item(number, item) for number, item in enumerate(read)]
    found = RetrievalEvaluator(embedder, pictures, [LANGUAGE], count, 0, ranks, matching.score.value).measure()
    scores = {each.name: found.scores[language_metric(LANGUAGE, RERANK + each.rule)] for each in protocol.scores}
    rows = found.outcomes[LANGUAGE].rows(LANGUAGE, pictures)
    return Measured(scores, len(read), queries=[_query(protocol, row, read[row["image_id"]]) for row in rows])


def _query(protocol: Protocol, row: dict[str, Any], item: OfficialItem) -> dict[str, Any]:
    """A picture or text (None for a picture) that was looked for, and by which scores it was found."""
    direction, rank = row["direction"], row[f"{RERANK}rank"]
    rules = {score.name: score.rule.split("_r") for score in protocol.scores}
    marks = {name: float(0 < rank <= int(most)) for name, (way, most) in rules.items() if way == direction}
    return {
        "id": item.id, "picture": item.picture_name, "direction": direction, "text": row["text"], "rank": rank,
        "marks": marks,
    }  # fmt: skip


def _text(bundle: Bundle, matching: Matching) -> QFormerTokenizer:
    """The bundle's tokenizer, with the protocol's cleaning and length of texts."""
    length, positions = matching.max_length.value, bundle.config.model.qformer.positions
    if length > positions:
        raise UserError(
            f"the protocol's texts have {length} tokens at most, and the bundle's Q-Former has {positions} positions."
        )
    config = replace(bundle.text.config, max_length=length, processor=matching.processor.value)
    return QFormerTokenizer(bundle.text.tokenizer, config)


def _eval_item(number: int, item: OfficialItem) -> EvalItem:
    assert item.pixels is not None
    return EvalItem(item.where, number, item.pixels[0], {LANGUAGE: item.answers})
