"""Result files of `vglm evaluate`, item by item, and why two of them may not be compared."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vglm_train.config.metric_names import DIRECTIONS, ITM_ACCURACY, MODEL, RECALL_AT, RERANK
from vglm_train.errors import UserError
from vglm_train.evaluate.result import SUBMISSION

Key = tuple[str, ...]
PROTOCOL = "protocol"  # instead of a task
FINDINGS = ("finding_", "normal")  # beginnings of metrics that a findings table decides
SAME = {  # what must be the same -> what it is called
    "protocol": "the protocols", "version": "versions of the protocol", "fingerprint": "fingerprints of the protocol",
    "split": "splits", "rerank": "--rerank", "rerank_score": "--rerank-score",
}  # fmt: skip
TOLD = (
    "decoding",
    "questions",
    "max_prompt",
    "languages",
    "adapters",
    "prompt",
    "image_size",
)  # settings that may differ, and are told


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question, caption or query, and what came of it."""

    cluster: Key  # the patient, else the picture
    asked: Mapping[str, Any]  # what must be the same in both results
    parts: tuple[str, ...]  # subsets that it is in
    points: Mapping[str, tuple[float, float]]  # metric -> (points, the most there could be)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One result file."""

    path: Path
    task: str  # or PROTOCOL
    report: Mapping[str, Any]
    outcomes: Mapping[Key, Outcome]
    whole: Mapping[str, float] = field(default_factory=dict)  # scores of all texts together

    @property
    def named(self) -> str:
        """For people."""
        return f"protocol {self.report['protocol']}" if self.task == PROTOCOL else self.task


def read_result(path: Path) -> Evaluated:
    """UserError for a file that is no result, or one of a version that kept too little of each item."""
    report = _load(path)
    task = PROTOCOL if "protocol" in report and "task" not in report else report["task"]
    try:
        outcomes: dict[Key, Outcome] = {}
        seen: Counter[Key] = Counter()
        for key, outcome in READERS[task](report):
            seen[key] += 1
            outcomes[*key, str(seen[key])] = outcome
        if task in ("vqa", "report", PROTOCOL):
            single = {name for outcome in outcomes.values() for name in outcome.points}
            scores = report["scores"] if task == PROTOCOL else report["scores"][MODEL]
            whole = {name: value for name, value in scores.items() if name not in single}
            return Evaluated(path, task, report, outcomes, whole)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: the result is damaged or of an earlier version, {error!r} is not as it is written now; evaluate "
            "the bundle again"
        ) from None
    return Evaluated(path, task, report, outcomes)


def _load(path: Path) -> Mapping[str, Any]:
    """What a result says. UserError, with what the file is instead."""
    give = "give the JSON file that vglm evaluate wrote"
    try:
        report = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; {give}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a result of vglm evaluate: it is no JSON ({error}); {give}") from None
    if path.name.endswith(SUBMISSION):
        result = f"{path.name.removesuffix(SUBMISSION)}.json"
        raise UserError(f"{path}: this is the file for a benchmark's server; give the result beside it, {result}")
    if not isinstance(report, dict) or not {"scores", "task"} & set(report):
        what = "keys of a result" if isinstance(report, dict) else "a JSON object"
        raise UserError(f"{path}: not a result of vglm evaluate: it is not {what}; {give}")
    if "parts" in report and "first" in report:
        raise UserError(f"{path}: this is a comparison; give two results of vglm evaluate, as those that it names")
    if "protocol" in report and not report.get("scores"):
        raise UserError(f"{path}: it holds no score: the benchmark's server alone has the answers")
    if "protocol" not in report and report.get("task") not in tuple(READERS):
        raise UserError(
            f"{path}: it does not say which task it is of, as results of earlier versions do not; evaluate the bundle "
            "again."
        )
    return report


def check_comparable(first: Evaluated, second: Evaluated) -> list[str]:
    """What differs and may: sentences. UserError, with how many match, for results that must not be compared."""
    names = f"{first.path} and {second.path}"
    if first.task != second.task:
        raise UserError(f"{names}: tasks {first.named} and {second.named}; compare results of one task or protocol")
    if first.report.get("meaning") != second.report.get("meaning"):
        raise UserError(f"{names}: metrics of the two mean different things (other versions); evaluate the older again")
    for key, what in SAME.items():
        mine, others = first.report.get(key), second.report.get(key)
        if mine != others:
            raise UserError(f"{names}: {what} differ: {mine} and {others}; evaluate both in the same way")
    _check_items(first, second, names)
    told = [key for key in TOLD if first.report.get(key) != second.report.get(key)]
    return [f"{key}: {_short(first.report.get(key))} and {_short(second.report.get(key))}" for key in told]


def _check_items(first: Evaluated, second: Evaluated, names: str) -> None:
    shared = dict.fromkeys(key for key in first.outcomes if key in second.outcomes)
    count = f"{len(shared)} of {len(first.outcomes)} and {len(second.outcomes)} match"
    for key in shared:
        mine, others = first.outcomes[key].asked, second.outcomes[key].asked
        wrong = next((name for name in mine if mine[name] != others.get(name)), None)
        if wrong is not None:
            raise UserError(
                f"{names}: {' '.join(key[:-1])}: {wrong} differs: {_short(mine[wrong])} and "
                f"{_short(others.get(wrong))}; they are of different data ({count} by key)"
            )
    if len(shared) < max(len(first.outcomes), len(second.outcomes)):
        alone = next(key for key in (*first.outcomes, *second.outcomes) if key not in shared)
        raise UserError(
            f"{names}: not the same questions: {count}; the first that only one has is {' '.join(alone[:-1])}. "
            "Evaluate both with the same --data, --images, --only and --exclude."
        )
    if not shared:
        raise UserError(f"{names}: they hold no question")


def left_out(first: Evaluated, second: Evaluated) -> dict[str, str]:
    """Beginning of metrics that cannot be compared -> why: made by another table or tokenizer."""
    found: dict[str, str] = {}
    tables = [(each.report.get("findings") or {}).get("fingerprint") for each in (first, second)]
    if tables[0] != tables[1]:
        found |= dict.fromkeys(FINDINGS, f"scored by different findings tables, {tables[0]} and {tables[1]}")
    made_by = [each.report.get("made_by") or {} for each in (first, second)]
    if first.task == PROTOCOL:
        names = first.report["scores"] if made_by[0] != made_by[1] else ()
        return dict.fromkeys(names, "texts were scored by different libraries or tokenizers")
    for language in sorted({*made_by[0], *made_by[1]}):
        if made_by[0].get(language) != made_by[1].get(language):
            found[f"{language}_"] = f"texts in {language} were scored by different libraries or tokenizers"
    return found


def _answers(report: Mapping[str, Any]) -> Iterator[tuple[Key, Outcome]]:
    """Of vqa and report."""
    rows = report["answers"]
    kinds = "type" if any(row["type"] for row in rows) else "kind"
    for row in rows:
        cluster = ("picture", str(row["image_id"])) if row["group"] is None else ("group", str(row["group"]))
        asked = {name: row[name] for name in ("image_id", "question", "kind", "answers")}
        parts = tuple(f"{name} {row[name]}" for name in (kinds, "language") if row[name])
        points = {name: (float(own), float(most)) for name, (own, most) in row["points"].items()}
        yield (row["key"],), Outcome(cluster, asked, parts, points)


def _captions(report: Mapping[str, Any]) -> Iterator[tuple[Key, Outcome]]:
    for row in report["captions"]:
        language = row["language"]
        points = {f"{language}_{name}": (value / 100, 1.0) for name, value in row["scores"].items()}
        points[f"{language}_loss"] = (row["loss"] / 100, 1.0)  # nats: every metric is 100 times its mean
        if row["shuffled_loss"] is not None:
            points[f"{language}_loss_gap"] = ((row["shuffled_loss"] - row["loss"]) / 100, 1.0)
        asked = {name: row[name] for name in ("image_id", "references")}
        yield (language, row["key"]), Outcome(("picture", str(row["image_id"])), asked, (), points)


def _queries(report: Mapping[str, Any]) -> Iterator[tuple[Key, Outcome]]:
    for row in report["queries"]:
        language, direction = row["language"], row["direction"]
        points: dict[str, tuple[float, float]] = {}
        for variant in ("", RERANK):
            if (rank := row.get(f"{variant}rank")) is not None:
                names = ((k, f"{language}_{variant}{direction}_r{k}") for k in RECALL_AT)
                points |= {name: (float(0 < rank <= k), 1.0) for k, name in names}
        if direction == DIRECTIONS[0]:
            points[f"{language}_{ITM_ACCURACY}"] = (float(row[ITM_ACCURACY]), 1.0)
        asked = {name: row[name] for name in ("image_id", "text")}
        cluster = ("picture", str(row["image_id"]))
        yield (language, direction, row["key"]), Outcome(cluster, asked, (), points)


def _of_protocol(report: Mapping[str, Any]) -> Iterator[tuple[Key, Outcome]]:
    """Answers, captions, or what was looked for."""
    for row in report["answers"] if "answers" in report else report["queries"]:
        asked = {name: row.get(name) for name in ("question", "answers", "text")} | {"picture": row["picture"]}
        parts = (f"type {row['type']}",) if row.get("type") else ()
        points = {name: (float(value), 1.0) for name, value in row["marks"].items()}
        key = (str(row["id"]), *([row["direction"]] if "direction" in row else []))
        yield key, Outcome(("picture", row["picture"]), asked, parts, points)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


READERS = {
    "vqa": _answers, "report": _answers, "caption": _captions, "retrieval": _queries, PROTOCOL: _of_protocol,
}  # fmt: skip
