"""Runs cases one after the other, each in a process of its own, and keeps what they measured."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.record import FILE
from benchmarks.result_file import MEASURED, Machine, Results, Row
from vglm_train.errors import UserError
from vglm_train.version import __version__, commit

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 20  # seconds for a process to end before it is killed
MEMORY = ("OutOfMemoryError", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """places: what `{bundle}` and others stand for. limit: seconds after which nothing runs any more."""

    tiny: bool
    places: Mapping[str, Path | None]
    limit: float | None = None


def look(tiny: bool) -> tuple[Machine, float | None, bool]:
    """The machine, GiB free on its GPU, and whether shapes are tiny: they are without a GPU."""
    command = [sys.executable, "-m", "benchmarks.machine", *(["--tiny"] if tiny else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(tiny), cwd=ROOT)
    if done.returncode:
        raise UserError(f"this machine cannot be measured: {_last_line(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    free = found.pop("free_gib")
    return Machine(**found), free, found["card"] is None


def run(cases: Sequence[Case], command: str, out: Path, options: Options, say: Say) -> Results:
    """Measure; `out` is written anew after each case, also after the one that a Ctrl-C stopped, which is passed on."""
    begun = time.monotonic()
    machine, free, tiny = look(options.tiny)
    options = replace(options, tiny=tiny)
    say(_title(machine, tiny))
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results = Results(
        command=command, date=date, source=MEASURED, shapes="tiny" if tiny else "full", version=__version__,
        commit=commit(), machine=machine, rows=(),
    )  # fmt: skip
    results.write(out)  # before hours are spent: the folder can be written
    pace = _Pace(cases, tiny)
    for number, case in enumerate(cases, 1):
        refusal = case.refusal(free, options.places, tiny, machine.ram_gib) or _late(begun, options.limit)
        say(f"[{number}/{len(cases)}] {case.name}: {refusal or case.what}{'' if refusal else pace.words(number)}")
        rows: list[Row] = []
        try:
            if refusal:
                rows.append(Row(case=case.name, name="left out", problem=refusal))
            else:
                with pace.timed(case):
                    rows += measure(case, options, _left(begun, options.limit))
        except Stopped as stop:
            rows += stop.rows
            raise KeyboardInterrupt(*stop.args) from None
        finally:
            results = replace(results, rows=(*results.rows, *rows))
            results.write(out)
        for row in rows:
            say(f"    {line(row)}")
    return results


class Stopped(KeyboardInterrupt):
    """Ctrl-C came while a case ran; what it had measured."""

    def __init__(self, rows: list[Row], *args: Any) -> None:
        super().__init__(*args)
        self.rows = rows


def measure(case: Case, options: Options, seconds: float | None) -> list[Row]:
    """Run one case; its rows, and one that says why if it failed or took longer than `seconds`. Raises Stopped."""
    words = (case.tiny if options.tiny else case.words) or ""
    named = {name: shlex.quote(str(place.resolve())) for name, place in options.places.items() if place}
    module, *arguments = shlex.split(words.format_map(named))
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "output", "w+", encoding="utf-8") as output:
        left = Path(folder) / "rows"
        environment = {**_environment(options.tiny), FILE: str(left)}
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=ROOT, start_new_session=os.name != "nt"
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            stopped = Row(case=case.name, name="stopped", problem="stopped: --limit was reached while it ran")
            return [*_read(case, left), stopped]
        except KeyboardInterrupt as stop:
            _end(process)
            stopped = Row(case=case.name, name="stopped", problem="stopped by a signal while it ran")
            raise Stopped([*_read(case, left), stopped], *stop.args) from None
        rows = _read(case, left)
        if status == 0:
            return rows or [Row(case=case.name, name="failed", problem="it ended without a measurement")]
        output.seek(0)
        return [*rows, _failure(case, status, output.read())]


def _failure(case: Case, status: int, text: str) -> Row:
    if any(sign in text for sign in MEMORY):
        return Row(case=case.name, name="out of memory", problem="the GPU's memory did not suffice")
    return Row(case=case.name, name="failed", problem=f"it ended with status {status}: {_last_line(text)}")


def _read(case: Case, path: Path) -> list[Row]:
    """What was recorded; a last line that was cut off is left."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8").split("\n")
    return [Row(case=case.name, **json.loads(text)) for text in lines[:-1]]


def _end(process: subprocess.Popen[Any]) -> None:
    """With those that it started: they are in its session, which a terminal's Ctrl-C does not reach."""
    _signal(process, signal.SIGTERM)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        process.wait()


def _signal(process: subprocess.Popen[Any], number: int) -> None:
    if os.name == "nt":
        process.terminate()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _environment(tiny: bool) -> dict[str, str]:
    return {**os.environ, **({"DS_ACCELERATOR": "cpu"} if tiny else {})}


def _last_line(text: str) -> str:
    lines = [each.strip() for each in text.splitlines() if each.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _left(begun: float, limit: float | None) -> float | None:
    return None if limit is None else max(0.0, limit - (time.monotonic() - begun))


def _late(begun: float, limit: float | None) -> str | None:
    return "left out: --limit was reached" if _left(begun, limit) == 0.0 else None


def _title(machine: Machine, tiny: bool) -> str:
    where = machine.card or f"{machine.cpu}, {machine.cores} cores"
    rate = f"{machine.product_tflops:.3g} TFLOP/s in bf16 products, {machine.copy_tb_s:.3g} TB/s in copies"
    small = "; TINY SHAPES: these numbers say that the cases run, not how fast anything is" if tiny else ""
    return f"{where}, torch {machine.versions.get('torch')}, {rate}{small}"


def line(row: Row) -> str:
    """One row as a person reads it."""
    shown = {
        "samples/s": row.samples_per_s, "ms": row.ms, "GiB": row.peak_gib, "times the floor": row.ratio, **row.values
    }  # fmt: skip
    numbers = ", ".join(f"{value:.4g} {unit}" for unit, value in shown.items() if value is not None)
    return f"{row.name}: {row.problem or numbers}"


class _Pace:
    """How long the rest takes, by the cases' own guesses and how this machine compares so far."""

    def __init__(self, cases: Sequence[Case], tiny: bool) -> None:
        self.guesses = [20.0 if tiny else float(case.seconds) for case in cases]
        self.spent, self.guessed = 0.0, 0.0
        self.tiny = tiny

    def words(self, number: int) -> str:
        """Of the case with that number, from 1."""
        rate = self.spent / self.guessed if self.guessed else 1.0
        rest = rate * sum(self.guesses[number - 1 :])
        return f" (about {rate * self.guesses[number - 1]:.0f} s, and {rest / 60:.0f} min for all that is left)"

    def timed(self, case: Case) -> "_Timed":
        return _Timed(self, 20.0 if self.tiny else float(case.seconds))


class _Timed:
    """Adds what a case took to the pace."""

    def __init__(self, pace: _Pace, guess: float) -> None:
        self.pace, self.guess = pace, guess

    def __enter__(self) -> None:
        self.begun = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.pace.spent += time.monotonic() - self.begun
        self.pace.guessed += self.guess
