"""The best value so far counts only where later ones can be compared with it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from made_shards import sample, write_manifest, write_shard

from run.starts import STEPS, begin, go_on, said

pytestmark = pytest.mark.usefixtures("alone")

Change = Callable[[Path], None]


def fewer_validation_samples(home: Path) -> None:
    write_shard(home / "val" / "shard-000000.tar", [sample(180 + n) for n in range(11)])
    write_manifest(home / "val", {"shard-000000.tar": 11}, captions={"en": 22, "zh": 11})


BEST: dict[str, tuple[str | None, Change | None, str]] = {
    "the metric": ("checkpoint.best=eval/en_itm_accuracy", None,
                   r"\(checkpoint.best: eval/r_mean before, eval/en_itm_accuracy now\)"),
    "how it is scored": ("evaluate.rerank=0", None, r"\(evaluate.rerank: 4 before, 0 now\)"),
    "how many pictures": ("evaluate.images=6", None, r"\(evaluate.images: 1000 before, 6 now\)"),
    "validation data": (None, fewer_validation_samples,
                        r"\(data.validation: 12 samples \(\w+\) before, 11 samples \(\w+\) now\)"),
}  # fmt: skip


@pytest.mark.parametrize(("word", "change", "reason"), BEST.values(), ids=BEST)
def test_a_best_of_something_else_does_not_count(
    home: Path, word: str | None, change: Change | None, reason: str
) -> None:
    begin(home, "checkpoint.best=eval/r_mean")
    state = home / "run" / "checkpoints" / "step-00000005" / "state.json"
    document = json.loads(state.read_text())
    assert document["best_step"] == STEPS
    document["best_value"] = 1000.0  # nothing in per cent can beat it
    state.write_text(json.dumps(document))
    if change is not None:
        change(home)
    words = ["checkpoint.best=eval/r_mean", *([] if word is None else [word])]
    assert go_on(home, *words) == 0
    assert re.search(rf"changed: the best step so far, 5 with 1000.0, was judged otherwise {reason}", said(home))
    later = json.loads((home / "run" / "checkpoints" / "step-00000010" / "state.json").read_text())
    assert later["best_step"] == 2 * STEPS


def test_a_best_that_is_asked_for_no_longer(home: Path) -> None:
    begin(home, "checkpoint.best=eval/r_mean")
    assert go_on(home) == 0
    assert re.search(r"otherwise \(checkpoint.best: eval/r_mean before, null now\).*from now on by nothing", said(home))


def test_a_best_of_the_same_stays(home: Path) -> None:
    begin(home, "checkpoint.best=eval/r_mean")
    state = home / "run" / "checkpoints" / "step-00000005" / "state.json"
    document = json.loads(state.read_text()) | {"best_value": 1000.0}
    state.write_text(json.dumps(document))
    assert go_on(home, "checkpoint.best=eval/r_mean") == 0
    assert "the bundle holds step 5, the best by eval/r_mean" in said(home)


def test_other_validation_data_is_told(home: Path) -> None:
    begin(home)
    fewer_validation_samples(home)
    assert go_on(home) == 0
    assert re.search(r"changed: data.validation: 12 samples \(\w+\) before, 11 samples \(\w+\) now", said(home))
