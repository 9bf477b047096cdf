"""Whole runs that read stored features instead of pictures: the same losses, and the encoder runs once a picture."""

from pathlib import Path

import pytest

from run import runs
from train import main
from vglm_train import stages
from vglm_train.config.load import load
from vglm_train.model.flops import vision_flops

WHOLE = ("data.image.crop_scale=[1, 1]", "data.image.flip=false")
SHORT = (
    "run.length={steps: 8}", "checkpoint.every=8", "data.validation=[]", "evaluate.every=null",
    "model.qformer.dropout=0", "optim.eps=1e-4",  # by 1e-8, what rounding leaves of a zero gradient is a whole step
)  # fmt: skip
NOISE = 1e-4  # relative: the encoder's sums in batches of another size, and two ranks' sums, through eight updates


def same_losses(one: Path, other: Path) -> None:
    first, second = ([(step, name) for step, name, _ in runs.losses(folder)] for folder in (one, other))
    assert first == second
    assert any(name == "train/loss" for _, name in first)
    for (step, name, a), (_, _, b) in zip(runs.losses(one), runs.losses(other)):
        assert b == pytest.approx(a, rel=NOISE, abs=1e-4), (step, name)


def test_stage_one_on_two_ranks(config: Path, tmp_path: Path) -> None:
    plain, cached = tmp_path / "plain", tmp_path / "cached"
    stored = f"data.features={{folder: {tmp_path / 'features'}}}"
    runs.finish_here(config, plain, *WHOLE, *SHORT)
    said = runs.finish(runs.start(runs.command(config, cached, 2, *WHOLE, *SHORT, stored)))
    same_losses(plain, cached)
    assert "0 rows of 100 pictures are stored" in said
    assert len(list((tmp_path / "features").glob("*/part-*.rows"))) == 2, "each rank encoded its share, once"


def test_what_check_says(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = f"data.features={{folder: {tmp_path / 'features'}, limit_gib: 3}}"
    said = []
    for overrides in (WHOLE, (*WHOLE, stored)):
        assert main([str(config), *overrides, "--check"]) == 0
        said.append(capsys.readouterr().out)
    place = tmp_path / "features"
    assert f"features: up to 46.9 KiB of 100 pictures x 1 views in {place}, whose limit is 3 GiB" in said[1]
    assert not (tmp_path / "features").exists()


def test_the_encoder_is_not_counted(config: Path, tmp_path: Path) -> None:
    plain, stored = (load(config, (*WHOLE, *more)) for more in ((), (f"data.features={{folder: {tmp_path}}}",)))
    costs = [stages.build(each).cost(None).per_sample for each in (plain, stored)]
    assert costs[0] - costs[1] == pytest.approx(vision_flops(plain.model.vision))


@pytest.mark.usefixtures("alone")
def test_stage_two(speaking_config: dict[str, Path], tmp_path: Path) -> None:
    common = (str(speaking_config["causal"]), *WHOLE, *SHORT, "data.workers=0")
    plain, cached = tmp_path / "plain", tmp_path / "cached"
    assert main([*common, f"run.folder={plain}"]) == 0
    assert main([*common, f"run.folder={cached}", f"data.features={{folder: {tmp_path / 'features'}}}"]) == 0
    same_losses(plain, cached)
