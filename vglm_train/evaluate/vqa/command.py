"""`--task vqa` and `--task report` on the command line: their options, report, page and what they print."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vglm_train.checkpoint.bundle.read import Bundle
from vglm_train.config.metric_names import BASELINES, MEANING, MODEL, VqaTask
from vglm_train.data.eval_questions import EvalQuestion, QuestionSet
from vglm_train.data.tables.leaks import find_leaks, side
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate import options
from vglm_train.evaluate.caption import command
from vglm_train.evaluate.findings import quality
from vglm_train.evaluate.findings.label import label
from vglm_train.evaluate.findings.scores import count_findings
from vglm_train.evaluate.findings.table import FindingsTable, read_table, shipped_table
from vglm_train.evaluate.metrics import missing
from vglm_train.evaluate.metrics.bootstrap import RESAMPLES
from vglm_train.evaluate.result import Result
from vglm_train.evaluate.vqa import blind
from vglm_train.evaluate.vqa.evaluator import VqaEvaluator, VqaResult
from vglm_train.evaluate.vqa.generate import AnswerGenerator
from vglm_train.evaluate.vqa.intervals import SubsetScores, score_subset, subsets_by_type
from vglm_train.evaluate.vqa.majority import MajorityBaseline
from vglm_train.evaluate.vqa.page import PageData, render_page
from vglm_train.evaluate.vqa.select import (
    describe_selection,
    match_questions,
    select_questions,
    task_items,
    why_no_items,
)
from vglm_train.evaluate.vqa.source import KEYS, parse_source
from vglm_train.evaluate.vqa.verdict import assess_reports, assess_scores, assess_silence
from vglm_train.report.html import VerdictLine

STAGES = ("generate", "finetune")
INTERVALS = f"95 %, percentile bootstrap over patients, else pictures, {RESAMPLES} resamples, paired between columns"


@dataclass(frozen=True, slots=True)
class VqaCommand:
    """One of the two tasks as `python -m vglm_train.evaluate` runs it."""

    task: VqaTask
    STAGES = STAGES

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of generating text, and those that only these two tasks have."""
        command.add_arguments(parser)
        parser.add_argument("--pictures", help="folder that a table's pictures are relative to (default: the table's)")
        parser.add_argument("--fields", help="what a table's columns are called: image=path,question=q,answer=a,...")
        parser.add_argument(
            "--train", help="table or shards that the commonest answers are taken from (default: --data)"
        )
        for name, of in (("--source", "--data"), ("--train-source", "--train")):
            help = f"how {of} is read, as a source of a run has it: {', '.join(KEYS)}; repeatable"
            parser.add_argument(name, action="append", default=[], metavar="KEY=VALUE", help=help)
        parser.add_argument("--only", action="append", default=[], help="ask these: NAME=PATTERN, or @FILE")
        parser.add_argument("--exclude", action="append", default=[], help="do not ask these")
        parser.add_argument(
            "--subset", action="append", default=[], nargs=2, metavar=("NAME", "WHICH"),
            help="score these apart as well, as --only names them",
        )  # fmt: skip
        if self.task == "report":
            help = "table of findings and the words that say them (default: the shipped one, chest.yaml)"
            parser.add_argument("--findings", type=Path, metavar="FILE", help=help)
        else:
            options.refuse(parser, ["--findings"], "is of --task report; leave it out, or give --task report")
        parser.add_argument(
            "--blind", action="store_true", help="another page: a person answers questions first, then sees the verdict"
        )
        parser.add_argument("--blind-questions", type=int, metavar="N", help=f"how many (default {blind.COUNT})")

    def run(self, bundle: Bundle, args: argparse.Namespace, device: torch.device) -> Result:
        """Evaluate `bundle` on `args.data`. UserError for missing libraries, wrong options or no question to ask."""
        if self.task == "report" and (error := missing()) is not None:
            raise error
        table = self._findings(args)
        count = _blind_count(args)
        decoding = command.changed_decoding(bundle.config.evaluate.decoding, args)
        generator = options.build_generator(bundle, args, device)
        data = self._questions(bundle, args.data, args, "--source", args.images)
        items, readable = select_questions(data, self.task, args)
        named = {name: match_questions(items, which, f"--subset {name}") for name, which in args.subset}
        reading = blind.read_questions(items, count, data.pictures) if count else None  # before what takes long
        train = None if args.train is None else self._questions(bundle, args.train, args, "--train-source")
        majority = self._majority(args.train, train, items)
        leaks = [] if train is None else _leaks(train, data)
        ranks = Ranks(device=device)
        answer_generator = AnswerGenerator(generator, items, decoding, ranks, args.batch, True, readable)
        result = VqaEvaluator(self.task, answer_generator, majority, java=True, findings=table).measure()
        indices = {"all": list(range(len(items))), **subsets_by_type(items), **named}
        subsets = [score_subset(name, own, items, result.answer_scores) for name, own in indices.items()]
        verdict = [*leaks, *self._assess(subsets, result)]
        if table is not None:
            verdict += assess_silence(*_silent_reports(items, result, table), len(items))
        report = {
            "task": self.task,
            "meaning": MEANING,
            "bundle": str(args.bundle),
            "adapters": list(args.adapter),
            "data": str(args.data),
            "questions": len(items),
            "damaged": dict(data.damaged),
            "languages": list(data.languages),
            "max_prompt": generator.template.prompt.max_prompt,
            "decoding": dataclasses.asdict(decoding),
            "only": args.only,
            "exclude": args.exclude,
            "majority": majority.source,
            **_measurements(items, result, subsets, verdict),
            **({} if table is None else {"findings": _describe_findings(table, items, result)}),
        }
        title = f"{self.task}: {args.bundle} on {args.data}"
        selection = describe_selection(items, readable, self.task, data, args)
        page = PageData(title, self.task, items, result, subsets, verdict, selection, majority.source, INTERVALS, table)
        lines = [f"asked: {selection}", *_lines(result, subsets, verdict)]
        if table is not None:
            for language in dict.fromkeys(item.dialogue.language for item in items):
                lines += quality.lines(table, language == "zh", [language])
        made = Result(report, lines, render_page(page))
        return made if reading is None else _with_blind(made, page, reading, f"{self.task}-{Path(args.data).stem}")

    def _findings(self, args: argparse.Namespace) -> FindingsTable | None:
        """The table that reports are scored by. UserError for a wrong one."""
        if self.task != "report":
            return None
        return shipped_table() if args.findings is None else read_table(args.findings)

    def _assess(self, subsets: Sequence[SubsetScores], result: VqaResult) -> Iterator[VerdictLine]:
        for subset in subsets:
            yield from assess_scores(self.task, subset)
        if self.task == "report":
            yield from assess_reports(result.scores[MODEL])

    def _questions(
        self, bundle: Bundle, path: str, args: argparse.Namespace, option: str, limit: int | None = None
    ) -> QuestionSet:
        """`option`: the one that says how `path` is read."""
        options_of = args.source if option == "--source" else args.train_source
        source = parse_source(path, args.pictures, args.fields, options_of, option)
        config = bundle.config
        size, image = config.model.vision.image_size, config.data.image
        return QuestionSet([source], size, options.languages(config, args), limit, image.decoder, image)

    def _majority(self, path: str | None, train: QuestionSet | None, items: Sequence[EvalQuestion]) -> MajorityBaseline:
        """The baseline of the questions in --train, or of the evaluated ones."""
        if train is None:
            source = "these questions themselves, which flatters it: --train gives those of training"
            return MajorityBaseline.count(items, source)
        answered = list(train.answers())
        questions = task_items(answered, self.task)
        if not questions:
            raise UserError(f"--train {path}: nothing for --task {self.task}: {why_no_items(answered)}.")
        return MajorityBaseline.count(questions, f"{path}, {len(questions)} questions")


def _blind_count(args: argparse.Namespace) -> int:
    """How many questions a person answers first; 0 without --blind. UserError for a wrong --blind-questions."""
    if args.blind_questions is None:
        return blind.COUNT if args.blind else 0
    if not args.blind:
        raise UserError(f"--blind-questions {args.blind_questions}: is of --blind; give both.")
    if args.blind_questions < 1:
        raise UserError(f"--blind-questions must be 1 or more, found {args.blind_questions}.")
    return int(args.blind_questions)


def _with_blind(made: Result, page: PageData, reading: blind.Reading, name: str) -> Result:
    asking = blind.render_blind(page, reading, name)
    return dataclasses.replace(made, lines=[*made.lines, asking.description], blind=asking.html)


def _leaks(train: QuestionSet, data: QuestionSet) -> list[VerdictLine]:
    """What the tables of both share, which makes scores too good."""
    sides = side(train.shards), side(data.shards)
    return [VerdictLine("warn", text) for text in find_leaks(*sides).lines("--data")] if all(sides) else []


def _describe_findings(table: FindingsTable, items: Sequence[EvalQuestion], result: VqaResult) -> dict[str, Any]:
    """What the table is worth, and its findings one by one in the model's reports."""
    truths = [" ".join(item.answers) for item in items]
    outputs = result.outputs[MODEL]
    each = {
        item.key: {"truth": _mentions(truth, table), "output": _mentions(output, table)}
        for item, truth, output in zip(items, truths, outputs)
    }
    return {**quality.describe(table), "observations": count_findings(truths, outputs, table), "reports": each}


def _silent_reports(items: Sequence[EvalQuestion], result: VqaResult, table: FindingsTable) -> tuple[int, int]:
    """How many of the true reports, and of the model's, say nothing that the table knows."""
    truths = [" ".join(item.answers) for item in items]
    true, own = (sum(not label(text, table) for text in texts) for texts in (truths, result.outputs[MODEL]))
    return true, own


def _mentions(text: str, table: FindingsTable) -> dict[str, list[str | None]]:
    """Finding -> [state, side]."""
    return {name: list(mention) for name, mention in label(text, table).items()}


def _measurements(
    items: Sequence[EvalQuestion],
    result: VqaResult,
    subsets: Sequence[SubsetScores],
    verdict: Sequence[VerdictLine],
) -> dict[str, object]:
    """The part of the report that was measured."""
    return {
        "intervals": INTERVALS,
        "scores": result.scores,
        "sections": [dataclasses.asdict(subset) for subset in subsets],
        "verdict": [line.text for line in verdict],
        "made_by": result.made_by,
        "notes": {language: list(notes) for language, notes in result.notes.items()},
        "answers": list(_rows(items, result)),
    }


def _rows(items: Sequence[EvalQuestion], result: VqaResult) -> Iterator[dict[str, Any]]:
    """Each question with its answers in the report."""
    for index, item in enumerate(items):
        scores = result.answer_scores[MODEL][index].items()
        yield {
            "key": item.key,
            "picture": item.picture,
            "image_id": item.image_id,
            "language": item.dialogue.language,
            "question": item.dialogue.question,
            "kind": item.kind,
            "type": item.type,
            "group": item.group,
            "answers": list(item.answers),
            "outputs": {system: texts[index] for system, texts in result.outputs.items()},
            "marks": {name: points / maximum for name, (points, maximum) in scores if maximum},
            "points": {name: list(each) for name, each in scores if each[1]},  # and the most there could be
        }


def _lines(result: VqaResult, subsets: Sequence[SubsetScores], verdict: Sequence[VerdictLine]) -> Iterator[str]:
    """What is printed: a table for each subset, the scores of all texts together, the verdict."""
    columns = [MODEL, *(baseline for baseline in BASELINES if baseline in result.scores)]
    head = f"  {'per cent':24}" + "".join(f"{system:>10}" for system in columns)
    for subset in subsets:
        yield from (f"{subset.name}: {subset.items} questions", head)
        for metric, row in subset.scores.items():
            yield _line(metric, {system: score.value for system, score in row.items()}, columns)
    yield from ("all texts together", head)
    for metric in result.scores[MODEL]:
        if metric not in subsets[0].scores:
            values = {system: scores[metric] for system, scores in result.scores.items() if metric in scores}
            yield _line(metric, values, columns)
    yield from (f"{'+' if line.kind == 'ok' else '!'} {line.text}" for line in verdict)


def _line(metric: str, values: dict[str, float], columns: Sequence[str]) -> str:
    cells = (f"{values[system]:10.1f}" if system in values else " " * 10 for system in columns)
    return f"  {metric:24}" + "".join(cells)
