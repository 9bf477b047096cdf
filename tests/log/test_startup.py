"""What the seconds until the first step were spent on."""

import time

import psutil

from vglm_train.config.metric_meanings import undescribed
from vglm_train.log.startup import PARTS, Startup


def test_every_second_since_the_process_began_is_of_one_part() -> None:
    before = time.time() - psutil.Process().create_time()
    startup = Startup()
    startup.reached("imports")
    startup.reached("weights")
    startup.first_step(waited=0.0)
    after = time.time() - psutil.Process().create_time()
    row = startup.row()
    assert set(row) == {f"perf/start_{p}" for p in ("seconds", "imports", "weights", "first_batch", "first_step")}
    resolution = 1.0  # of the clocks' beginnings, which the system rounds
    assert before - resolution <= row["perf/start_imports"] <= row["perf/start_seconds"] <= after + resolution
    assert row["perf/start_seconds"] == sum(startup.parts.values())


def test_the_wait_for_the_first_batch_is_none_of_the_first_step() -> None:
    startup = Startup()
    startup.reached("imports")
    startup.first_step(waited=1000.0)
    assert startup.parts["first_batch"] == 1000.0
    assert startup.parts["first_step"] < 0  # the clock has not waited


def test_a_line_names_what_took_long() -> None:
    startup = Startup()
    startup.parts = {"imports": 6.04, "processes": 0.01, "weights": 12.0, "first_batch": 0.5}
    assert startup.line() == "first step after 18.6 s: imports 6.0, weights 12.0, first batch 0.5"


def test_every_part_is_explained() -> None:
    assert undescribed(["perf/start_seconds", *(f"perf/start_{part}" for part in PARTS)]) == []
