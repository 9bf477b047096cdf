"""What `--task vqa` and `--task report` ask for, measure, write and print."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.data import Fields, Source
from vglm_train.config.validation import FieldError
from vglm_train.data.eval_questions import EvalQuestion, QuestionSet
from vglm_train.data.tables.leaks import find_leaks, side
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate import options
from vglm_train.evaluate.caption import command
from vglm_train.evaluate.metrics import missing
from vglm_train.evaluate.metrics.bootstrap import RESAMPLES
from vglm_train.evaluate.result import Result
from vglm_train.evaluate.vqa.evaluator import Task, VqaEvaluator, VqaResult, fitting, misfits
from vglm_train.evaluate.vqa.generate import MODEL, Answerer
from vglm_train.evaluate.vqa.intervals import BASELINES, Section, parts, section
from vglm_train.evaluate.vqa.majority import Majority
from vglm_train.evaluate.vqa.page import Page, page
from vglm_train.evaluate.vqa.select import choose, in_words, matching
from vglm_train.evaluate.vqa.verdict import Line, judge, judge_reports

STAGES = ("generate", "finetune")
INTERVALS = f"95 %, percentile bootstrap over patients, else pictures, {RESAMPLES} resamples, paired between columns"


@dataclass(frozen=True, slots=True)
class QuestionTask:
    """One of the two tasks as `python -m vglm_train.evaluate` runs it."""

    task: Task
    STAGES = STAGES

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Those of this task alone."""
        command.add_arguments(parser)
        parser.add_argument("--pictures", help="folder that a table's pictures are relative to (default: the table's)")
        parser.add_argument("--fields", help="what a table's columns are called: image=path,question=q,answer=a,...")
        parser.add_argument(
            "--train", help="table or shards that the commonest answers are taken from (default: --data)"
        )
        parser.add_argument("--only", action="append", default=[], help="ask these: NAME=PATTERN, or @FILE")
        parser.add_argument("--exclude", action="append", default=[], help="do not ask these")
        parser.add_argument(
            "--subset", action="append", default=[], nargs=2, metavar=("NAME", "WHICH"),
            help="score these apart as well, as --only names them",
        )  # fmt: skip

    def run(self, bundle: Bundle, given: argparse.Namespace, device: torch.device) -> Result:
        """Everything with each answer, what to print, and the page."""
        if self.task == "report" and (error := missing()) is not None:
            raise error
        decoding = command.decoding(bundle.config.evaluate.decoding, given)
        speaker = options.build_generator(bundle, given, device)
        data = self._questions(bundle, given.data, given, given.images)
        items, read = choose(data, self.task, given)
        subsets = {name: matching(items, which, f"--subset {name}") for name, which in given.subset}
        train = None if given.train is None else self._questions(bundle, given.train, given)
        majority = self._majority(given.train, train, items)
        leaks = [] if train is None else _leaks(train, data)
        answerer = Answerer(speaker, items, decoding, Ranks(device=device), given.batch, True, read)
        examiner = VqaEvaluator(self.task, answerer, majority, java=True)
        found = examiner.measure()
        places = {"all": list(range(len(items))), **parts(items), **subsets}
        sections = [section(name, own, items, found.marks) for name, own in places.items()]
        verdict = [*leaks, *(line for part in sections for line in judge(self.task, part))]
        if self.task == "report":
            verdict += judge_reports(found.scores[MODEL])
        title, made_from = f"{self.task}: {given.bundle} on {given.data}", majority.made_from
        report = {
            "bundle": str(given.bundle),
            "data": str(given.data),
            "questions": len(items),
            "damaged": dict(data.damaged),
            "languages": list(data.languages),
            "max_prompt": speaker.template.prompt.max_prompt,
            "decoding": dataclasses.asdict(decoding),
            "only": given.only,
            "exclude": given.exclude,
            "majority": made_from,
            **_told(items, found, sections, verdict),
        }
        asked = in_words(items, data, given)
        told = page(Page(title, self.task, items, found, sections, verdict, asked, made_from, INTERVALS))
        return Result(report, [f"asked: {asked}", *_lines(found, sections, verdict)], told)

    def _questions(
        self, bundle: Bundle, place: str, given: argparse.Namespace, limit: int | None = None
    ) -> QuestionSet:
        source, size = _source(place, given.pictures, given.fields), bundle.config.model.vision.image_size
        return QuestionSet([source], size, options.languages(bundle.config, given), limit)

    def _majority(self, place: str | None, train: QuestionSet | None, items: Sequence[EvalQuestion]) -> Majority:
        if train is None:
            return Majority.of(items, "these questions themselves, which flatters it: --train gives those of training")
        answered = list(train.answers())
        known = fitting(answered, self.task)
        if not known:
            raise UserError(f"--train {place}: nothing for --task {self.task}: {misfits(answered)}.")
        return Majority.of(known, f"{place}, {len(known)} questions")


def _leaks(train: QuestionSet, data: QuestionSet) -> list[Line]:
    """What tables of both share: scores are too good then."""
    sides = side(train.shards), side(data.shards)
    return [Line("warn", text) for text in find_leaks(*sides).lines("--data")] if all(sides) else []


def _source(place: str, pictures: str | None, fields: str | None) -> Source:
    path = Path(place)
    if (path / "manifest.json").exists() or path.name == "manifest.json":
        return Source(name="evaluation", shards=place)
    return Source(name="evaluation", table=place, images=pictures, fields=_fields(fields))


def _fields(given: str | None) -> Fields:
    """image=path,question=q -> Fields."""
    pairs = dict(part.partition("=")[::2] for part in (given or "").split(",") if part)
    known = [field.name for field in dataclasses.fields(Fields)]
    for name in pairs:
        if name not in known:
            raise UserError(f"--fields {given}: {name!r} is none of {', '.join(known)}; give {known[0]}=COLUMN,...")
    try:
        return Fields(**pairs)
    except FieldError as error:
        raise UserError(f"--fields {given}: {error}") from error


def _told(
    items: Sequence[EvalQuestion], found: VqaResult, sections: Sequence[Section], verdict: Sequence[Line]
) -> dict[str, object]:
    """The measured part of the JSON file."""
    return {
        "intervals": INTERVALS,
        "scores": found.scores,
        "sections": [dataclasses.asdict(part) for part in sections],
        "verdict": [line.text for line in verdict],
        "made_by": found.made_by,
        "notes": {language: list(notes) for language, notes in found.notes.items()},
        "answers": list(_rows(items, found)),
    }


def _rows(items: Sequence[EvalQuestion], found: VqaResult) -> Iterator[dict]:
    for place, item in enumerate(items):
        yield {
            "key": item.key,
            "picture": item.picture,
            "question": item.dialogue.question,
            "kind": item.kind,
            "type": item.type,
            "group": item.group,
            "answers": list(item.answers),
            "outputs": {who: texts[place] for who, texts in found.outputs.items()},
            "marks": {
                name: earned / count for name, (earned, count) in found.marks[MODEL][place].items() if count
            },
        }  # fmt: skip


def _lines(found: VqaResult, sections: Sequence[Section], verdict: Sequence[Line]) -> Iterator[str]:
    columns = [MODEL, *(who for who in BASELINES if who in found.scores)]
    head = f"  {'per cent':24}" + "".join(f"{who:>10}" for who in columns)
    for part in sections:
        yield from (f"{part.name}: {part.items} questions", head)
        for metric, row in part.scores.items():
            yield _line(metric, {who: score.value for who, score in row.items()}, columns)
    yield from ("all texts together", head)
    for metric in found.scores[MODEL]:
        if metric not in sections[0].scores:
            values = {who: scores[metric] for who, scores in found.scores.items() if metric in scores}
            yield _line(metric, values, columns)
    yield from (f"{'+' if line.kind == 'ok' else '!'} {line.text}" for line in verdict)


def _line(metric: str, values: dict[str, float], columns: Sequence[str]) -> str:
    return f"  {metric:24}" + "".join(f"{values[who]:10.1f}" if who in values else " " * 10 for who in columns)
