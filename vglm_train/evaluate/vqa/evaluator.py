"""The evaluator of the tasks vqa and report: the model's answers are scored beside those of baselines without an image.

The steps, a file each: `select` the questions, `generate` the answers, `majority` baseline, `scores` of each answer.
The command adds `intervals`, a `verdict` and a `page`.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from vglm_train.config.language import Decoding
from vglm_train.config.metric_names import (
    BEST_REPORT_TEXT_SCORES,
    DISTINCT,
    MAJORITY,
    MODEL,
    QUESTIONS,
    SHUFFLED,
    VqaTask,
    answer_metric,
)
from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.base import ImageTable, check_same_items, shown, to_pil
from vglm_train.evaluate.findings.table import FindingsTable
from vglm_train.evaluate.generator import Generator
from vglm_train.evaluate.metrics import missing, text_scores
from vglm_train.evaluate.metrics.base import TextScores
from vglm_train.evaluate.vqa.generate import CONDITIONS, AnswerGenerator
from vglm_train.evaluate.vqa.majority import MajorityBaseline
from vglm_train.evaluate.vqa.scores import AnswerScores, closed_options, score_answer, total_scores
from vglm_train.evaluate.vqa.select import task_items, why_no_items

logger = logging.getLogger(__name__)

COLUMNS = ("image", "question", "truth", "output")


@dataclass(frozen=True, slots=True)
class VqaResult:
    """Answers and their scores. The first three are keyed by system: MODEL or one of BASELINES."""

    outputs: dict[str, list[str]]  # an answer for each item
    answer_scores: dict[str, list[AnswerScores]]  # the scores of each answer
    scores: dict[str, dict[str, float]]  # score -> per cent, over all answers
    made_by: dict[str, dict[str, str]]  # language -> what computed the text scores of reports
    notes: dict[str, tuple[str, ...]]  # language -> what could not be measured, and why


@dataclass(frozen=True, slots=True)
class VqaEvaluator:
    """Generates answers and scores them. Every rank gets the same result.

    Metrics are named as `config/metric_names.py` says: the model's are `eval/vqa_accuracy` and the like, a baseline's
    `eval/vqa_shuffled_accuracy`; reports have scores of texts by language too, such as `eval/report_en_rouge_l`. All
    are in per cent. A metric that applies to no question is left out.
    """

    task: VqaTask
    answer_generator: AnswerGenerator
    majority: MajorityBaseline
    examples: int = 0  # answers in the table of examples
    conditions: Sequence[str] = CONDITIONS  # which images the model is shown; each one asks all questions again
    java: bool = False  # METEOR and the PTB tokenizer, which take 10 seconds and more for each condition
    findings: FindingsTable | None = None  # by which reports are scored; None: the shipped one
    logged_notes: set[str] = field(default_factory=set)

    def __call__(self) -> tuple[dict[str, float], list[ImageTable]]:
        """(scores, a table of examples)."""
        result, items = self.measure(), self.answer_generator.items
        scores = {
            answer_metric(self.task, name, system): value
            for system, values in result.scores.items()
            for name, value in values.items()
        }
        scores[answer_metric(self.task, QUESTIONS)] = float(len(items))
        rows = [
            (to_pil(item.pixels[0]), item.dialogue.question, item.answers[0], result.outputs[MODEL][index])
            for index in shown(items, range(len(items)), self.examples)
            for item in (items[index],)
        ]
        return scores, [ImageTable(f"answers_{self.task}", COLUMNS, rows)] if rows else []

    def available_metrics(self) -> list[str]:
        """Full names of the metrics that apply to these items; of the scores of texts those for `checkpoint.best`."""
        items = self.answer_generator.items
        names = list(total_scores([score_answer(item, item.answers[0]) for item in items]))
        if self.task == "report" and missing() is None:
            counts = Counter(item.dialogue.language for item in items)
            names += [
                f"{language}_{score}"
                for language, count in counts.items()
                for score in BEST_REPORT_TEXT_SCORES[language]
                if count > 1 or not score.startswith("cider")
            ]
        return [answer_metric(self.task, name) for name in names]

    def measure(self) -> VqaResult:
        """All answers with their scores, and what computed the scores."""
        items = self.answer_generator.items
        options = closed_options(items)
        outputs = self.answer_generator.outputs(self.conditions)
        outputs[MAJORITY] = [self.majority.answer(item) for item in items]
        answer_scores = {
            system: [score_answer(*row, self.findings) for row in zip(items, texts, options)]
            for system, texts in outputs.items()
        }
        result = VqaResult(outputs, answer_scores, {}, {}, {})
        for system, texts in outputs.items():
            result.scores[system] = {DISTINCT: 100 * len(set(texts)) / len(texts)}
        if self.task == "report":
            result.scores[MODEL]["distinct_truth"] = 100 * len({item.answers for item in items}) / len(items)
            self._add_text_scores(result)
        for system, each in answer_scores.items():
            result.scores[system] = total_scores(each) | result.scores[system]
        return result

    def _add_text_scores(self, result: VqaResult) -> None:
        """Add the scores of texts by language; those that are means are added to the scores of each answer too."""
        items = self.answer_generator.items
        by_language: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            by_language.setdefault(item.dialogue.language, []).append(index)
        for language, indices in by_language.items():
            references = [items[index].answers for index in indices]
            for system, texts in result.outputs.items():
                found = self._text_scores(language, references, [texts[index] for index in indices])
                result.scores[system].update({f"{language}_{name}": value for name, value in found.scores.items()})
                for name, values in found.each.items():
                    for index, value in zip(indices, values):
                        result.answer_scores[system][index][f"{language}_{name}"] = (value / 100, 1.0)
                result.made_by[language], result.notes[language] = found.made_by, found.notes
            for note in result.notes[language]:
                self._log_once(note)

    def _text_scores(self, language: str, references: Sequence[Sequence[str]], outputs: Sequence[str]) -> TextScores:
        """Rank 0 computes them for all ranks."""
        error, ranks = missing(), self.answer_generator.ranks
        if error is not None:
            return TextScores({}, {}, (str(error),))
        with ranks.together():
            of_main = text_scores(language, references, outputs, self.java) if ranks.main else None
        scores = ranks.from_main(of_main)
        assert isinstance(scores, TextScores)
        return scores

    def _log_once(self, note: str) -> None:
        if self.answer_generator.ranks.main and note not in self.logged_notes:
            logger.warning("%s", note)
        self.logged_notes.add(note)


def build_evaluator(
    task: VqaTask, generator: Generator, items: Sequence[EvalQuestion], decoding: Decoding, examples: int, ranks: Ranks
) -> VqaEvaluator:
    """The evaluator of a training run: it shows the right image and another one, and starts no Java program.

    UserError if no item belongs to `task`, or a question is too long.
    """
    check_same_items(items, ranks)
    own = task_items(items, task)
    if not own:
        raise UserError(f"evaluate.task {task}: the validation data has nothing for it: {why_no_items(items)}.")
    answer_generator = AnswerGenerator(generator, own, decoding, ranks, image_pool=items)
    majority = MajorityBaseline.count(own, "the validation data itself")
    return VqaEvaluator(task, answer_generator, majority, examples, (MODEL, SHUFFLED))
