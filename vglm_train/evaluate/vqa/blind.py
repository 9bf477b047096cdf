"""The blind page: a person answers some of the questions, and then sees the own score and the verdict.

The page loads nothing. It holds the questions with their pictures in the open; true answers, the model's answers, their
scores and the verdict are packed, so that nobody reads them by accident. The scores of a person's answers are those of
`score_answer`: computed here for each choice of a closed question, and in the page (`static/blind_scores.js`, compared
with this by a test) for words. Intervals use the draws of `metrics/bootstrap.py`, which the page holds.
"""

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from vglm_train.config.metric_meanings import ANSWERS_ZH
from vglm_train.config.metric_names import ANSWER_SCORES
from vglm_train.data.eval_choice import examples, hash_of
from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.evaluate.findings.label import label
from vglm_train.evaluate.findings.scores import ignored_findings, stated_findings
from vglm_train.evaluate.findings.table import FindingsTable, shipped_table
from vglm_train.evaluate.metrics import answers, vqav2
from vglm_train.evaluate.metrics.bootstrap import RESAMPLES, draws
from vglm_train.evaluate.vqa.intervals import cluster_of
from vglm_train.evaluate.vqa.page import PageData, render_parts
from vglm_train.evaluate.vqa.scores import AnswerScores, closed_options, score_answer
from vglm_train.report import html

STATIC = Path(__file__).parent / "static"
SCRIPTS = ("blind_words.js", "blind_scores.js", "blind.js", "blind_result.js", "blind_zoom.js")
COUNT = 20  # questions, unless a number is given
SIDE = 1024  # pixels of a picture's longer side at most
POLAR = {"en": ["yes", "no"], "zh": ["是", "否"]}  # in the question's language


@dataclass(frozen=True, slots=True)
class Reading:
    """The questions that a person is asked."""

    chosen: list[int]  # indices of items
    pictures: list[str]  # data URLs, each once
    shown: list[list[int]]  # of each chosen item, the numbers of its pictures


@dataclass(frozen=True, slots=True)
class BlindPage:
    """The page, and what to say about it."""

    html: str
    description: str


def choose_questions(items: Sequence[EvalQuestion], count: int) -> list[int]:
    """Indices of `count` items: by hash, in turn of each type (or kind) and language, and of different pictures first.

    Of pictures with dialogues only one question is taken, because later questions show the answers to earlier ones.
    """
    order = sorted(range(len(items)), key=lambda index: hash_of(items[index].source, items[index].key))
    first: dict[int, int] = {}
    for index in order:
        first.setdefault(items[index].image_id, index)
    told = {item.image_id for item in items if item.dialogue.history}
    chosen = _spread(items, list(first.values()), count)
    taken = set(first.values())
    others = [index for index in order if index not in taken and items[index].image_id not in told]
    return chosen + _spread(items, others, count - len(chosen))


def _spread(items: Sequence[EvalQuestion], indices: Sequence[int], count: int) -> list[int]:
    own = [items[index] for index in indices]
    groups = [(item.type or item.kind, item.dialogue.language) for item in own]
    return [indices[n] for n in examples([f"{item.source}\n{item.key}" for item in own], groups, count)]


def choices_of(item: EvalQuestion, options: Sequence[str]) -> list[str] | None:
    """What a person chooses from; None where the answer is written. `options`: of `closed_options`.

    The true answer is always among them, and its place says nothing.
    """
    if item.kind != "closed":
        return None
    truth = answers.commonest(item.answers)
    if not item.options and answers.truth_polarity(truth) is not None:
        return POLAR[item.dialogue.language]
    by_words = {tuple(answers.words(option)): option for option in [truth, *reversed(options)] if option.strip()}
    if len(by_words) < 2:
        return None
    given = [option for option in options if by_words.get(tuple(answers.words(option))) == option]
    return given if item.options and len(given) == len(by_words) else sorted(by_words.values(), key=str.casefold)


def known_answers(items: Sequence[EvalQuestion]) -> dict[tuple[str | None, str], list[str]]:
    """(type, language) -> the true answers to its open questions, where two questions have the same one on average.

    A person is shown them: which words a data set uses cannot be seen in a picture, and the model has learned them.
    """
    true: dict[tuple[str | None, str], list[str]] = {}
    for item in items:
        if item.kind == "open" and item.type is not None:
            true.setdefault((item.type, item.dialogue.language), []).append(answers.commonest(item.answers))
    return {of: sorted(set(own)) for of, own in true.items() if 1 < len(set(own)) <= len(own) / 2}


def read_questions(
    items: Sequence[EvalQuestion], count: int, read: Callable[[EvalQuestion], Sequence[Image.Image]]
) -> Reading:
    """What a person is asked: `count` of `items`. `read`: an item's pictures."""
    chosen = choose_questions(items, count)
    numbers: dict[str, int] = {}
    shown = [[numbers.setdefault(_encode(image), len(numbers)) for image in read(items[index])] for index in chosen]
    return Reading(chosen, list(numbers), shown)


def render_blind(data: PageData, reading: Reading, name: str) -> BlindPage:
    """The page of `data`, of whose items `reading` is. `name`: of a file with answers, without its suffix."""
    chosen, options, known = reading.chosen, closed_options(data.items), known_answers(data.items)
    choices = [choices_of(data.items[index], options[index]) for index in chosen]
    questions = [
        _question(data.items[index], own, shown, known) for index, own, shown in zip(chosen, choices, reading.shown)
    ]
    sealed = _seal(data, chosen, choices, options)
    public = {
        "id": hashlib.sha256("".join([sealed, *reading.pictures]).encode()).hexdigest()[:24],
        "title": data.title, "name": name, "task": data.task, "of": len(data.items), "side": SIDE,
        "modelSide": data.items[0].pixels.shape[-1], "pictures": reading.pictures, "questions": questions,
        "findings": list(_findings(data.findings or shipped_table())),
        "meanings": {each: {"en": meaning, "zh": ANSWERS_ZH[each]} for each, meaning in ANSWER_SCORES.items()},
    }  # fmt: skip
    text = _document(data.title, public, sealed)
    return BlindPage(
        text,
        f"blind page: a person answers {len(questions)} of {len(data.items)} questions; {len(text) / 1e6:.1f} MB with "
        f"{len(reading.pictures)} pictures of at most {SIDE} pixels and the true answers: keep it where the pictures "
        "may be",
    )


def _findings(table: FindingsTable) -> Iterator[dict[str, Any]]:
    """The findings that a person may mark. `whole`: the one that a part counts as, too."""
    for each in table.findings:
        if each.abnormal:
            yield {"name": each.name, "en": each.name.replace("_", " "), "zh": each.chinese, "whole": each.part_of}


def _question(
    item: EvalQuestion,
    choices: list[str] | None,
    pictures: Sequence[int],
    known: Mapping[tuple[str | None, str], list[str]],
) -> dict[str, Any]:
    """What is seen of a question before it is answered."""
    return {
        "pictures": pictures,
        "history": [[turn.question, turn.answer] for turn in item.dialogue.history],
        "question": item.dialogue.question,
        "language": item.dialogue.language,
        "kind": item.kind,
        "choices": choices,
        "polar": choices == POLAR[item.dialogue.language] and not item.options,
        "known": known.get((item.type, item.dialogue.language), []) if item.kind == "open" else [],
    }


def _seal(
    data: PageData, chosen: Sequence[int], choices: Sequence[list[str] | None], options: Sequence[Sequence[str]]
) -> str:
    """What is seen afterwards: JSON, packed by gzip, in base64."""
    items, table = [data.items[index] for index in chosen], data.findings or shipped_table()
    clusters = {name: number for number, name in enumerate(dict.fromkeys(map(cluster_of, items)))}
    systems = {system: [_lists(each[index]) for index in chosen] for system, each in data.result.answer_scores.items()}
    content = {
        "truths": [
            {**_truth(data.items[index], own, options[index], table), **_outputs(data, index, table)}
            | {"cluster": clusters[cluster_of(data.items[index])]}
            for index, own in zip(chosen, choices)
        ],
        "systems": systems,
        "clusters": len(clusters),
        "resamples": RESAMPLES,
        "draws": "".join((part + ord("0")).astype("uint8").tobytes().decode("ascii") for part in draws(len(clusters))),
        "rules": rules(),
        "verdict": "".join(render_parts(data)),
    }
    packed = gzip.compress(json.dumps(content).encode(), mtime=0)
    return base64.b64encode(packed).decode()


def rules() -> dict[str, Any]:
    """The lists of words by which the page compares typed answers."""
    return {
        "han": answers.HAN,
        "articles": sorted(answers.ARTICLES),
        "punctuation": list(vqav2.PUNCTUATION),
        "stops": vqav2.STOPS,
        "numbers": list(vqav2.NUMBERS.items()),
        "contractions": list(vqav2.CONTRACTIONS.items()),
    }


def _truth(
    item: EvalQuestion, choices: Sequence[str] | None, options: Sequence[str], table: FindingsTable
) -> dict[str, Any]:
    """What is right, and what each choice scores."""
    read = label(" ".join(item.answers), table) if item.kind == "report" else {}
    scored = None if choices is None else {each: _lists(score_answer(item, each, options)) for each in choices}
    return {
        "kind": item.kind,
        "commonest": answers.commonest(item.answers),
        "people": list(item.answers),
        "shown": list(dict.fromkeys(item.answers)),
        "choices": scored,
        "v2": item.kind != "report" and len(item.answers) == vqav2.PEOPLE,
        "findings": sorted(stated_findings(read, table)),
        "ignored": sorted(ignored_findings(read, table)),
        "where": f"{item.key} {item.picture}",
    }


def _outputs(data: PageData, index: int, table: FindingsTable) -> dict[str, Any]:
    """What each system answered; of reports also the findings that it states."""
    outputs = {system: texts[index] for system, texts in data.result.outputs.items()}
    if data.items[index].kind != "report":
        return {"outputs": outputs, "stated": None}
    stated = {system: sorted(stated_findings(label(text, table), table)) for system, text in outputs.items()}
    return {"outputs": outputs, "stated": stated}


def _lists(scores: AnswerScores) -> dict[str, list[float]]:
    return {metric: list(pair) for metric, pair in scores.items()}


def _encode(image: Image.Image) -> str:
    """A data URL of the picture, of SIDE pixels at most; grey where it has no colours."""
    small, data = image.convert("RGB"), io.BytesIO()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    red, green, blue = small.split()
    colourless = not any(ImageChops.difference(red, other).getbbox() for other in (green, blue))
    (red if colourless else small).save(data, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _document(title: str, public: dict[str, Any], sealed: str) -> str:
    """The whole page. Only its own script may run in it, and nothing may be loaded."""
    script = "".join((STATIC / name).read_text("utf-8").removeprefix('"use strict";\n') for name in SCRIPTS)
    script = '"use strict";\n' + script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    held = json.dumps(public).replace("<", "\\u003c")
    return "".join(
        [
            '<!doctype html><html lang="en" data-theme="auto"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<link rel="icon" href="data:,"><title>{escape(title)}</title>',
            f"<style>{html.STYLE}{(STATIC / 'blind.css').read_text('utf-8')}</style></head><body>",
            *_header(),
            f'<script type="application/json" id="open">{held}</script>',
            f'<script type="application/octet-stream" id="sealed">{sealed}</script>',
            f"<script>{script}</script></body></html>\n",
        ]
    )


def _header() -> Iterator[str]:
    yield '<header><h1 id="title"></h1>'
    yield from (f'<button type="button" id="{name}"></button>' for name in ("save", "load", "theme", "language"))
    yield '<input type="file" id="file" accept=".json,application/json" hidden><span id="about"></span></header>'
    yield '<p class="note warn" id="kept" hidden></p><p class="note warn" id="told" role="status"></p>'
    yield '<nav id="strip" hidden></nav><main id="main"></main>'
