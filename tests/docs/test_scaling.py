"""The model on paper of pretraining: by hand, and two cards as they were measured."""

import pytest

from docs import scaling
from docs.scaling import ROWS, Work, fixed_share, lost, step, work
from docs.tables import read


def test_a_line_through_two_sizes() -> None:
    """2 s and 0.1 s a row: 10 rows take 3 s, 40 rows 6 s."""
    assert fixed_share((10, 10 / 3), (40, 40 / 6), 20) == pytest.approx(2 / 4)


def test_a_step_by_hand() -> None:
    one = Work(work("visualglm_stage1").config, rate=50.0, rows=100, fixed=0.1, again=0.5, trained=10**9)
    assert one.arithmetic(100) == pytest.approx(2.0)
    assert one.arithmetic(50) == pytest.approx(0.2 + 0.9)
    assert one.arithmetic(250) == pytest.approx(5.0)  # two parts and a half
    assert one.arithmetic(100, 2) == pytest.approx(0.2 + 1.8 * 1.5)
    assert one.weight_bytes(1) == 0
    assert one.weight_bytes(4) == 2 * 4e9 * 3 / 4
    assert one.contrast_bytes(3, 10) == 3 * 20 * 33 * 256 * 4  # 20 pairs elsewhere: 33 embeddings of 256 numbers each
    assert one.picture_bytes(2, 10) == 10 / 2 * 257 * 1408 * 2
    assert scaling.moving(one, 8, 100) > scaling.moving(one, 2, 100)
    assert scaling.moving(one, 16, 100) > 9 * scaling.moving(one, 8, 100)  # over the network


def test_one_card_is_what_was_measured() -> None:
    """The shape that was measured lasts as it did; the hours are samples by rate, and the checkpoints."""
    measured = read("training").row("stage1/plain", "engine, ZeRO 1, eager")
    one = work("lavis_stage1")
    assert 1e3 * step(one, 1, ROWS).seconds == pytest.approx(measured.get("ms"), rel=1e-3)
    found = step(work("visualglm_stage1"), 1, ROWS)
    assert found.efficiency == pytest.approx(1)
    saves = found.work.samples / ROWS / 1000 * 12 * found.work.trained / scaling.STORAGE
    assert 3600 * found.hours == pytest.approx(found.work.samples / found.work.rate + saves)
    assert found.work.samples == 250_000 * 1680


def test_two_cards_are_as_measured() -> None:
    """The wait is made so; it is positive, and smaller where there are fewer launches."""
    one = work("lavis_stage1")
    assert 2 * step(one, 2, ROWS).efficiency == pytest.approx(1.84)
    assert 0 < lost("engine, ZeRO 1, compiled and graphs") < lost() < one.arithmetic(ROWS) / 10


def test_more_cards_take_less_time_and_more_card_hours() -> None:
    for name in scaling.STAGES:
        for rows in (lambda one, cards: one.rows, lambda one, cards: one.batch / cards):
            steps = [step(work(name), cards, rows(work(name), cards)) for cards in (8, 64, 512)]
            assert sorted(steps, key=lambda each: -each.hours) == steps
            assert sorted(each.hours * each.cards for each in steps) == [each.hours * each.cards for each in steps]
