"""Verdicts on runs of which it is known what they are: they say no more than the numbers show."""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from report.both import same_numbers

from vglm_train.log.jsonl import Row, to_line
from vglm_train.log.run_info import RunInfo
from vglm_train.report.runs import read_runs
from vglm_train.report.verdict import assess_run

STEPS, N, VOCABULARY = 2000, 64, 30523
EVEN = {"itc": math.log(N), "itm": math.log(2), "itg": math.log(VOCABULARY)}
GUESSED = {"itc": 1 / N, "itm": 2 / 3}
Loss = Callable[[int], float]


def fall(start: float, end: float, time: float = 300) -> Loss:
    return lambda step: end + (start - end) * math.exp(-step / time)


def always(value: float) -> Loss:
    return lambda step: value


LEARNS = {"itc": fall(EVEN["itc"], 1.0), "itm": fall(0.69, 0.3), "itg": fall(EVEN["itg"], 2.5)}
RIGHT = {"itc": fall(1 / N, 0.8), "itm": fall(2 / 3, 0.9)}
BLIND = {**LEARNS, "itc": always(EVEN["itc"]), "itm": always(0.629)}


def training(losses: dict[str, Loss], right: dict[str, Loss], steps: int, every: int, noise: float) -> Iterator[Row]:
    rng = random.Random(1)
    for step in range(every, steps + 1, every):
        found = {name: loss(step) + rng.gauss(0, noise * EVEN.get(name, 3.0)) for name, loss in losses.items()}
        row = {f"train/loss_{name}": value for name, value in found.items()}
        row |= {f"train/{name}_accuracy": share(step) + rng.gauss(0, noise / 2) for name, share in right.items()}
        yield {"step": float(step), "train/loss": sum(found.values()), **row}


def retrieval(step: int, recall: float, itm: float, languages=("en",), images: float = 1000) -> Row:
    """An evaluation; shuffled ones are at chance."""
    row = {"step": float(step), "eval/r_mean": recall}
    for name in languages:
        scores = {"i2t_r1": recall, "t2i_r1": recall, "itm_accuracy": itm, "images": images}
        scores |= {"shuffled_i2t_r1": 100 / images, "shuffled_t2i_r1": 100 / images, "shuffled_itm_accuracy": 50.0}
        row |= {f"eval/{name}_{metric}": value for metric, value in scores.items()}
    return row


def verdict(
    folder: Path,
    losses: dict[str, Loss] = LEARNS,
    right: dict[str, Loss] = RIGHT,
    evaluations: tuple[Row, ...] = (),
    steps: int = STEPS,
    every: int = 10,
    noise: float = 0.01,
    extra: tuple[Row, ...] = (),
    **facts,
) -> dict[str, str]:
    """kind -> its lines."""
    info = {"weights": dict.fromkeys(losses, 1.0), "candidates": N, "total_steps": STEPS, "warmup_steps": 100, **facts}
    RunInfo(name="a", epoch_samples=12_800, global_batch=64, vocabulary=VOCABULARY, **info).write(folder)
    rows = [*training(losses, right, steps, every, noise), *evaluations]
    rows = [*sorted(rows, key=lambda row: row["step"]), *extra]
    lines = [to_line(int(row["step"]), {name: value for name, value in row.items() if name != "step"}) for row in rows]
    (folder / "metrics.jsonl").write_text("".join(lines))
    found: dict[str, str] = {"ok": "", "warn": "", "fact": ""}
    for line in same_numbers(assess_run(read_runs([folder])[0])):
        found[line.kind] += line.text.en + "\n"
    return found


def test_a_run_that_learns(tmp_path: Path) -> None:
    said = verdict(tmp_path, evaluations=(retrieval(1000, 30.0, 85.0), retrieval(2000, 40.0, 88.0)))
    assert said["warn"] == ""
    for name, words in (
        ("ITC", "learning. Held-out, step 2000: recall at 1 en 40.0 % (chance 0.1, give or take 0.2)."),
        ("ITM", "learning. Held-out, step 2000: ITM accuracy en 88.0 % (chance 50.0, give or take 2.2)."),
        ("ITG", "learning."),
    ):
        (line,) = [line for line in said["ok"].splitlines() if line.startswith(name)]
        assert line.endswith(words)


def test_itm_a_hair_below_the_blind_value_is_not_learning(tmp_path: Path) -> None:
    """0.629 is certainly below 0.637, but as many answers are right as by always saying no."""
    right = {"itc": always(1 / N), "itm": always(2 / 3)}
    said = verdict(tmp_path, BLIND, right, (retrieval(2000, 0.1, 50.0),), noise=0.001)
    assert "ITM" not in said["ok"]
    assert "ITM 0.629 ± 0.000 (67% right)" in said["fact"]
    assert (
        "the run has ended without learning it: as many answers are right as by a guess, 67%. Held-out, step 2000: "
        "ITM accuracy en 50.0 %" in said["fact"]
    )
    assert "(2% right); an even guess costs ln(candidates) = 4.159: the run has ended without" in said["fact"]
    assert "yet" not in said["fact"]
    said = verdict(tmp_path, BLIND, right, steps=1500, noise=0.001)
    assert "an even guess costs ln(candidates) = 4.159: not learning yet." in said["fact"]
    assert "ITC" not in said["ok"].replace("ln(candidates)", "")


def test_a_loss_that_has_just_begun_to_fall(tmp_path: Path) -> None:
    """The mean of its last rows is not yet certainly below 0.637: its own fall is their noise."""
    itm = [0.681, 0.645, 0.641, 0.638, 0.636, 0.637, 0.637, 0.635, 0.628, 0.603, 0.574, 0.443]
    losses = {**LEARNS, "itm": lambda step: itm[step // 20 - 1]}
    right = {**RIGHT, "itm": lambda step: 0.77 if step == 240 else 2 / 3}
    said = verdict(tmp_path, losses, right, steps=240, every=20, noise=0)
    assert "the share of matches alone 0.637: has begun to learn, step 240: 0.443 (77% right)." in said["fact"]
    still = verdict(tmp_path, losses, {**RIGHT, "itm": always(2 / 3)}, steps=240, every=20, noise=0)
    assert "the share of matches alone 0.637: not learning yet" in still["fact"]


def test_a_run_that_has_become_slow(tmp_path: Path) -> None:
    rates = [{"perf/samples_per_second": 118.0 if n < 20 else 6.0, "perf/data_wait_fraction": 0.02} for n in range(30)]
    said = verdict(tmp_path, extra=tuple({"step": 2000.0 + n, **row} for n, row in enumerate(rates)))
    assert (
        "Slower by a factor of 19.7 than up to step 2019 (118, now 6 samples/s), not for want of data" in said["fact"]
    )


@pytest.mark.parametrize("accuracies", [{}, {"itm": always(2 / 3)}])
def test_noise_is_not_learning(tmp_path: Path, accuracies: dict[str, Loss]) -> None:
    """A blind run whose last rows happen to be below: the noise of the rows is as large as that."""
    blind = {"itc": always(EVEN["itc"]), "itm": always(0.637), "itg": always(EVEN["itg"])}
    for steps in range(100, 1000, 60):
        said = verdict(tmp_path, blind, accuracies, steps=steps, noise=0.05)
        assert "learning." not in said["ok"]
        assert "certainly" not in said["warn"]
        assert "has risen" not in said["warn"]


def test_learned_by_heart(tmp_path: Path) -> None:
    said = verdict(tmp_path, evaluations=(retrieval(2000, 0.12, 51.0),))
    assert said["warn"].count("learned of the training data alone") == 2
    assert "recall at 1 en 0.1 % (chance 0.1, give or take 0.2). That is what chance gives." in said["warn"]
    assert "ITG" in said["ok"]


def test_an_early_evaluation_proves_nothing_against_it(tmp_path: Path) -> None:
    said = verdict(tmp_path, evaluations=(retrieval(500, 0.1, 50.0),))
    assert "training data alone" not in said["warn"]
    assert "ITM" in said["ok"]


def test_few_pictures_prove_little(tmp_path: Path) -> None:
    said = verdict(tmp_path, evaluations=(retrieval(2000, 100 / 6, 62.0, images=12),))
    assert said["warn"].count("That is what chance gives.") == 2, "62 % of 24 decisions is within the noise"
    said = verdict(tmp_path, evaluations=(retrieval(2000, 5.0, 62.0, images=200),))
    assert said["warn"] == ""


def test_a_short_run(tmp_path: Path) -> None:
    said = verdict(tmp_path, steps=20, total_steps=20, warmup_steps=5)
    assert said["fact"].count("too few rows to tell") == 3
    assert "learning." not in said["ok"]


def test_warm_up_is_named(tmp_path: Path) -> None:
    assert "not complete, still in warm-up." in verdict(tmp_path, steps=100)["fact"]


def test_a_run_that_broke_off_with_nan(tmp_path: Path) -> None:
    nothing = [{"step": 2000.0 + 10 * n, "train/lr": 1e-4, "train/steps_not_finite": 10.0 * n} for n in range(1, 6)]
    said = verdict(tmp_path, extra=tuple(nothing))
    assert "No loss is finite since step 2000: 5 rows. What stands above is of before." in said["warn"]
    assert "50 steps were skipped" in said["warn"]
    never = tuple({"step": 10.0 * n, "train/loss": math.nan, "train/loss_itm": math.nan} for n in range(1, 6))
    (tmp_path / "never").mkdir()
    said = verdict(tmp_path / "never", steps=0, extra=never)
    assert "No loss is finite since step 0: 5 rows." in said["warn"]
    assert said["ok"] == ""


def test_a_run_that_diverged(tmp_path: Path) -> None:
    def diverges(step: int) -> float:
        return LEARNS["itc"](step) if step < 1200 else 5.0

    said = verdict(tmp_path, {**LEARNS, "itc": diverges}, {"itm": RIGHT["itm"], "itc": always(1 / N)})
    assert "ITC was 1.0" in said["warn"]
    assert "about step 1100 and has risen to 5.0" in said["warn"]
    assert "ITM" not in said["warn"]
    assert "ITC 5.0" in said["warn"]
    assert "(2% right); an even guess costs ln(candidates) = 4.159: worse than an even guess." in said["warn"]


def test_a_run_that_was_overfitted(tmp_path: Path) -> None:
    scores = [(500, 20.0), (1000, 40.0), (1500, 35.0), (2000, 30.0)]
    said = verdict(tmp_path, evaluations=tuple(retrieval(step, value, 80.0) for step, value in scores), noise=0.002)
    assert (
        "Held-out r_mean was 40 at step 1000, and is 30 now, while the training loss fell: overfitting." in said["warn"]
    )
    within = verdict(tmp_path, evaluations=tuple(retrieval(s, v / 40 + 39, 80.0) for s, v in scores), noise=0.002)
    assert "overfitting" not in within["warn"], "a quarter of a per cent of a thousand pictures"


def test_an_evaluation_that_is_broken(tmp_path: Path) -> None:
    row = retrieval(2000, 40.0, 88.0) | {"eval/en_shuffled_t2i_r1": 30.0, "eval/en_shuffled_itm_accuracy": 70.0}
    said = verdict(tmp_path, evaluations=(row,))
    assert "with the images exchanged 15.1 % are right, by chance 0.1: captions fit several pictures" in said["warn"]
    assert "with the images exchanged 70.0 % are right, by chance 50.0" in said["warn"]


def test_a_resumed_run(tmp_path: Path) -> None:
    """Rows of both starts follow each other; an evaluation and a checkpoint share a step."""
    said = verdict(tmp_path, evaluations=(retrieval(1000, 30.0, 85.0), retrieval(1000, 30.0, 85.0)), steps=1500)
    assert said["warn"] == ""
    assert "Step 1500 of 2000 (75%)" in said["fact"]


def test_one_language_of_two_is_blind(tmp_path: Path) -> None:
    row = retrieval(2000, 40.0, 88.0, ("en",)) | retrieval(2000, 0.1, 50.0, ("zh",))
    (line,) = [line for line in verdict(tmp_path, evaluations=(row,))["ok"].splitlines() if line.startswith("ITM")]
    assert "en 88.0 % (chance 50.0, give or take 2.2), zh 50.0 %" in line


def test_without_itm(tmp_path: Path) -> None:
    losses, right = {name: LEARNS[name] for name in ("itc", "itg")}, {"itc": RIGHT["itc"]}
    row = retrieval(2000, 40.0, 50.0)
    said = verdict(tmp_path, losses, right, (row,), weights={"itc": 1.0, "itm": 0.0, "itg": 1.0})
    everything = "".join(said.values())
    assert "ITM" not in everything
    assert said["warn"] == ""
    assert "ITC" in said["ok"]


def test_one_candidate(tmp_path: Path) -> None:
    losses = {"itc": always(0.0), "itg": LEARNS["itg"]}
    said = verdict(tmp_path, losses, {}, candidates=1, weights={"itc": 1.0, "itm": 1.0, "itg": 1.0})
    assert "ITC has one candidate a step, so nothing to choose from: raise engine.micro_batch." in said["warn"]
    assert verdict(tmp_path, {"itc": always(0.0)}, {}, candidates=1)["ok"] == "", "no start to compare with either"


def captions(step: int, loss: float, gap: float | None = 0.2, **scores: float) -> Row:
    row = {"loss": loss, "shuffled_loss": loss + (gap or 0), "images": 100.0, **scores}
    row |= {} if gap is None else {"loss_gap": gap, "loss_gap_low": gap - 0.1, "loss_gap_high": gap + 0.1}
    return {"step": float(step), **{f"eval/en_{name}": value for name, value in row.items()}}


def test_stage_two(tmp_path: Path) -> None:
    rows = captions(1000, 2.6), captions(2000, 2.5)
    said = verdict(tmp_path, {"lm": fall(5.0, 2.5)}, {"lm": always(0.5)}, rows)
    assert said["warn"] == ""
    assert "now, 50% of the tokens predicted: learning." in said["ok"]
    assert "the model uses its image" in said["ok"]
    flat = verdict(tmp_path, {"lm": always(3.0)}, {}, (captions(2000, 3.0, 0.0),))
    assert "not told apart from its first rows" in flat["fact"]
    assert "could be a model that does not use its image" in flat["fact"]
    assert "learning." not in flat["ok"]
    short = verdict(tmp_path, {"lm": fall(5.0, 2.5)}, {}, steps=40)
    assert "4 rows are too few to tell" in short["fact"]
    few = verdict(tmp_path, {"lm": fall(5.0, 2.5)}, {}, ({"step": 2000.0, "eval/en_loss_gap": 0.3},))
    assert "+0.300 nats a token, of too few pictures to tell" in few["fact"]
    over = verdict(tmp_path, {"lm": fall(5.0, 1.0)}, {}, tuple(captions(s, v) for s, v in ((500, 2.5), (2000, 2.9))))
    assert (
        "Held-out en_loss was 2.5 at step 500, and is 2.9 now, while the training loss fell: overfitting"
        in over["warn"]
    )


@pytest.mark.parametrize(
    ("accuracy", "shuffled", "questions", "kind", "words"),
    [
        (70.0, 50.0, 400, "ok", "vqa: accuracy 70.0 %, shown another picture 50.0 %: above it."),
        (70.0, 50.0, 20, "fact", "50.0 %: not told apart, give or take 30.3."),
        (40.0, 60.0, 400, "fact", "60.0 %: below it."),
    ],
)
def test_fine_tuning(tmp_path: Path, accuracy: float, shuffled: float, questions: int, kind: str, words: str) -> None:
    row = {"accuracy": accuracy, "shuffled_accuracy": shuffled, "majority_accuracy": 10.0, "questions": questions}
    evaluation = {"step": 2000.0, **{f"eval/vqa_{name}": float(value) for name, value in row.items()}}
    said = verdict(tmp_path, {"lm": fall(5.0, 2.5)}, {}, (evaluation,))
    assert words in said[kind]
    assert "No evaluation shows yet" not in said["fact"]
    assert "always giving the commonest answer 10.0 %: above it" in said["ok"]


def test_an_evaluation_of_before_it_was_learned_proves_nothing(tmp_path: Path) -> None:
    """ITM learns late: what was held out at step 1050 had to be at chance."""
    late = {**LEARNS, "itm": lambda step: 0.637 if step < 1100 else 0.3}
    right = {**RIGHT, "itm": lambda step: 2 / 3 if step < 1100 else 0.9}
    said = verdict(tmp_path, late, right, (retrieval(1050, 40.0, 50.0),), steps=1800)
    assert "training data alone" not in said["warn"]
    (line,) = [line for line in said["ok"].splitlines() if line.startswith("ITM")]
    assert line.endswith("learning.")
