"""Answers to held-out questions scored beside what a model that never looks would get: `vqa` and `report`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from vglm_train.config.language import Decoding
from vglm_train.data.eval_questions import Answered, EvalQuestion
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.base import ImageTable, picture
from vglm_train.evaluate.generator import Generator
from vglm_train.evaluate.metrics import missing, text_scores
from vglm_train.evaluate.metrics.base import TextScores
from vglm_train.evaluate.vqa.generate import MODEL, SEEN, SHUFFLED, Answerer
from vglm_train.evaluate.vqa.intervals import MAJORITY
from vglm_train.evaluate.vqa.majority import Majority
from vglm_train.evaluate.vqa.scores import AnswerScores, options, score_answer, total

logger = logging.getLogger(__name__)

Task = Literal["vqa", "report"]
COLUMNS = ("image", "question", "truth", "output")


@dataclass(frozen=True, slots=True)
class VqaResult:
    """What was answered and what it earned. The keys of all but the last two are who answered: model, majority,
    shuffled (another picture shown), blank (a grey one).
    """

    outputs: dict[str, list[str]]  # in the items' order
    marks: dict[str, list[AnswerScores]]
    scores: dict[str, dict[str, float]]  # metric -> per cent
    made_by: dict[str, dict[str, str]]  # language -> what made the text scores of reports
    notes: dict[str, tuple[str, ...]]  # language -> what could not be measured


@dataclass(frozen=True, slots=True)
class VqaEvaluator:
    """Asks, scores, and gives the same result on every rank.

    Metric names are `eval/vqa_closed`, `_exact`, `_recall`, `_f1`, `_accuracy`, `_v2` and `_distinct`, and for reports
    `eval/report_f1`, `_recall`, `_finding_recall`, `_finding_precision`, `_normal`, `_normal_truth`, `_distinct` and
    by language `eval/report_en_rouge_l` and the like, all in per cent. `eval/vqa_shuffled_accuracy` and so on say the
    same of the baselines. A metric that no question has is not there.
    """

    task: Task
    answerer: Answerer
    majority: Majority
    examples: int = 0  # answers to show
    seen: Sequence[str] = SEEN  # what is shown to the model: every further one asks all questions again
    java: bool = False  # METEOR and the PTB tokenizer, 10 seconds and more for each of `seen`
    said: set[str] = field(default_factory=set)  # notes that the log has

    def __call__(self) -> tuple[dict[str, float], list[ImageTable]]:
        """(scores, a table of examples)."""
        found, items = self.measure(), self.answerer.items
        scores = {}
        for who, values in found.scores.items():
            start = f"eval/{self.task}_" if who == MODEL else f"eval/{self.task}_{who}_"
            scores.update({start + name: value for name, value in values.items()})
        rows = [
            (picture(item.pixels[0]), item.dialogue.question, item.answers[0], output)
            for item, output in zip(items[: self.examples], found.outputs[MODEL])
        ]
        return scores, [ImageTable(f"answers_{self.task}", COLUMNS, rows)] if rows else []

    def gives(self) -> list[str]:
        """Names of what true answers earn; texts' scores by language are not among them."""
        return [
            f"eval/{self.task}_{name}" for name in total([score_answer(i, i.answers[0]) for i in self.answerer.items])
        ]

    def measure(self) -> VqaResult:
        """Everything there is to tell."""
        items, chosen = self.answerer.items, options(self.answerer.items)
        outputs = self.answerer.outputs(self.seen)
        outputs[MAJORITY] = [self.majority.answer(item) for item in items]
        earned = {who: [score_answer(*row) for row in zip(items, texts, chosen)] for who, texts in outputs.items()}
        found = VqaResult(outputs, earned, {}, {}, {})
        for who, texts in outputs.items():
            found.scores[who] = {"distinct": 100 * len(set(texts)) / len(texts)}
        if self.task == "report":
            found.scores[MODEL]["distinct_truth"] = 100 * len({item.answers for item in items}) / len(items)
            self._texts(found)
        for who, each in earned.items():
            found.scores[who] = total(each) | found.scores[who]
        return found

    def _texts(self, found: VqaResult) -> None:
        """Adds the usual scores of texts, a language each, and what every item has in those that are means."""
        items = self.answerer.items
        by_language: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            by_language.setdefault(item.dialogue.language, []).append(place)
        for language, places in by_language.items():
            references = [items[place].answers for place in places]
            for who, texts in found.outputs.items():
                scored = self._scored(language, references, [texts[place] for place in places])
                found.scores[who].update({f"{language}_{name}": value for name, value in scored.scores.items()})
                for name, values in scored.each.items():
                    for place, value in zip(places, values):
                        found.marks[who][place][f"{language}_{name}"] = (value / 100, 1.0)
                found.made_by[language], found.notes[language] = scored.made_by, scored.notes
            for note in found.notes[language]:
                self._note(note)

    def _scored(self, language: str, references: Sequence[Sequence[str]], outputs: Sequence[str]) -> TextScores:
        """By rank 0, for all."""
        error, ranks = missing(), self.answerer.ranks
        if error is not None:
            return TextScores({}, {}, (str(error),))
        own = text_scores(language, references, outputs, self.java) if ranks.main else None
        scored = ranks.from_main(own)
        assert isinstance(scored, TextScores)
        return scored

    def _note(self, note: str) -> None:
        if self.answerer.ranks.main and note not in self.said:
            logger.warning("%s", note)
        self.said.add(note)


def build_evaluator(
    task: Task, speaker: Generator, items: Sequence[EvalQuestion], decoding: Decoding, examples: int, ranks: Ranks
) -> VqaEvaluator:
    """For a run that trains: the picture and another one are shown, and no Java is started.

    UserError where no item is what `task` is about, or a question is too long.
    """
    own = fitting(items, task)
    if not own:
        raise UserError(f"evaluate.task {task}: the validation data has nothing for it: {misfits(items)}.")
    answerer = Answerer(speaker, own, decoding, ranks, others=items)
    return VqaEvaluator(task, answerer, Majority.of(own, "the validation data itself"), examples, (MODEL, SHUFFLED))


Question = TypeVar("Question", EvalQuestion, Answered)


def fitting(items: Sequence[Question], task: Task) -> list[Question]:
    """The items that a task is about: reports, or what is not one. Without any marked so, open answers are reports."""
    reports = [item for item in items if item.kind == "report"]
    if task == "vqa":
        return [item for item in items if item.kind != "report"]
    return reports or [replace(item, kind="report") for item in items if item.kind == "open"]


def misfits(items: Sequence[EvalQuestion] | Sequence[Answered]) -> str:
    """Why a task is about none of `items`, and which one is."""
    if not items:
        return "nothing of it can be used"
    if items[0].kind == "report":
        return f"all that is usable, {len(items)}, are reports, which task report scores"
    return f"all that is usable, {len(items)}, are closed questions, which task vqa scores"
