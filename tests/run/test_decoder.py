"""Which decoder a run takes: turbo if it is new; what was begun with Pillow goes on with it, exactly and silently."""

import re
from pathlib import Path

import pytest
import yaml

from run import runs
from run.starts import STEPS, begin, go_on, said, second_start
from vglm_train.checkpoint.run_folder import RunFolder
from vglm_train.config.load import load

pytestmark = pytest.mark.usefixtures("alone")
PILLOW, TURBO = "data.image.decoder=pillow", "data.image.decoder=turbo"


def decoder(folder: Path) -> str | None:
    return load(folder / "config.yaml").data.image.decoder


def forget_decoder(folder: Path) -> None:
    """As versions wrote it that had no choice."""
    document = yaml.safe_load((folder / "config.yaml").read_text())
    assert document["data"]["image"].pop("decoder") == "pillow"
    (folder / "config.yaml").write_text(yaml.safe_dump(document))


def changes(home: Path) -> list[str]:
    return [line for line in said(home).splitlines() if "changed: " in line and "run.length" not in line]


@pytest.mark.parametrize("words", [(), (PILLOW,)], ids=["unsaid", "said"])
def test_an_older_run_goes_on_as_it_began(home: Path, words: tuple[str, ...]) -> None:
    begin(home, PILLOW)
    forget_decoder(home / "run")
    assert go_on(home, *words) == 0
    straight = home / "straight"
    runs.finish_here(home / "run.yaml", straight, f"run.length.steps={2 * STEPS}", PILLOW)
    assert runs.losses(home / "run")[-5:] == runs.losses(straight)[-5:]
    assert changes(home) == []
    assert decoder(home / "run") is decoder(home / "run" / "bundle") is None
    assert load(home / "run" / "bundle" / "config.yaml").data.image == load(home / "run" / "config.yaml").data.image


def test_a_new_run_takes_turbo_and_keeps_it(home: Path) -> None:
    begin(home)
    assert decoder(home / "run") == "turbo"
    assert go_on(home) == 0
    assert changes(home) == []
    assert decoder(home / "run" / "bundle") == "turbo"


@pytest.mark.parametrize(("first", "then"), [(PILLOW, TURBO), (TURBO, PILLOW)])
def test_a_run_does_not_change_its_decoder(home: Path, refused, first: str, then: str) -> None:
    begin(home, first)
    old, new = first.partition("=")[2], then.partition("=")[2]
    assert f"data.image.decoder: {old} there, {new} here" in refused(*second_start(home, then))


def test_older_features_are_used(home: Path) -> None:
    stored = f"data.features={{folder: {home / 'features'}}}"
    words = ("data.image.crop_scale=[1, 1]", "data.image.flip=false", stored)
    begin(home, *words, PILLOW)
    (before,) = (home / "features").iterdir()
    runs.finish_here(home / "run.yaml", home / "second", f"run.length.steps={STEPS}", *words)
    assert list((home / "features").iterdir()) == [before]
    assert decoder(home / "second") == "pillow"
    runs.finish_here(home / "run.yaml", home / "third", f"run.length.steps={STEPS}", *words, TURBO)
    assert len(list((home / "features").iterdir())) == 2, "of other pixels"
    assert re.search('"version": 2', (before / "store.json").read_text()), "what earlier versions called these pixels"


def test_a_folder_in_which_nothing_was_done_is_a_new_run(home: Path) -> None:
    config = load(home / "run.yaml")
    folder = RunFolder(load(home / "run.yaml", [f"run.folder={home / 'run'}"]))
    folder.path.mkdir()
    folder.config_file.write_text((home / "run.yaml").read_text())
    assert folder.settled(config).data.image.decoder == "turbo"
