"""Scores of a report by the findings that it states."""

from collections.abc import Mapping, Sequence
from typing import Any

from vglm_train.evaluate.findings.label import label
from vglm_train.evaluate.findings.sentence import Mention
from vglm_train.evaluate.findings.table import NO_FINDING, FindingsTable

Labels = Mapping[str, Mention]
POLICIES = {
    "positive": "a finding that is doubted counts as stated",
    "negative": "a finding that is doubted counts as not stated",
    "ignored": "a finding that the true report or the other one doubts is not counted",
}


def score_findings(truth: str, output: str, table: FindingsTable) -> dict[str, tuple[float, float]]:
    """(points, maximum) of the metrics of reports that are about findings.

    finding_recall: of the true abnormal findings, those stated; finding_precision: the reverse; finding_side: of those
    rightly stated whose side the true report tells, those on the same side; normal: states no abnormal finding;
    normal_truth: the true report states none. A part of a finding counts as the whole, and not once more.
    """
    true, read = label(truth, table), label(output, table)
    left_out = ignored_findings(true, table) | ignored_findings(read, table) | table.parts()
    wanted, stated = (stated_findings(labels, table) - left_out for labels in (true, read))
    both = wanted & stated
    sided = [name for name in both if true[name].side is not None]
    same = sum(true[name].side == read[name].side for name in sided)
    return {
        "finding_recall": (float(len(both)), float(len(wanted))),
        "finding_precision": (float(len(both)), float(len(stated))),
        "finding_side": (float(same), float(len(sided))),
        "normal": (float(bool(output.strip()) and not stated_findings(read, table)), 1.0),
        "normal_truth": (float(not stated_findings(true, table)), 1.0),
    }


def stated_findings(labels: Labels, table: FindingsTable, abnormal: bool = True) -> set[str]:
    """Names of the findings that count as stated; `abnormal`: only something ill."""
    states = ("present", "uncertain") if table.uncertain == "positive" else ("present",)
    names = table.abnormal() if abnormal else [finding.name for finding in table.findings]
    return {name for name in names if name in labels and labels[name].state in states}


def count_findings(truths: Sequence[str], outputs: Sequence[str], table: FindingsTable) -> dict[str, dict[str, Any]]:
    """Finding -> how many reports state it truly, as read from the outputs, and both; precision and recall in per cent.

    Findings that neither states are left out.
    """
    counts = {finding.name: [0, 0, 0] for finding in table.findings if finding.name != NO_FINDING}
    for truth, output in zip(truths, outputs):
        labels = label(truth, table), label(output, table)
        ignored = ignored_findings(labels[0], table) | ignored_findings(labels[1], table)
        wanted, stated = (stated_findings(each, table, False) - ignored for each in labels)
        for name, count in counts.items():
            both = name in wanted and name in stated
            count[0], count[1], count[2] = count[0] + (name in wanted), count[1] + (name in stated), count[2] + both
    return {
        name: {
            "true": true, "stated": stated, "both": both,
            "recall": 100 * both / true if true else None, "precision": 100 * both / stated if stated else None,
        }
        for name, (true, stated, both) in counts.items()
        if true or stated
    }  # fmt: skip


def ignored_findings(labels: Labels, table: FindingsTable) -> set[str]:
    """Names of the findings that are not counted, because the text doubts them and the table says so."""
    if table.uncertain != "ignored":
        return set()
    return {name for name, mention in labels.items() if mention.state == "uncertain"}
