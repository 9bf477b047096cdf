"""The verdict of a vqa or report evaluation: sentences that say whether the scores can be trusted."""

from collections.abc import Iterator, Mapping

from vglm_train.config.metric_names import BASELINES, BLANK, MAJORITY, MODEL, SHUFFLED, VqaTask
from vglm_train.evaluate.metrics.bootstrap import MIN_ITEMS
from vglm_train.evaluate.vqa.intervals import Score, SubsetScores
from vglm_train.report.html import VerdictLine

DESCRIPTIONS = {
    MAJORITY: "always giving the commonest answer",
    SHUFFLED: "the same model shown another picture",
    BLANK: "the same model shown a grey picture",
}
MAIN_SCORE: dict[VqaTask, str] = {"vqa": "accuracy", "report": "f1"}  # the score that a verdict compares
MIN_DISTINCT = 0.5  # of the share of distinct texts among the true ones
NORMAL_MARGIN, MIN_FINDING_RECALL = 20, 20  # per cent


def assess_scores(task: VqaTask, subset: SubsetScores) -> list[VerdictLine]:
    """A line for each baseline: whether the model's main score is above it."""
    metric = MAIN_SCORE[task]
    if metric not in subset.scores:
        return []
    of_model, gains = subset.scores[metric][MODEL], subset.gains.get(metric, {})
    lines = []
    for baseline in (baseline for baseline in BASELINES if baseline in gains):
        gain, of_baseline = gains[baseline], subset.scores[metric][baseline]
        text = (
            f"{subset.name}: {metric} {of_model.value:.1f} % against {of_baseline.value:.1f} % for "
            f"{DESCRIPTIONS[baseline]}: {format_gain(gain)}"
        )
        if subset.clusters < MIN_ITEMS or gain.low is None or gain.high is None:
            lines.append(VerdictLine("warn", f"{text}: too few to tell, {subset.clusters} patients or pictures"))
        elif gain.low > 0:
            lines.append(VerdictLine("ok", f"{text}: above it"))
        else:
            lines.append(VerdictLine("warn", f"{text}: {'below it' if gain.high < 0 else 'not told apart from it'}"))
    return lines


def assess_reports(scores: Mapping[str, float]) -> Iterator[VerdictLine]:
    """Whether the reports vary and state abnormal findings as the true ones do. `scores`: the model's."""
    distinct, true = scores["distinct"], scores["distinct_truth"]
    text = f"{distinct:.0f} % of the reports are distinct; of the true ones {true:.0f} %"
    yield VerdictLine("warn" if distinct < MIN_DISTINCT * true else "ok", text)
    normal, true = scores["normal"], scores["normal_truth"]
    text = f"{normal:.0f} % of the reports state no abnormal finding; of the true ones {true:.0f} %"
    yield VerdictLine("warn" if normal > true + NORMAL_MARGIN else "ok", text)
    if "finding_recall" in scores:
        recall, precision = scores["finding_recall"], scores.get("finding_precision")
        right = (
            f", and {precision:.0f} % of what it states is true" if precision is not None else ", and it states none"
        )
        text = f"by keywords, it states {recall:.0f} % of the abnormal findings{right}"
        yield VerdictLine("warn" if recall < MIN_FINDING_RECALL else "ok", text)


def assess_silence(true: int, own: int, reports: int) -> list[VerdictLine]:
    """A warning where more of the model's reports than of the true ones say nothing that the table knows."""
    if own <= true:
        return []
    return [
        VerdictLine(
            "warn",
            f"{own} of {reports} reports say nothing that the table of findings knows, not even that something is "
            f"normal; of the true ones {true}. They count among those that state no abnormal finding",
        )
    ]


def format_gain(gain: Score) -> str:
    """A difference with its interval, if it has one."""
    return f"{gain.value:+.1f}" + ("" if gain.low is None else f", 95 % [{gain.low:+.1f}, {gain.high:+.1f}]")
