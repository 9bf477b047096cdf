"""`vglm benchmark` at tiny shapes: what it runs, leaves out and keeps, and the file that it writes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import command, runner
from benchmarks.cases import CASES, CONTEXT, Case, choose
from benchmarks.record import FILE, record
from benchmarks.result_file import MEASURED, Machine, Results, Row
from benchmarks.runner import Options, measure
from vglm_train.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NOWHERE: dict[str, Path | None] = dict.fromkeys(("bundle", "photos", "table", "work"))
MACHINE = Machine(cpu="a CPU", cores=2, product_tflops=0.1, copy_tb_s=0.1, versions={"torch": "2"})


def tiny(words: str, name: str = "a/b") -> Case:
    return Case(name, "what it is", words, words, 0.0, 10)


@pytest.fixture
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "look", lambda _: (MACHINE, None, True))


def test_from_the_command_to_the_file(tmp_path: Path) -> None:
    """One whole case, one that this machine cannot do, as a person calls it."""
    out = tmp_path / "found.json"
    words = ["benchmark", "vision", "convert", "--quick", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "vglm_train", *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "TINY SHAPES" in done.stdout
    assert "[1/2] vision" in done.stdout
    assert "min for all that is left" in done.stdout
    assert "[2/2] convert: left out: it has no small size" in done.stdout
    results = Results.read(out)
    assert (results.source, results.shapes, results.command) == (
        MEASURED,
        "tiny",
        "vglm benchmark vision convert --quick",
    )
    assert {(row.case, row.name) for row in results.rows} == {
        ("vision", "bfloat16 plain"), ("vision", "float16 plain"), ("convert", "left out"),
    }  # fmt: skip
    row = results.row("vision", "bfloat16 plain")
    assert row.get("samples_per_s") * row.get("ms") / 1000 == pytest.approx(8, rel=0.01)
    assert row.get("ratio") == pytest.approx(row.get("ms") / row.get("floor_ms"), rel=0.01)
    assert row.method
    assert "| vision | bfloat16 plain | " in done.stdout
    assert "| convert | left out | " in done.stdout
    assert results.machine.cores
    assert results.machine.product_tflops
    assert set(results.machine.versions) == {"python", "torch", "transformers", "deepspeed", "triton"}


def test_a_case_that_fails_costs_no_other(tmp_path: Path, known_machine: None) -> None:
    """The first records nothing and ends with an error; the second is measured."""
    said: list[str] = []
    cases = [tiny("recipes --single nobody", "bad"), tiny("vision --tiny --cpu --batch 8 --times 1", "good")]
    results = runner.run(cases, "vglm benchmark", tmp_path / "out.json", Options(True, NOWHERE), said.append)
    assert [(row.case, row.name) for row in results.rows] == [
        ("bad", "failed"), ("good", "bfloat16 plain"), ("good", "float16 plain"),
    ]  # fmt: skip
    assert "status 2" in results.rows[0].problem
    assert "invalid choice: 'nobody'" in results.rows[0].problem
    assert results == Results.read(tmp_path / "out.json")
    assert any("failed: it ended with status 2" in line for line in said)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory", "out of memory"),
        ("ValueError: no", "failed"),
        ("", "failed"),
    ],
)
def test_how_a_failure_is_named(text: str, name: str) -> None:
    row = runner._failure(tiny("x"), 1, f"Traceback\n{text}\n")
    assert row.name == name
    assert row.problem


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Case:
    """A case that records a row, says so by a file, and never ends."""
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").touch()
    source = (ROOT / "benchmarks/record.py").read_text("utf-8")
    ready = tmp_path / "ready"
    waits = f"\nrecord('half', 'once', ms=1.0)\nopen({str(ready)!r}, 'w').close()\nimport time\ntime.sleep(600)\n"
    (package / "slow.py").write_text(source + waits)
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    return tiny("slow")


def test_the_limit_keeps_what_was_measured(slow: Case) -> None:
    started = time.monotonic()
    rows = measure(slow, Options(True, NOWHERE), 5.0)
    assert time.monotonic() - started < 100
    assert [row.name for row in rows] == ["half", "stopped"]
    assert rows[0].ms == 1.0


def test_past_the_limit_nothing_begins(tmp_path: Path, known_machine: None) -> None:
    options = Options(True, NOWHERE, limit=0.0)
    results = runner.run([tiny("vision")], "x", tmp_path / "out.json", options, lambda _: None)
    assert [(row.name, row.problem) for row in results.rows] == [("left out", "left out: --limit was reached")]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_keeps_what_was_measured(
    slow: Case, tmp_path: Path, known_machine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    wait = subprocess.Popen.wait

    def interrupted(process: subprocess.Popen, timeout: float | None = None) -> int:
        """Ctrl-C once the case has recorded its row."""
        if process.args[-1].endswith(".slow") and not (tmp_path / "sent").exists():
            while not (tmp_path / "ready").exists():
                assert process.poll() is None
                time.sleep(0.01)
            (tmp_path / "sent").touch()
            signal.raise_signal(signal.SIGINT)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    monkeypatch.setattr(command, "choose", lambda _: [slow, tiny("vision", "never")])
    assert command.main(["--out", str(out)]) == 130
    assert f"stopped; what was measured is in {out}" in capsys.readouterr().err
    assert [row.name for row in Results.read(out).rows] == ["half", "stopped"]
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.mark.parametrize(
    ("free", "wanted"),
    [(None, "0.0 GiB are free"), (23.5, "needs 34 GiB of GPU memory, and 23.5 GiB are free"), (80.0, None)],
)
def test_a_card_that_is_too_small(free: float | None, wanted: str | None) -> None:
    case = replace(tiny("x"), gib=34.0 - CONTEXT)
    said = case.refusal(free, NOWHERE, tiny=False)
    assert said is wanted or wanted in said
    assert case.refusal(free, NOWHERE, tiny=True) is None


def test_a_machine_with_too_little_memory() -> None:
    said = tiny("x").refusal(80.0, NOWHERE, tiny=False, ram=3.9)
    assert said == "left out: it needs 6 GiB of RAM, and this machine has 4 GiB"
    assert tiny("x").refusal(80.0, NOWHERE, tiny=False, ram=7.0) is None
    assert tiny("x").refusal(80.0, NOWHERE, tiny=True, ram=3.9) is None


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    said = CASES["convert"].refusal(None, {**NOWHERE, "work": tmp_path}, tiny=False)
    roomy = replace(CASES["convert"], disk=0.0)
    assert said is None or "GiB of disk in --work" in said
    assert roomy.refusal(None, {**NOWHERE, "work": tmp_path}, tiny=False) is None
    vast = replace(CASES["convert"], disk=1e9)
    assert "needs 1000000000 GiB of disk" in vast.refusal(None, {**NOWHERE, "work": tmp_path}, tiny=False)


@pytest.mark.parametrize(
    ("name", "option"),
    [("serve_load", "bundle"), ("stream/decode", "photos"), ("finetune/lora-table", "table"), ("convert", "work")],
)
def test_a_case_that_needs_an_option(name: str, option: str) -> None:
    said = CASES[name].refusal(80.0, NOWHERE, tiny=False)
    assert said == f"left out: give --{option}, which it needs"


def test_a_package_that_is_not_there() -> None:
    case = replace(tiny("x"), packages=("nowhere_installed",))
    assert 'needs nowhere_installed (pip install "vglm_train[' in case.refusal(80.0, NOWHERE, tiny=True)


def test_names_and_groups() -> None:
    assert choose([]) == list(CASES.values())
    assert [case.name for case in choose(["stage2/opt-fp16", "vision"])] == ["stage2/opt-fp16", "vision"]
    assert {case.name for case in choose(["chat"])} == {"chat/fp16", "chat/int8", "chat/int4"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stage9"], "there is no case 'stage9'; --list shows them all, of stage1, stage2"),
        (["vision", "--photos", "/nowhere"], "--photos /nowhere: is not there"),
        (["vision", "--out", str(ROOT / "README.md")], "is there already"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_list_names_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CASES)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_case_calls_a_module_that_is_there(case: Case) -> None:
    for words in filter(None, (case.words, case.tiny)):
        assert (ROOT / f"benchmarks/{words.split()[0]}.py").is_file()


def results(**changes: object) -> Results:
    row = Row(case="a", name="b", ms=2.0, values={"error": 0.5, "nothing": None})
    made = Results(
        command="vglm benchmark", date="2026-01-01T00:00:00Z", source=MEASURED, shapes="tiny", version="1", commit=None,
        machine=MACHINE, rows=(row,),
    )  # fmt: skip
    return replace(made, **changes)


def test_a_file_reads_as_it_was_written(tmp_path: Path) -> None:
    results().write(tmp_path / "a.json")
    assert Results.read(tmp_path / "a.json") == results()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.update(format=2), "in format 1"),
        (lambda found: found.pop("machine"), "machine"),
        (lambda found: found.update(more=1), "more"),
        (lambda found: found["rows"][0].update(speed=3), "rows.0 holds unknown keys speed"),
        (lambda found: found["rows"][0].update(ms="fast"), "rows.0.ms is no number: 'fast'"),
        (lambda found: found["rows"][0]["values"].update(error=True), "rows.0.error is no number: True"),
        (lambda found: found["rows"][0].pop("case"), "case"),
    ],
)
def test_a_file_of_another_layout(tmp_path: Path, change, said: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "a.json"
    results().write(path)
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=said) as error:
        Results.read(path)
    assert str(path) in str(error.value)


def test_a_number_that_was_not_measured() -> None:
    row = results().row("a", "b")
    assert (row.get("ms"), row.get("error")) == (2.0, 0.5)
    for key in ("ratio", "nothing", "unknown"):
        with pytest.raises(UserError, match=f"no {key} was measured"):
            row.get(key)
    with pytest.raises(UserError, match="0 rows are named 'c'"):
        results().row("a", "c")


def test_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record("nowhere", "x", ms=1.0)  # no file is named
    monkeypatch.setenv(FILE, str(tmp_path / "rows"))
    record("a", "how", ms=3.14159, floor_ms=2.0, peak_gib=float("nan"), values={"error": float("inf"), "b": 1})
    (row,) = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert (row["ms"], row["ratio"], row["peak_gib"]) == (3.142, 1.571, None)
    assert row["values"] == {"error": None, "b": 1.0}
    Row(case="c", **row)


def test_a_file_is_shown_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.json"
    results(shapes="full").write(path)
    assert command.main(["--show", str(path)]) == 0
    *words, head, line, row = capsys.readouterr().out.splitlines()
    machine = "card unknown (unknown GiB, driver unknown), CPU a CPU, 2 cores, unknown GiB of RAM"
    assert words[:2] == [machine, "torch 2"]
    assert len({len(each.split("|")) for each in (head, line, row)}) == 1
    assert row.split(" | ")[:4] == ["| a", "b", "", "2"]
    assert "error 0.5" in row
    assert command.main(["--show", str(tmp_path / "none.json")]) == 2
    assert "no results of `vglm benchmark`" in capsys.readouterr().err


def test_the_file_names_no_folder_of_the_machine() -> None:
    args = command.parse(
        "vglm benchmark", ["stream", "--photos", "/home/me", "--limit", "60", "--out", "/home/me/a.json"]
    )
    assert command.called(args) == "vglm benchmark stream --limit 60 --photos PHOTOS"
