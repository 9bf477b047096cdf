"""What the live page asks for, as values for JSON."""

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vglm_train.config.metric_meanings import EVALUATION, TRAINING, fits
from vglm_train.config.metric_names import MEAN_RECALL, PREFIX
from vglm_train.errors import UserError
from vglm_train.log import evidence
from vglm_train.log.health_words import ENDED, Note, line, said
from vglm_train.log.jsonl import METRICS, TABLES, read_tables
from vglm_train.report import charts, reference
from vglm_train.report.runs import read_runs
from vglm_train.report.sentence import Sentence
from vglm_train.report.verdict import assess_run
from vglm_train.report.verdict_words import say
from vglm_train.report.watched import Watched, WatchedRun

Query = dict[str, list[str]]
POINTS = 1000  # of a curve, if the page does not say how wide it is
MOST_RUNS = 12  # compared at once
SCORES = (MEAN_RECALL, "eval/en_cider", "eval/zh_cider", "eval/vqa_accuracy", "eval/report_f1")  # of the table of runs
WORST = ("bad", "warn", "ok", "fact")


class Answers:
    """`known`: path -> the function that answers it."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.known: dict[str, Callable[[Query], Any]] = {
            "/api/runs": self.runs, "/api/data": self.data, "/api/details": self.details, "/api/verdict": self.verdict,
        }  # fmt: skip
        self._by_id: dict[str, WatchedRun] = {}
        self._verdicts: dict[str, tuple[str, list[dict[str, str]]]] = {}
        self._judging = threading.Lock()

    def runs(self, query: Query) -> list[dict[str, Any]]:
        """One entry a run for the table, the one that was written last first."""
        return [self._run(run) for run in self._look()]

    def data(self, query: Query) -> dict[str, Any]:
        """Curves of the runs that `run` names, between the steps `from` and `to`, of about `points` points."""
        first, last = (float(query[key][0]) if key in query else None for key in ("from", "to"))
        most = min(4000, max(50, int(query.get("points", [POINTS])[0])))
        runs = {name: self._find(name) for name in query.get("run", [])[:MOST_RUNS]}
        names = set().union(*(run.health.history.names() for run in runs.values()))
        sections = charts.charts(names)
        shown = {name for _, found in sections for chart in found for name in chart.names}
        stage_one = any(run.info and "itc" in run.info.weights for run in runs.values())
        return {
            "sections": [
                {"title": {"en": section.en, "zh": section.zh}, "panels": [_panel(chart) for chart in found]}
                for section, found in sections
            ],
            "runs": {i: {name: run.points(name, first, last, most) for name in shown} for i, run in runs.items()},
            "reference": [list(column) for column in zip(*reference.curve())] if stage_one else None,
            "source": reference.SOURCE,
        }

    def details(self, query: Query) -> dict[str, Any]:
        """Of one run: notes with what they mean and what to try, newest values, tables (of the step `step`)."""
        run = self._find(query["run"][0])
        history = run.health.history
        values = {name: history.last(name) if history.finite[name] else None for name in sorted(history.names())}
        return {
            "notes": [_note(note) for note in run.notes()],
            "values": [{"name": name, "value": value, **_meaning(name)} for name, value in values.items()],
            "tables": self._tables(run, query.get("step", [""])[0]),
        }

    def verdict(self, query: Query) -> list[dict[str, str]]:
        """Is the loss normal? The sentences of the report."""
        run = self._find(query["run"][0])
        with self._judging:  # it reads the whole file: not twice for the same rows
            known = self._verdicts.get(str(run.folder))
            if known is None or known[0] != run.version:
                try:
                    found = assess_run(read_runs([run.folder])[0])
                except UserError:  # no row yet
                    found = [Sentence("fact", say("no_rows"))]
                lines = [{"kind": each.kind, "en": each.text.en, "zh": each.text.zh} for each in found]
                known = self._verdicts[str(run.folder)] = (run.version, lines)
        return known[1]

    def picture(self, run: str, step: str, table: str, name: str) -> bytes:
        """A JPEG of a table. KeyError, OSError where there is none."""
        folder = self._find(run).folder / TABLES
        path = folder / step / table / name
        if folder.resolve() not in path.resolve().parents:
            raise KeyError(name)
        return path.read_bytes()

    def _look(self) -> list[WatchedRun]:
        runs = self.watched.runs()
        self._by_id = {_identify(run.folder): run for run in runs}
        return runs

    def _find(self, name: str) -> WatchedRun:
        if name not in self._by_id:
            self._look()
        run = self._by_id[name]
        run.refresh()
        return run

    def _run(self, run: WatchedRun) -> dict[str, Any]:
        history, notes = run.health.history, run.notes()
        score = next(((name, history.last(name)) for name in SCORES if history.last(name) is not None), None)
        path = run.folder / METRICS
        over = {note.code for note in notes} & ENDED
        return {
            "id": _identify(run.folder), "name": run.name, "folder": str(run.folder), "version": run.version,
            "kind": min((note.kind for note in notes), key=WORST.index, default="fact"), "over": bool(over),
            "line": {"en": line(notes, "en"), "zh": line(notes, "zh")},
            "step": history.last_step, "total": run.info.total_steps if run.info else None,
            "loss": history.mean("train/loss"), "rate": None if over else evidence.samples_per_second(history),
            "score": score and [score[0].removeprefix(PREFIX), score[1]],
            "age": time.time() - path.stat().st_mtime if path.is_file() else None,
        }  # fmt: skip

    @staticmethod
    def _tables(run: WatchedRun, step: str) -> list[dict[str, Any]]:
        """The newest of each name, or those up to a step."""
        tables = read_tables(run.folder)
        newest = {table.name: table for table in tables if not step or table.step <= int(step)}
        return [
            {
                "name": name, "step": newest[name].step, "section": section.en,
                "steps": [each.step for each in tables if each.name == name],
                **_content(newest[name].folder, f"/picture/{_identify(run.folder)}/{newest[name].folder.parent.name}"),
            }
            for section, name in charts.tables(newest)
        ]  # fmt: skip


def _panel(chart: charts.Chart) -> dict[str, Any]:
    panel = chart.panel
    return {
        "title": {"en": panel.en, "zh": panel.zh}, "names": chart.names, "noisy": panel.noisy,
        "level": panel.level, "band": panel.band, "about": _meaning(chart.names[0]),
    }  # fmt: skip


def _content(folder: Path, address: str) -> dict[str, Any]:
    """Columns and rows; a picture is {"image": its address}."""
    content = json.loads((folder / "table.json").read_text("utf-8"))
    rows = [
        [
            {"image": f"{address}/{folder.name}/{cell['image']}"} if isinstance(cell, dict) else _plain(cell)
            for cell in row
        ]
        for row in content["rows"]
    ]
    return {"columns": content["columns"], "rows": rows}


def _plain(cell: str | float) -> str | float | None:
    return cell if isinstance(cell, str) or math.isfinite(cell) else None


def _note(note: Note) -> dict[str, Any]:
    words = {}
    for language in ("en", "zh"):
        text = said(note, language)
        words[language] = [text.short, text.means, text.to_try]
    return {"code": note.code, "kind": note.kind, **words}


def _meaning(name: str) -> dict[str, str]:
    metric = next((metric for metric in (*TRAINING, *EVALUATION) if fits(name, metric)), None)
    return {"en": metric.en, "zh": metric.zh} if metric else {"en": "", "zh": ""}


def _identify(folder: Path) -> str:
    """A short name of a run folder for addresses."""
    return hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:12]
