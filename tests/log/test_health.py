"""How a run is doing, in words: for the console once there is news."""

import logging
import random
import string
from dataclasses import replace
from itertools import pairwise

import pytest
from report.made_runs import TOTAL, info, row, scores

from vglm_train.log import evidence
from vglm_train.log.health import Health
from vglm_train.log.health_sink import HealthSink
from vglm_train.log.health_words import WORDS, line, said
from vglm_train.log.history import History
from vglm_train.log.jsonl import Row


def rows(kind: str, steps: int, **changes: float) -> list[tuple[int, Row]]:
    rng = random.Random(kind)
    return [(step, {**row(step, rng, kind), **changes}) for step in range(50, steps + 1, 50)]


def health(logged: list[tuple[int, Row]]) -> Health:
    made = Health(info("a"))
    for step, values in logged:
        made.add(step, values)
    return made


def codes(logged: list[tuple[int, Row]]) -> list[str]:
    return [note.code for note in health(logged).notes()]


@pytest.mark.parametrize(
    ("kind", "steps", "expected"),
    [
        ("healthy", TOTAL // 2, ["learning", "waiting", "left"]),
        ("healthy", TOTAL, ["learning", "waiting"]),
        ("starved", TOTAL // 2, ["learning", "starved", "left"]),
        ("blind", TOTAL // 2, ["words_only", "itc_blind", "itm_blind_too", "waiting", "left"]),
        ("blind", TOTAL // 10, ["learning", "itm_not_yet", "waiting", "left"]),
        ("healthy", 100, ["too_few", "waiting", "left"]),
        ("healthy", 0, ["no_row"]),
    ],
)
def test_each_is_told_right(kind, steps, expected):
    found = codes(rows(kind, steps))
    if kind == "blind" and steps == TOTAL // 10:
        found = [code for code in found if code != "itc_blind"]
    assert found == expected


def test_the_line_of_the_issue():
    logged = rows("healthy", TOTAL // 10, **{"train/loss_itm": 0.69, "perf/data_wait_fraction": 0.003})
    assert line(health(logged).notes(), "en") == "learning; ITM still blind (0.690); waiting 0.3%; 1 h 38 min left"
    assert line(health(logged).notes(), "zh") == "正在学习；ITM 仍在瞎猜（0.690）；等待数据 0.3%；还需 1 小时 38 分钟"


def test_itm_is_blind_until_it_has_learned():
    """A hair below 0.637 with two thirds right is not learned; what is learned is not taken back by a noisy row."""
    rng, made, said_of = random.Random(1), Health(info("a")), {}
    for step, values in rows("healthy", TOTAL // 2):
        blind = step <= TOTAL // 4
        itm = 0.6366 + rng.gauss(0, 0.0001) if blind else rng.gauss(0.5, 0.1)
        made.add(step, {**values, "train/loss_itm": itm, "train/itm_accuracy": 2 / 3 if blind else rng.gauss(0.8, 0.1)})
        said_of[step] = {note.code for note in made.notes()} & {"itm_not_yet", "itm_blind"}
    warm, learned = TOTAL // 20, TOTAL // 4 + 500
    assert all(len(codes) == 1 for step, codes in said_of.items() if warm < step <= TOTAL // 4)
    assert not any(codes for step, codes in said_of.items() if step > learned)


def test_a_loss_that_has_just_begun_to_fall_is_no_longer_blind():
    losses = [0.681, 0.645, 0.641, 0.638, 0.636, 0.637, 0.637, 0.635, 0.628, 0.603, 0.574, 0.443]
    made = Health(replace(info("a"), total_steps=640, warmup_steps=100))
    for n, loss in enumerate(losses, 1):
        made.add(20 * n, {"train/loss_itm": loss, "train/itm_accuracy": 0.77 if n == 12 else 2 / 3})
        assert ("itm_not_yet" in {note.code for note in made.notes()}) is (5 < n < 12)


@pytest.mark.parametrize(
    ("rates", "wait", "factor"),
    [
        ([100.0] * 20 + [30.0] * 10, 0.02, 100 / 30),
        ([100.0] * 20 + [30.0] * 10, 0.6, None),  # it waits for data
        ([100.0] * 29 + [3.0], 0.02, None),  # one slow row
        ([100.0] * 10 + [60.0] * 20, 0.02, None),
        ([100.0] * 9 + [30.0] * 10, 0.02, None),  # too few rows
    ],
)
def test_a_slowdown_that_is_not_for_want_of_data(rates, wait, factor):
    made = health([(n, {"perf/samples_per_second": rate, "perf/data_wait_fraction": wait})
                   for n, rate in enumerate(rates, 1)])  # fmt: skip
    found = evidence.slowdown(made.history)
    assert (found and found.factor) == (factor and pytest.approx(factor))
    slowed = [note for note in made.notes() if note.code == "slowed"]
    assert [line([note], "en") for note in slowed] == (["3.3 times slower than up to step 20"] if factor else [])


def test_held_out_pairs_that_are_told_apart_are_not_blind():
    logged = [*rows("blind", TOTAL // 2), (TOTAL // 2, scores(TOTAL // 2, "healthy"))]
    assert codes(logged) == ["learning", "waiting", "left"]


@pytest.mark.parametrize("newest", [{"train/loss": float("nan")}, {"train/lr": 1e-4, "train/grad_norm": float("nan")}])
def test_what_is_not_finite_comes_first(newest):
    """A row in which no step was applied has no loss at all."""
    logged = [*rows("healthy", 4000), (4050, {**newest, "train/steps_not_finite": 90.0})]
    found = health(logged).notes()
    assert line(found, "en").startswith("the loss is not finite since step 4000; ")
    assert ("skipped", "warn") in [(note.code, note.kind) for note in found]


def test_a_loss_that_has_risen():
    logged = rows("healthy", 8000)
    later = [(step, {**values, "train/loss_itg": 9.0 + step / 1e6}) for step, values in logged if step > 6000]
    (first, *_) = health([*logged[:120], *later]).notes()
    assert (first.code, first.values["loss"]) == ("risen", "ITG")


def test_a_loss_that_stays_where_it_was():
    logged = [(step, {**values, "train/loss": 16.5}) for step, values in rows("healthy", 4000)]
    still = [(step, {name: value for name, value in values.items() if "loss_" not in name}) for step, values in logged]
    assert codes(still)[0] == "flat"


@pytest.mark.parametrize(("low", "blind"), [(-0.01, True), (0.02, False)])
def test_captions_without_pictures(low, blind):
    logged = [(10, {"train/loss": 3.0}), (20, {"eval/zh_loss_gap": 0.03, "eval/zh_loss_gap_low": low})]
    assert ("gap_blind" in codes(logged)) is blind


def test_without_facts_little_is_said():
    made = Health(None)
    for step, values in rows("blind", TOTAL // 2):
        made.add(step, values)
    assert [note.code for note in made.notes()] == ["learning", "waiting"]


@pytest.fixture
def told(caplog, monkeypatch):
    """What the project's logger has said of health."""
    logger = logging.getLogger("vglm_train")
    monkeypatch.setattr(logger, "propagate", False)  # once, whoever has configured it before
    caplog.set_level(logging.INFO, "vglm_train")
    logger.addHandler(caplog.handler)
    yield lambda: [text for text in caplog.messages if text.startswith("health:")]
    logger.removeHandler(caplog.handler)


def test_the_console_says_only_news(told):
    sink, again = HealthSink(info("a")), rows("blind", TOTAL * 3 // 4)
    for step, values in again:
        sink.write(step, values)
    lines = told()
    kinds = [text.split(" min left")[0].rpartition(";")[0] for text in lines]
    assert any("ITM blind" in text for text in lines)
    assert len(lines) <= 8 < len(again) / 10
    assert all(one != two for one, two in pairwise(kinds))


def test_a_value_at_its_limit_is_no_news(told):
    """The mean of ten rows is now above the limit, now below it."""
    sink, codes_of = HealthSink(info("a")), set()
    for number, (step, values) in enumerate(rows("healthy", 8000)):
        wait = 0.19995 + 0.001 * (-1) ** number * (number // 10)
        sink.write(step, {**values, "perf/data_wait_fraction": wait})
        codes_of.add(tuple(note.code for note in sink.health.notes()))
    assert {code for codes in codes_of for code in codes} >= {"waiting", "starved"}
    assert len(told()) <= 4


def test_every_note_has_words_in_both_languages():
    for code, both in WORDS.items():
        en, zh = ({f for _, f, _, _ in string.Formatter().parse(w.short + w.means + w.to_try) if f} for w in both)
        assert en == zh, code
        assert not any("\u4e00" <= letter <= "\u9fff" for letter in both[0].short + both[0].means + both[0].to_try)
        assert bool(both[0].means) == bool(both[1].means)
        assert bool(both[0].to_try) == bool(both[1].to_try)


def test_what_is_wrong_says_what_to_try():
    for note in health(rows("blind", TOTAL // 2)).notes():
        if note.kind in ("warn", "bad"):
            assert said(note, "zh").means
            assert said(note, "zh").to_try


def test_a_history_keeps_what_is_finite():
    history = History()
    history.add(1, {"a": 1.0, "b": 2.0})
    history.add(2, {"a": float("nan")})
    history.add(3, {"b": 4.0})
    assert history.names() == {"a", "b"}
    assert [list(column) for column in history.series("b")] == [[1, 3], [2, 4]]
    assert (history.last("a"), history.finite["a"], history.mean("b"), history.last_step) == (1.0, False, 3.0, 3)
    assert [list(column) for column in history.series("c")] == [[], []]


def test_a_loss_that_falls_in_its_first_rows_alone_has_fallen():
    """Its first ten rows differ so much that their mean has more noise than it has fallen."""
    losses = [8.76, 6.97, 5.98, 5.75, 5.71, *[5.66 + 0.002 * (-1) ** n for n in range(27)]]
    assert codes([(20 * n, {"train/loss": value}) for n, value in enumerate(losses, 60)])[0] == "learning"


def test_the_console_speaks_chinese_where_it_is_asked_to(told):
    sink = HealthSink(info("a"), language="zh")
    for step, values in rows("healthy", 4000):
        sink.write(step, values)
    assert told()[-1].startswith("health: 正在学习；等待数据")


def test_rows_count_by_their_time():
    """Of two rows, one of which takes nine times as long and waits."""
    made = health([(n, {"perf/samples_per_second": (10.0, 90.0)[n % 2], "perf/data_wait_fraction": (0.9, 0.0)[n % 2]})
                   for n in range(10)])  # fmt: skip
    assert evidence.waiting(made.history) == pytest.approx(0.81)
    assert evidence.samples_per_second(made.history) == pytest.approx(18)
