"""The live page's server: what it reads, what it says of runs, and whom it refuses."""

import http.client
import json
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from report.made_runs import TOTAL, dead_process, info, row, write_four, write_run

from vglm_train.errors import UserError
from vglm_train.log.jsonl import METRICS, cut_back, to_line
from vglm_train.report import panels
from vglm_train.report.__main__ import main
from vglm_train.report.live import make_server
from vglm_train.report.watched import SILENT, Watched, WatchedRun, thin


@contextmanager
def served(*folders: Path) -> Iterator[str]:
    server, url = make_server(list(folders), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def get(url: str, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """As it is written, without a client that tidies paths up."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    return found


def ask(url: str, path: str):
    status, body, _ = get(url, path)
    assert status == 200, body
    return json.loads(body)


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("runs")
    write_four(folder)
    with served(folder) as url:
        yield url


def test_four_runs_are_told_right(four):
    runs = {run["name"]: run for run in ask(four, "/api/runs")}
    assert {name: run["kind"] for name, run in runs.items()} == {
        "healthy": "ok", "blind": "bad", "starved": "warn", "killed": "bad",
    }  # fmt: skip
    said = {name: run["line"]["en"] for name, run in runs.items()}
    assert said["healthy"].startswith("learning; waiting 0.3%; ")
    assert said["blind"].startswith("ITC finds nothing; ITM blind; ")
    assert "starved: waiting for data 58% of the time" in said["starved"]
    assert said["killed"] == "dead: the process ended at step 6000 of 20000"
    assert runs["killed"]["line"]["zh"] == "已死：进程在第 6000 步（共 20000 步）结束"
    assert runs["killed"]["rate"] is None


def test_each_says_what_to_try(four):
    expected = {"blind": "vglm data preview", "starved": "data.workers", "killed": "goes on from step 5000"}
    for run in ask(four, "/api/runs"):
        notes = ask(four, f"/api/details?run={run['id']}")["notes"]
        to_try = " ".join(note["en"][2] for note in notes)
        assert expected.get(run["name"], "") in to_try


def test_a_killed_run_shows_the_end_of_its_log(four):
    (run,) = [run for run in ask(four, "/api/runs") if run["name"] == "killed"]
    (note, *_) = ask(four, f"/api/details?run={run['id']}")["notes"]
    for language in ("en", "zh"):
        assert "\u201c2026-11-26 10:00:00 step 6000/20000\u201d" in note[language][1]


def test_curves_pictures_values_and_verdict(four):
    (run,) = [run for run in ask(four, "/api/runs") if run["name"] == "healthy"]
    data = ask(four, f"/api/data?run={run['id']}&points=100")
    sections = {section["title"]["en"]: section["panels"] for section in data["sections"]}
    assert list(sections) == [*(section.en for section in panels.SECTIONS), "Others"]
    assert sections["Losses"][0]["title"] == {"en": "loss", "zh": "总 loss"}
    assert sections["Others"] == []
    assert {"mean recall", "recall at 1 by ITC"} <= {panel["title"]["en"] for panel in sections["Retrieval"]}
    steps, values = data["runs"][run["id"]]["train/loss"]
    assert len(steps) == len(values) <= 110
    assert (steps[0], steps[-1]) == (50, TOTAL // 2)
    details = ask(four, f"/api/details?run={run['id']}")
    (table,) = details["tables"]
    assert (table["step"], table["steps"][0], table["section"]) == (TOTAL // 2, TOTAL // 10, "Retrieval")
    status, body, headers = get(four, table["rows"][0][0]["image"])
    assert (status, body[:2], headers["content-type"]) == (200, b"\xff\xd8", "image/jpeg")
    earlier = ask(four, f"/api/details?run={run['id']}&step=4500")["tables"]
    assert [each["step"] for each in earlier] == [4000]
    meaning = next(each for each in details["values"] if each["name"] == "train/loss")
    assert meaning["zh"] == "下面各平均值的加权和"
    said = ask(four, f"/api/verdict?run={run['id']}")
    assert any("learning." in line["en"] and "正在学习。" in line["zh"] for line in said)


def test_a_part_of_the_steps_has_all_its_rows(four):
    run = ask(four, "/api/runs")[0]["id"]
    steps, _ = ask(four, f"/api/data?run={run}&points=300&from=2000&to=3000")["runs"][run]["train/loss"]
    assert steps == [float(step) for step in range(1950, 3051, 50)]


@pytest.mark.parametrize(
    "headers",
    [{"Host": "example.org"}, {"Host": "example.org:7870"}, {"Origin": "https://example.org"}, {"Origin": "null"}],
)
def test_others_are_refused(four, headers):
    for path in ("/", "/api/runs", "/live.js"):
        assert get(four, path, **headers)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../live.py", "/static/live.py", "/live.py", "/picture/x/step-00002000/retrieval/0-0.jpg",
        "/picture/{run}/step-00002000/../0-0.jpg", "/picture/{run}/step-00002000/%2e%2e/0-0.jpg",
        "/picture/{run}/step-00099999/retrieval/0-0.jpg", "/metrics.jsonl",
    ],
)  # fmt: skip
def test_nothing_else_is_given(four, path):
    run = ask(four, "/api/runs")[0]["id"]
    assert get(four, path.format(run=run))[0] == 404


@pytest.mark.parametrize("path", ["/api/data?run=x", "/api/details", "/api/data?points=many", "/api/data?from=a"])
def test_a_wrong_question_is_answered(four, path):
    assert get(four, path)[0] == 400


def test_the_page_may_ask_nobody_else(four):
    status, body, headers = get(four, "/")
    assert status == 200
    assert b"http://" not in body
    assert b"https://" not in body
    assert "default-src 'none'" in headers["content-security-policy"]


def append(folder: Path, *steps: int, end: str = "") -> None:
    import random

    with (folder / METRICS).open("a") as file:
        file.writelines(to_line(step, row(step, random.Random(step), "healthy")) for step in steps)
        file.write(end)


def test_rows_are_read_once_they_are_whole(tmp_path):
    write_run(tmp_path, "healthy", 1000)
    run = WatchedRun(tmp_path, "a")
    run.refresh()
    append(tmp_path, 1050, end='{"step": 1100, "train/l')
    run.refresh()
    assert run.health.history.last_step == 1050
    with (tmp_path / METRICS).open("a") as file:
        file.write('oss": 1.5}\n')
    run.refresh()
    assert (run.health.history.last_step, run.health.history.last("train/loss")) == (1100, 1.5)
    assert run.health.history.rows == 22


def test_a_run_that_was_continued_is_read_anew(tmp_path):
    write_run(tmp_path, "healthy", 1000)
    run = WatchedRun(tmp_path, "a")
    run.refresh()
    cut_back(tmp_path / METRICS, 500)
    append(tmp_path, *range(550, 2001, 50))
    run.refresh()
    steps, _ = run.health.history.series("train/loss")
    assert list(steps) == list(range(50, 2001, 50))


def test_what_is_not_finite_is_told(tmp_path):
    write_run(tmp_path, "healthy", 1000)
    with (tmp_path / METRICS).open("a") as file:
        file.write(to_line(1050, {"train/loss": math.nan}))
    with served(tmp_path) as url:
        (run,) = ask(url, "/api/runs")
        values = {each["name"]: each["value"] for each in ask(url, f"/api/details?run={run['id']}")["values"]}
    assert run["line"]["en"].startswith("the loss is not finite since step 1000")
    assert values["train/loss"] is None


def test_new_runs_are_found_and_removed_ones_forgotten(tmp_path):
    watched = Watched([tmp_path])
    assert watched.runs() == []
    write_run(tmp_path / "b" / "c", "healthy", 100)
    assert [run.name for run in watched.runs()] == ["b/c"]
    (tmp_path / "b" / "c").rename(tmp_path / "d")
    assert [run.name for run in watched.runs()] == ["d"]


@pytest.mark.parametrize(
    ("words", "bundle", "codes"),
    [
        ("stopped at step 1000; the same command continues from there", False, ["stopped"]),
        ("step 1000/20000", False, ["killed_early"]),
        ("done: bundle", True, ["complete"]),
    ],
)
def test_how_a_run_ended(tmp_path, words, bundle, codes):
    write_run(tmp_path, "healthy", 1000, pid=dead_process())
    (tmp_path / "log.txt").write_text(f"2026-11-26 10:00:00 {words}\n")
    if bundle:
        (tmp_path / "bundle").mkdir()
    run = WatchedRun(tmp_path, "a")
    run.refresh()
    assert [note.code for note in run.state()] == codes


@pytest.mark.parametrize("lock", ["process 1 on another-machine\n", "", "x"])
def test_of_another_machine_only_silence_is_known(tmp_path, lock):
    import os
    import time

    write_run(tmp_path, "healthy", 1000)
    (tmp_path / "lock").write_text(lock)
    run = WatchedRun(tmp_path, "a")
    run.refresh()
    assert run.state() == []
    long_ago = time.time() - 2 * SILENT
    os.utime(tmp_path / METRICS, (long_ago, long_ago))
    assert [note.code for note in run.state()] == ["silent"]


def test_a_run_without_rows(tmp_path):
    info("a").write(tmp_path)
    with served(tmp_path) as url:
        (run,) = ask(url, "/api/runs")
        assert run["line"]["en"] == "no row yet"
        assert all(section["panels"] == [] for section in ask(url, f"/api/data?run={run['id']}")["sections"])
        assert "has not reached its first log step" in ask(url, f"/api/verdict?run={run['id']}")[0]["en"]


def test_thinning_keeps_peaks_and_ends():
    values = np.zeros(10_007)
    values[[777, 5555]] = 9.0, -9.0
    steps, thinned = thin(np.arange(10_007.0), values, 200)
    assert len(steps) <= 210
    assert {(777.0, 9.0), (5555.0, -9.0)} <= set(zip(steps, thinned))
    assert (steps[0], steps[-1], steps == sorted(steps)) == (0, 10_006, True)
    assert thin(np.arange(5.0), np.arange(5.0), 200) == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]


def test_a_port_that_is_taken(tmp_path):
    with served(tmp_path) as url, pytest.raises(UserError, match="cannot listen there"):
        make_server([tmp_path], int(url.rpartition(":")[2]))


def test_mistakes_are_named(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--watch"]) == 2
    assert "none is not a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--watch", "--out", "x"])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the number is known")
def test_a_process_of_today_with_the_number_of_a_dead_one_does_not_train(tmp_path):
    words = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE) as other:
        write_run(tmp_path, "healthy", 1000, pid=other.pid)
        run = WatchedRun(tmp_path, "a")
        run.refresh()
        assert [note.code for note in run.state()] == ["killed_early"]
        other.communicate()
    take = "import sys; from vglm_train.files import lock; f = open(sys.argv[1], 'a+'); print(lock(f, of_process=True))"
    command = [sys.executable, "-c", f"{take}; sys.stdout.flush(); {words}", str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as trains:
        assert trains.stdout is not None
        assert trains.stdout.readline() == "True\n"
        (tmp_path / "lock").write_text(f"process {trains.pid} on {socket.gethostname()}\n")
        assert run.state() == []
        (tmp_path / "lock").write_text(f"process {dead_process()} on {socket.gethostname()}\n")
        assert run.state() == [], "of another container, whose number says nothing here"
        trains.communicate()
    assert [note.code for note in run.state()] == ["killed_early"]
