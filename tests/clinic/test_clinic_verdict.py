"""What numbers become which sentence."""

import json
from pathlib import Path

import pytest

from vglm_train.clinic.verdict import judge, read_verdict
from vglm_train.errors import UserError

GOOD, EVEN, BAD, ALONE = (20.0, 5.0, 30.0), (1.0, -3.0, 5.0), (-9.0, -12.0, -2.0), (20.0, None, None)
BASELINES = ("majority", "shuffled", "blank")


@pytest.mark.parametrize(
    ("gains", "patients", "outcome"),
    [
        ((GOOD, GOOD, GOOD), 15, "above"),
        ((GOOD, EVEN, GOOD), 15, "not told apart"),
        ((GOOD, EVEN, BAD), 15, "below"),
        ((GOOD, GOOD, GOOD), 4, "too few"),
        ((GOOD, ALONE, GOOD), 15, "too few"),
        ((GOOD, (20.0, 0.0, 30.0), GOOD), 15, "not told apart"),
    ],
)
def test_outcomes(gains: tuple[tuple[float, float, float], ...], patients: int, outcome: str, tmp_path: Path) -> None:
    named = dict(zip(BASELINES, gains))
    assert judge(named, patients) == outcome
    scores = {name: dict(zip(("value", "low", "high"), gain)) for name, gain in named.items()}
    file = tmp_path / "report.json"
    file.write_text(json.dumps({"sections": [{"clusters": patients, "gains": {"f1": scores}}]}))
    found = read_verdict(file, "report")
    assert found.outcome == outcome
    assert str(patients) in found.english
    assert str(patients) in found.chinese
    assert ("it reads the pictures" in found.english) == ("确实在看图像" in found.chinese) == (outcome == "above")
    refused = outcome in ("not told apart", "below")
    assert ("do not use it" in found.english) == ("请勿使用" in found.chinese) == refused


def test_no_result(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UserError, match="is no result of vglm evaluate --task report"):
        read_verdict(tmp_path / "report.json", "report")
