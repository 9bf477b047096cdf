"""What the scores mean, in words: whether to trust the model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from vglm_train.evaluate.vqa.generate import BLANK, MODEL, SHUFFLED
from vglm_train.evaluate.vqa.intervals import BASELINES, MAJORITY, Score, Section

WORDS = {
    MAJORITY: "always giving the commonest answer",
    SHUFFLED: "the same model shown another picture",
    BLANK: "the same model shown a grey picture",
}
CHIEF = {"vqa": "accuracy", "report": "f1"}  # what a verdict goes by
FEW = 5  # patients or pictures: with fewer no interval is to be trusted
FEW_DISTINCT = 0.5  # of the distinct texts among the true ones


@dataclass(frozen=True, slots=True)
class Line:
    kind: Literal["ok", "warn"]
    text: str


def judge(task: str, section: Section) -> list[Line]:
    """A line for each baseline of a section."""
    chief = CHIEF[task]
    if chief not in section.scores:
        return []
    own = section.scores[chief][MODEL]
    lines = []
    for who in (who for who in BASELINES if who in section.gains.get(chief, {})):
        gain = section.gains[chief][who]
        theirs = section.scores[chief][who]
        text = f"{section.name}: {chief} {own.value:.1f} % against {theirs.value:.1f} % for {WORDS[who]}: {shown(gain)}"
        assert gain.low is not None
        assert gain.high is not None
        if section.clusters < FEW:
            lines.append(Line("warn", f"{text}: too few to tell, {section.clusters} patients or pictures"))
        elif gain.low > 0:
            lines.append(Line("ok", f"{text}: above it"))
        else:
            lines.append(Line("warn", f"{text}: {'below it' if gain.high < 0 else 'not told apart from it'}"))
    return lines


def judge_reports(scores: Mapping[str, float]) -> Iterator[Line]:
    """Whether reports differ as true ones do, and name what is abnormal. `scores`: the model's."""
    said, true = scores["distinct"], scores["distinct_truth"]
    kind: Literal["ok", "warn"] = "warn" if said < FEW_DISTINCT * true else "ok"
    yield Line(kind, f"{said:.0f} % of the reports are distinct; of the true ones {true:.0f} %")
    normal, truth = scores["normal"], scores["normal_truth"]
    kind = "warn" if normal > truth + 20 else "ok"
    yield Line(kind, f"{normal:.0f} % of the reports state no abnormal finding; of the true ones {truth:.0f} %")
    if "finding_recall" in scores:
        found, stated = scores["finding_recall"], scores.get("finding_precision")
        right = f", and {stated:.0f} % of what it states is true" if stated is not None else ", and it states none"
        yield Line("warn" if found < 20 else "ok", f"it states {found:.0f} % of the abnormal findings{right}")


def shown(gain: Score) -> str:
    """A difference with its interval."""
    return f"{gain.value:+.1f}, 95 % [{gain.low:+.1f}, {gain.high:+.1f}]"
