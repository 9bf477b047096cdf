"""Questions to real small models: which images they are shown, whose answers are scored, and what the scores show."""

import json
import os
import random
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small_generators
import torch
from made_questions import colour_questions, made_question, reports
from torch.nn import functional

from vglm_train.config.language import Decoding
from vglm_train.config.metric_names import ANSWER_SCORES, BEST_ANSWER_SCORES, BEST_REPORT_TEXT_SCORES
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.evaluate.metrics.answers import commonest
from vglm_train.evaluate.vqa.evaluator import VqaEvaluator, build_evaluator
from vglm_train.evaluate.vqa.generate import AnswerGenerator, shuffle_images
from vglm_train.evaluate.vqa.intervals import score_subset, subsets_by_type
from vglm_train.evaluate.vqa.majority import MajorityBaseline
from vglm_train.evaluate.vqa.select import task_items
from vglm_train.evaluate.vqa.verdict import assess_scores

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


@pytest.fixture(autouse=True)
def no_java(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def untaught(tmp_path_factory):
    return small_generators.small_generator(tmp_path_factory.mktemp("untaught"), "causal")


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """Knows the answers by heart."""
    pupil = small_generators.small_generator(tmp_path_factory.mktemp("taught"), "causal")
    items = [item for item in colour_questions() if item.type == "colour"]
    rows = [pupil.template.encode(replace(item.dialogue, answer=item.answers[0])) for item in items]
    batch = pupil.template.batch(rows, torch.cat([item.pixels for item in items]))
    optimizer = torch.optim.AdamW(pupil.model.requires_grad_(True).parameters(), lr=1e-2)
    for _ in range(50):
        logits, targets = pupil.model.score(batch)
        functional.cross_entropy(logits, targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return pupil


def evaluator(of, items, task="vqa", **changes) -> VqaEvaluator:
    answer_generator = AnswerGenerator(of, items, Decoding(max_new=4), Ranks(), batch=5)
    return VqaEvaluator(task, answer_generator, MajorityBaseline.count(items, "these"), **changes)


def test_a_model_that_looks(taught):
    items = [item for item in colour_questions() if item.type == "colour"]
    found = evaluator(taught, items).measure()
    assert found.scores["model"]["accuracy"] == 100
    assert found.scores["shuffled"]["accuracy"] == 0  # every picture has a colour of its own
    assert found.scores["majority"]["accuracy"] == pytest.approx(100 / 6)
    assert found.scores["model"]["distinct"] == 100
    assert found.scores["blank"]["distinct"] == pytest.approx(100 / 6)
    whole = score_subset("all", range(6), items, found.answer_scores)
    assert [line.kind for line in assess_scores("vqa", whole)] == ["ok"] * 3


def test_a_model_that_cannot_look(tmp_path):
    blind = small_generators.small_generator(tmp_path, "causal")
    torch.nn.init.zeros_(blind.model.projection.weight)
    items = colour_questions()
    found = evaluator(blind, items).measure()
    assert found.outputs["model"] == found.outputs["shuffled"] == found.outputs["blank"]
    whole = score_subset("all", range(len(items)), items, found.answer_scores)
    gains = whole.gains["accuracy"]
    assert (gains["shuffled"].value, gains["shuffled"].low, gains["shuffled"].high) == (0, 0, 0)
    assert {line.kind for line in assess_scores("vqa", whole)} == {"warn"}


def test_what_is_shown(untaught):
    """Outputs are those of each question alone with the picture that is said."""
    items = colour_questions()[:5]
    outputs = evaluator(untaught, items).answer_generator.outputs()
    others = shuffle_images(items)
    grey = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)  # its mean is 0.5
    for n, (item, other) in enumerate(zip(items, others)):
        for system, pixels in (("model", item.pixels), ("shuffled", other.pixels), ("blank", grey)):
            alone = untaught.answers([item.dialogue], pixels, Decoding(max_new=4))
            assert outputs[system][n] == alone[0]


def test_pictures_change_places_not_questions():
    items = colour_questions()
    others = shuffle_images(items)
    assert all(other.image_id != item.image_id for item, other in zip(items, others))
    assert others[0] is others[1]  # two questions about one picture
    patients = [replace(item, group=f"p{item.image_id // 2}") for item in items]
    assert all(other.group != item.group for item, other in zip(patients, shuffle_images(patients)))
    one = [replace(item, group="p") for item in items]
    assert all(other.image_id != item.image_id for item, other in zip(one, shuffle_images(one)))
    assert shuffle_images(items[:2]) is None
    assert shuffle_images([]) is None


@pytest.mark.parametrize("group", [lambda item: None, lambda item: f"p{item.image_id // 2}"])
def test_the_other_picture_is_the_same_in_any_order_and_selection(group):
    items = [replace(item, group=group(item)) for item in colour_questions()]
    first = items[0]
    pair = torch.cat([first.pixels, items[4].pixels])  # the same picture, with a second one in another row
    items.append(replace(first, key="pair", pixels=pair, dialogue=replace(first.dialogue, images=2)))
    partners = {item.key: other for item, other in zip(items, shuffle_images(items))}
    for seed in range(20):
        rng = random.Random(seed)
        mixed = rng.sample(items, len(items))
        some = rng.sample(items, 3)
        for asked_for, others in ((mixed, ()), (mixed, mixed), (some, items), (some, mixed)):
            for item, other in zip(asked_for, shuffle_images(asked_for, others)):
                assert torch.equal(other.pixels, partners[item.key].pixels)
                assert other.image_id != item.image_id
                assert group(item) is None or other.group != item.group


def test_one_picture_asked_of_many_has_another(untaught):
    items = colour_questions()
    one = AnswerGenerator(untaught, items[:2], Decoding(max_new=3), Ranks(), image_pool=items).outputs(("shuffled",))
    whole = AnswerGenerator(untaught, items, Decoding(max_new=3), Ranks()).outputs(("shuffled",))
    assert one["shuffled"] == whole["shuffled"][:2]


def test_several_pictures(untaught):
    """Another item's pictures are as many, whatever that one has; each question gets its own answer in a batch."""
    items = colour_questions()[:6:2]
    dialogue = replace(items[1].dialogue, images=2)
    items[1] = replace(items[1], pixels=torch.cat([items[1].pixels, items[2].pixels]), dialogue=dialogue)
    outputs = evaluator(untaught, items).answer_generator.outputs()
    for n, (item, other) in enumerate(zip(items, shuffle_images(items))):
        k, shown = len(item.pixels), other.pixels
        assert outputs["model"][n] == untaught.answers([item.dialogue], item.pixels, Decoding(max_new=4))[0]
        pictures = torch.cat([shown] * 2)[:k]
        assert outputs["shuffled"][n] == untaught.answers([item.dialogue], pictures, Decoding(max_new=4))[0]


def test_one_picture_has_no_other(untaught):
    scores, _ = evaluator(untaught, colour_questions()[:2])()
    assert not any("shuffled" in name for name in scores)
    assert "eval/vqa_blank_accuracy" in scores


def test_names_and_examples(untaught):
    items = colour_questions()
    scores, tables = evaluator(untaught, items, examples=3)()
    kinds = {"accuracy", "closed", "exact", "recall", "f1", "distinct"}
    assert scores.pop("eval/vqa_questions") == len(items)
    assert scores.keys() == {
        f"eval/vqa_{system}{kind}" for system in ("", "majority_", "shuffled_", "blank_") for kind in kinds
    }
    assert kinds <= ANSWER_SCORES.keys()
    assert {*BEST_ANSWER_SCORES["vqa"]} - {"v2"} <= kinds
    (table,) = tables
    assert table.name == "answers_vqa"
    asked = {(item.dialogue.question, item.answers[0], tuple(item.pixels[0, :, 0, 0].tolist())) for item in items}
    found = [(*row[1:3], row[0].getpixel((0, 0))) for row in table.rows]
    assert len(set(found)) == 3
    assert set(found) < asked


def test_report_names(untaught):
    scores, _ = evaluator(untaught, reports(), "report", conditions=("model",))()
    own = {name.removeprefix("eval/report_") for name in scores if "majority" not in name}
    texts = {f"en_{name}" for name in ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider")}
    always = {"f1", "recall", "normal", "normal_truth", "distinct", "distinct_truth", "questions"}
    assert own - {"finding_precision"} == texts | always
    assert always - {"questions"} | {*BEST_ANSWER_SCORES["report"]} <= ANSWER_SCORES.keys()
    assert {f"en_{name}" for name in BEST_REPORT_TEXT_SCORES["en"]} <= texts
    assert scores["eval/report_distinct_truth"] == 100


def test_text_scores_are_scores_of_each_report_too(untaught):
    items = reports()
    found = evaluator(untaught, items, "report").measure()
    whole = score_subset("all", range(6), items, found.answer_scores)
    for name in ("en_rouge_l", "en_cider"):
        assert whole.scores[name]["model"].value == pytest.approx(found.scores["model"][name])
    assert "nltk" in found.made_by["en"]["tokenizer"]


def test_questions_that_do_not_fit_are_told_before_anything_is_asked(untaught):
    items = [*colour_questions()[:3], made_question(4, "a plain wall " * 40, "blue")]
    with pytest.raises(UserError, match=r"1 of 4 .* 64 ids; the longest, 004, has 122\. .*--max-prompt 122"):
        AnswerGenerator(untaught, items, Decoding(), Ranks())


def test_during_training(untaught):
    scores, tables = build_evaluator(
        "vqa", untaught, [*colour_questions(), *reports()], Decoding(max_new=3), 2, Ranks()
    )()
    assert {name.split("_")[1] for name in scores} == {
        "majority", "shuffled", "accuracy", "closed", "exact", "recall", "f1", "distinct", "questions",
    }  # fmt: skip
    assert len(tables[0].rows) == 2
    with pytest.raises(UserError, match=r"evaluate\.task vqa: .* usable, 6, are reports, which task report scores"):
        build_evaluator("vqa", untaught, reports(), Decoding(), 0, Ranks())


def test_two_ranks_find_what_one_finds(tmp_path):
    found = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": "/nothing", "OMP_NUM_THREADS": "1", "PYTHONPATH": found}
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE.parent / "made_questions.py"), str(tmp_path)],
            env={**environment, "RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    (tmp_path / "alone").mkdir()
    alone = small_generators.small_generator(tmp_path / "alone", "causal")
    for task, items in (("vqa", colour_questions()), ("report", reports())):
        expected, _ = build_evaluator(task, alone, items, Decoding(max_new=3), 0, Ranks())()
        for rank in range(2):
            assert json.loads((tmp_path / f"{task}{rank}.json").read_text()) == pytest.approx(expected, abs=1e-6)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_majority():
    items = [
        *(made_question(0, "plane?", "pa", type="plane") for _ in range(3)),
        made_question(0, "plane?", "ap", type="plane"),
        *(made_question(0, "what is it?", "lung") for _ in range(5)),
        made_question(0, "which one?", "heart"),
        made_question(0, "在哪里？", "左"),
    ]
    known = MajorityBaseline.count(items, "here")
    assert known.answer(made_question(1, "view?", "lateral", type="plane")) == "pa"
    assert known.answer(made_question(1, "What is it", "x")) == "lung"
    # this question has one answer only, which would be the truth itself
    assert known.answer(made_question(1, "which one?", "x")) == "lung"
    assert known.answer(made_question(1, "什么？", "x")) == "左"
    assert known.answer(made_question(1, "is it?", "yes", kind="closed")) == ""
    assert commonest(["b", "a", "a"]) == "a"


def test_what_a_task_is_about():
    items = [made_question(0, "?", "x", kind=kind) for kind in ("open", "closed", "report")]
    assert [item.kind for item in task_items(items, "vqa")] == ["open", "closed"]
    assert [item.kind for item in task_items(items, "report")] == ["report"]
    assert [item.kind for item in task_items(items[:2], "report")] == ["report"]  # none is marked as one
    assert subsets_by_type(items[:1]) == {}


def test_few_pictures_give_no_verdict(taught):
    items = [item for item in colour_questions() if item.type == "colour"]
    found = evaluator(taught, items).measure()
    lines = assess_scores("vqa", score_subset("few", range(4), items, found.answer_scores))
    assert {line.kind for line in lines} == {"warn"}
    assert all(line.text.endswith("too few to tell, 4 patients or pictures") for line in lines)
