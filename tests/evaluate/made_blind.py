"""A blind page of made questions of every kind, and what a person answers to them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from made_questions import made_question
from PIL import Image

from vglm_train.config.metric_names import VqaTask
from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.evaluate.vqa.blind import read_questions, render_blind
from vglm_train.evaluate.vqa.evaluator import VqaResult
from vglm_train.evaluate.vqa.intervals import SubsetScores, score_subset
from vglm_train.evaluate.vqa.page import PageData
from vglm_train.evaluate.vqa.scores import closed_options, score_answer, total_scores
from vglm_train.prompt.dialogue import Dialogue, Turn
from vglm_train.report.html import VerdictLine

SKIP = object()
EVIL = "</script><img src=x onerror=\"document.title='taken'\"><b>&amp;"
PEOPLE = ("Two.", "two", "2", "two dogs", "two", "3", "three", "two", "a pair", "two")


def questions() -> list[tuple[EvalQuestion, object, str, str]]:
    """(question, the person's answer, the model's, that of the commonest)."""
    before = Dialogue("and where?", None, (Turn("what is it?", "a nodule"),))
    asked = [
        (made_question(0, "is it red?", "yes", kind="closed"), "yes", "no", "yes"),
        (made_question(1, "是红的吗？", "不是", kind="closed"), "是", "不是。", "是"),
        (made_question(2, "left or right lung?", "left", kind="closed"), "left", "the left lung", "right"),
        (made_question(3, "side?", "b", kind="closed", options=("a", "b", "c")), "c", "b", "a"),
        (made_question(4, "which plane?", "PA", "posteroanterior"), "  the pa. ", "ap", "pa"),
        (made_question(5, "什么颜色？", "红色"), "红", "红色", "绿"),
        (made_question(0, "how many dogs?", *PEOPLE), "two dogs", "2", "two"),
        (made_question(1, "what is seen?", "a large nodule of 1.5 cm"), "1.5 cm nodule", "nothing", "a nodule"),
        (made_question(2, "which?", "lobe", dialogue=before), SKIP, "lobe", "lobe"),
        (made_question(3, EVIL, EVIL), EVIL, EVIL, "?"),
    ]
    return [(replace(row[0], key=f"q{n}", image_id=n, group=f"p{n % 7}"), *row[1:]) for n, row in enumerate(asked)]


def reports() -> list[tuple[EvalQuestion, object, str, str]]:
    texts = (
        ("Right pleural effusion.", ["pleural_effusion"], "No effusion.", "Normal chest."),
        ("心脏增大，两肺未见异常。", ["cardiomegaly", "lung_opacity"], "心影增大。", "Normal chest."),
        ("Normal chest.", [], "Consolidation of the left lobe.", "Normal chest."),
        ("Fracture and ground-glass opacity.", ["fracture", "ground_glass"], "Fracture.", "Normal chest."),
        ("Atelectasis.", SKIP, "Atelectasis.", "Normal chest."),
        ("Nodule in the left lobe.", [], "", "Normal chest."),
    )
    asked = [(made_question(n, "report", truth, kind="report"), *row) for n, (truth, *row) in enumerate(texts)]
    return [(replace(row[0], key=f"r{n}"), *row[1:]) for n, row in enumerate(asked)]


class MadePage:
    """The page in a file, with the person's answers in the order in which the page asks."""

    def __init__(self, folder: Path, task: VqaTask = "vqa", verdict: str = "made for a test") -> None:
        rows = questions() if task == "vqa" else reports()
        self.items = [row[0] for row in rows]
        outputs = {"model": [row[2] for row in rows], "majority": [row[3] for row in rows]}
        self.options = closed_options(self.items)
        self.scores = {
            system: [score_answer(*each) for each in zip(self.items, texts, self.options)]
            for system, texts in outputs.items()
        }
        totals = {system: total_scores(each) for system, each in self.scores.items()}
        result = VqaResult(outputs, self.scores, totals, {}, {})
        subset = score_subset("all", range(len(rows)), self.items, self.scores)
        lines = [VerdictLine("ok", verdict)]
        data = PageData(f"{task}: made", task, self.items, result, [subset], lines, "all", "these", "made")
        reading = read_questions(self.items, 100, picture)
        self.order = reading.chosen
        self.answers = [rows[index][1] for index in self.order]
        self.file = folder / f"{task}.html"
        self.file.write_text(render_blind(data, reading, f"{task}-made").html, "utf-8")

    def expected(self, answers: list[object]) -> SubsetScores:
        """The evaluation's own scores: the person in the model's column, the model in a baseline's (`shuffled`)."""
        own = [{} if answer is SKIP else self._score(index, answer) for index, answer in zip(self.order, answers)]
        given = [answer is not SKIP for answer in answers]
        systems = {"model": own}
        for system, name in (("model", "shuffled"), ("majority", "majority")):
            each = [self.scores[system][index] for index in self.order]
            systems[name] = [scores if kept else {} for scores, kept in zip(each, given)]
        return score_subset("all", range(len(own)), [self.items[index] for index in self.order], systems)

    def _score(self, index: int, answer: object):
        item = self.items[index]
        if item.kind != "report":
            return score_answer(item, str(answer), self.options[index])
        assert isinstance(answer, list)
        names = {
            "cardiomegaly": "cardiomegaly",
            "lung_opacity": "infiltrate",
            "pleural_effusion": "effusion",
            "ground_glass": "ground glass",
            "fracture": "fracture",
        }
        text = ". ".join(names[name] for name in answer) or "no finding"
        unknown = ("recall", "f1", "finding_side")  # of findings that a person marks
        return {name: pair for name, pair in score_answer(item, text).items() if name not in unknown}


def picture(item: EvalQuestion) -> list[Image.Image]:
    """Larger than the page shows, with a gradient, so that pictures differ; every other one grey."""
    number = item.image_id
    rows = np.linspace(0, 255, 800, dtype=np.uint8)[:, None].repeat(1100, axis=1)
    grey = np.roll(rows, 100 * number, axis=0)
    return [Image.fromarray(grey if number % 2 else np.stack([grey, grey // 2, 255 - grey], axis=2))]
