"""Alarms: silent on runs that learn, in words on those that do not, and not at every row."""

import logging
import math
import random
import time
from dataclasses import replace
from statistics import fmean

import pytest

from vglm_train.log.alarms import Alarms, itc_alarm, itm_alarm, not_finite
from vglm_train.log.run_info import RunInfo
from vglm_train.log.sinks import JsonlSink

FACTS = RunInfo(
    name="a", total_steps=1000, warmup_steps=100, epoch_samples=6400, global_batch=64, candidates=64, vocabulary=30523
)


def points(value, last: int = 1000, every: int = 10, right: float = math.nan) -> list[tuple[int, float, float]]:
    return [(step, value(step), right) for step in range(every, last + 1, every)]


def test_a_blind_matching_head_is_noticed_after_30_percent():
    assert itm_alarm(points(lambda s: 0.637, 360), FACTS) is None
    text = itm_alarm(points(lambda s: 0.637, 370), FACTS)
    assert text is not None
    assert "0.63-0.645" in text.en
    assert "for 100% of the steps after warm-up so far, since step 10:" in text.en


def test_it_says_for_how_long():
    text = itm_alarm(points(lambda s: 0.69 if s < 300 else 0.637), FACTS)
    assert text is not None
    assert "for 78% of the steps after warm-up so far, since step 300:" in text.en


def test_noise_of_small_batches_does_not_hide_it():
    noise = random.Random(0)
    assert itm_alarm(points(lambda s: 0.637 + noise.gauss(0, 0.01)), FACTS)


@pytest.mark.parametrize(
    "learns",
    [
        lambda s: max(0.2, 0.69 - 0.0005 * s),  # falls through the band
        lambda s: 0.66,
        lambda s: 0.637 if s < 700 else 0.60,  # was blind, learned since
        lambda s: 0.60 if s < 800 else 0.637,  # in the band only lately
    ],
)
def test_a_head_that_learns_is_left_alone(learns):
    assert itm_alarm(points(learns), FACTS) is None


def test_warmup_is_not_judged():
    late = RunInfo(
        name="a", total_steps=1000, warmup_steps=900, epoch_samples=1, global_batch=1, candidates=64, vocabulary=2
    )
    assert itm_alarm(points(lambda s: 0.637, 920), late) is None
    assert itm_alarm(points(lambda s: 0.637, 930), late)
    assert itc_alarm(points(lambda s: math.log(64), 900), late) is None


@pytest.mark.parametrize(("loss", "alarm"), [(4.159, True), (4.5, True), (4.09, True), (4.05, False), (2.0, False)])
def test_itc_at_chance(loss, alarm):
    text = itc_alarm(points(lambda s: loss, 200), FACTS)
    assert (text is not None) == alarm
    if text:
        assert "ln 64 = 4.159" in text.en


def test_itc_may_take_the_warmup_and_a_tenth():
    assert itc_alarm(points(lambda s: math.log(64), 180), FACTS) is None
    assert itc_alarm(points(lambda s: math.log(64), 190), FACTS)
    assert itc_alarm(points(lambda s: math.log(64) if s < 150 else 3.0, 190), FACTS) is None


def test_more_right_answers_than_a_guess_has_are_no_alarm():
    """Loss and share of right answers can be apart: overconfident answers, a temperature that is too low."""
    blind = itm_alarm(points(lambda s: 0.637, right=0.667), FACTS)
    assert blind is not None
    assert "0.63-0.645 for 100% of the steps after warm-up so far, since step 10, with 67% right: so does" in blind.en
    assert itm_alarm(points(lambda s: 0.637, right=0.72), FACTS) is None
    even = itc_alarm(points(lambda s: 4.3, right=1 / 64), FACTS)
    assert even is not None
    assert "after warm-up, with 2% right, which is no better" in even.en
    assert itc_alarm(points(lambda s: 4.3, right=0.4), FACTS) is None


@pytest.mark.parametrize(("accuracy", "images", "alarm"), [(50.4, 1000, True), (56.0, 50, True), (56.0, 1000, False)])
def test_held_out_scores_above_chance_are_no_alarm(accuracy, images, alarm):
    """Hard negatives of training that nothing tells apart, and easy ones of the evaluation that are."""
    alarms = Alarms(FACTS)
    evaluation = {"eval/en_itm_accuracy": accuracy, "eval/en_shuffled_itm_accuracy": 50.0, "eval/en_images": images}
    alarms.feed(400, {**evaluation, "eval/en_i2t_r1": 0.0, "eval/en_t2i_r1": 0.0})
    said = [notice.text for step, loss, right in points(lambda s: 0.637, right=0.667)
            for notice in alarms.feed(step, {"train/loss_itm": loss, "train/itm_accuracy": right})]  # fmt: skip
    assert bool(said) == bool(alarms.active()) == alarm


def notices(alarms: Alarms, loss, first: int, last: int) -> list[tuple[int, bool]]:
    """(step, whether it says that an alarm is over) of what rows with this ITM loss change."""
    rows = ((step, {"train/loss_itm": loss(step)}) for step in range(first, last + 1, 10))
    return [(step, notice.over) for step, row in rows for notice in alarms.feed(step, row)]


def test_an_alarm_is_said_when_it_begins_and_when_it_is_over():
    alarms = Alarms(FACTS)
    assert notices(alarms, lambda step: 0.637, 10, 700) == [(370, False)]
    assert notices(alarms, lambda step: 0.5, 710, 1000) == [(720, True)]
    assert alarms.active() == []


def test_a_resumed_run_does_not_say_it_twice_and_forgets_nothing(tmp_path):
    sink = JsonlSink(tmp_path, None)
    for step, loss, _ in points(lambda s: 0.637, 390):
        sink.write(step, {"train/loss_itm": loss, "train/loss_itc": 1.0})
    sink.write(390, {"eval/r_mean": 1.0})
    sink.close()
    alarms = Alarms.resume(FACTS, tmp_path)
    assert notices(alarms, lambda step: 0.637, 400, 800) == []
    assert [over for _, over in notices(alarms, lambda step: 0.5, 810, 1000)] == [True]


def test_it_warns_through_the_logger(caplog):
    alarms = Alarms(FACTS, [(step, {"train/loss_itm": 0.637}) for step in range(10, 370, 10)])
    logger = logging.getLogger("vglm_train")
    logger.propagate = True
    with caplog.at_level(logging.WARNING):
        alarms.write(370, {"train/loss_itm": 0.637})
    assert caplog.records[0].message.startswith("step 370: ITM loss has stayed")
    assert "see whether captions fit several images (vglm data preview)" in caplog.records[0].message
    (text,) = alarms.active()
    assert "vglm data preview" not in text.en, "the page says once what to try"


def test_lucky_rows_do_not_end_an_alarm():
    """Of sixteen answers a row, with 8 candidates: a share of right answers that is a guess's, and noisy."""
    rng, facts = random.Random(3), replace(FACTS, candidates=8)
    right = {step: fmean(rng.random() < 1 / 8 for _ in range(16)) for step in range(10, 1001, 10)}
    rows = [(step, {"train/loss_itc": math.log(8), "train/itc_accuracy": share}) for step, share in right.items()]
    alarms = Alarms(facts)
    assert [notice.over for step, row in rows for notice in alarms.feed(step, row)] == [False]


def test_noise_of_a_blind_head_does_not_end_its_alarm():
    """Rows of a blind head, noisier than its band is wide: one alarm, which holds."""
    rng = random.Random(1)
    alarms = Alarms(FACTS)
    noisy = notices(alarms, lambda step: 0.637 if step < 400 else rng.gauss(0.637, 0.015), 10, 1000)
    assert noisy == [(370, False)]


def test_advice_is_given_once():
    """ITM is blind because ITC is, of which there is an alarm already."""
    rows = [(step, {"train/loss_itm": 0.637, "train/loss_itc": math.log(64)}) for step in range(10, 1000, 10)]
    alarms = Alarms(FACTS)
    itc, itm = [notice.text.en for step, row in rows for notice in alarms.feed(step, row)]
    assert itc.endswith("raise engine.micro_batch.")
    assert "do captions belong to their images" in itc
    assert itm.endswith("Do what helps ITC first.")


def test_a_loss_without_weight_or_value_is_not_judged():
    facts = RunInfo(
        name="a", total_steps=100, warmup_steps=0, epoch_samples=1, global_batch=1, candidates=64, vocabulary=2,
        weights={"itc": 1.0, "itm": 0.0, "itg": 1.0},
    )  # fmt: skip
    alarms = Alarms(facts)
    texts = [
        t for step in range(1, 101) for t in alarms.feed(step, {"train/loss_itm": 0.637, "train/loss_itc": math.nan})
    ]
    assert texts == []


def test_one_candidate_has_no_chance_level():
    facts = RunInfo(
        name="a", total_steps=100, warmup_steps=0, epoch_samples=1, global_batch=1, candidates=1, vocabulary=2
    )
    assert itc_alarm(points(lambda s: 0.0, 100, 1), facts) is None


def test_a_long_run_is_judged_quickly():
    facts = RunInfo(
        name="a", total_steps=250_000, warmup_steps=2000, epoch_samples=1, global_batch=1, candidates=64, vocabulary=2
    )
    start = time.perf_counter()
    Alarms(facts, ((s, {"train/loss_itm": 0.637, "train/loss_itc": 2.0}) for s in range(10, 250_001, 10)))
    assert time.perf_counter() - start < 5


def test_words_for_a_loss_that_is_not_finite(tmp_path):
    text = not_finite(
        120, 20, {"ITG loss": math.inf, "ITC loss": 2.0, "gradient norm": math.nan}, tmp_path / "step-100"
    )
    assert text.startswith("step 120: 20 steps in a row were skipped because ITG loss, gradient norm are not finite")
    assert str(tmp_path / "step-100") in text
    assert "there is no checkpoint yet" in not_finite(3, 3, {"ITC loss": math.nan}, None)


def test_expected_start_is_the_published_arithmetic():
    facts = RunInfo(
        name="a", total_steps=1, warmup_steps=0, epoch_samples=1, global_batch=1024, candidates=1024, vocabulary=30523
    )
    assert facts.expected_start() == pytest.approx(17.95, abs=0.005)


def test_facts_come_back(tmp_path):
    assert RunInfo.read(tmp_path) is None
    FACTS.write(tmp_path)
    assert RunInfo.read(tmp_path) == FACTS
    (tmp_path / "facts.json").write_text('{"name": "a", "other": 1}')
    assert RunInfo.read(tmp_path) is None
