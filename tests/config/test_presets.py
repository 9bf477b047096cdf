"""Presets are found by name, and a file of the person's comes first."""

import pytest

from vglm_train.config.load import load
from vglm_train.config.presets import describe_presets, find_config, presets
from vglm_train.errors import UserError
from vglm_train.shipped import shipped_folder
from vglm_train.train import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_no_two_presets_have_one_name():
    stems = [path.stem for path in shipped_folder("configs").rglob("*.yaml") if path.parent.name != "sweeps"]
    assert sorted(stems) == list(presets())


def test_a_preset_is_found_by_name():
    found = find_config("lavis_stage1")
    assert found.path.name == "lavis_stage1.yaml"
    assert found.note == f"lavis_stage1 is the preset {found.path}"


@pytest.mark.parametrize("file", ["lavis_stage1", "lavis_stage1.yaml"])
def test_a_file_comes_before_a_preset_of_that_name(tmp_path, file):
    (tmp_path / file).write_text("run: {name: own}\n")
    found = find_config("lavis_stage1")
    assert load(found.path).run.name == "own"
    assert found.note == f"lavis_stage1 is the file {file} here, not the preset {presets()['lavis_stage1']}"


def test_a_path_stays_a_path():
    assert find_config("runs/x.yaml").note is None


def test_a_preset_as_the_documentation_writes_it_is_found_in_any_folder(tmp_path):
    found = find_config("configs/photos.yaml")
    assert found.path == presets()["photos"]
    assert found.note == f"configs/photos.yaml is not in this folder; it is the preset {found.path}"
    assert find_config("configs/nothing.yaml").path.parts == ("configs", "nothing.yaml")
    with pytest.raises(UserError, match=r"configs/photo.yaml: no such file\. Did you mean the preset photos\?"):
        find_config("configs/photo.yaml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/photos.yaml").write_text("run: {name: own}\n")
    assert load(find_config("configs/photos.yaml").path).run.name == "own"


def test_a_name_of_nothing_lists_the_presets():
    with pytest.raises(UserError, match=r"lavis_stage: no file and no preset.* Did you mean lavis_stage1\?.* photos"):
        find_config("lavis_stage")


def test_every_preset_says_what_it_is():
    lines = list(describe_presets())
    assert len(lines) == len(presets())
    assert all(len(line.split()) > 2 for line in lines)


def test_a_preset_points_to_what_is_shipped_beside_it():
    config = load(presets()["lavis_stage2_opt"]).model.language
    assert config is not None
    assert config.config == str(presets()["photos"].parent / "language/opt-2.7b")


def test_train_lists_presets(capsys):
    assert main(["--list"]) == 0
    assert "lavis_stage1 " in capsys.readouterr().out


def test_train_says_which_was_taken(capsys):
    assert main(["lavis_stage1", "--check"]) == 0
    assert "lavis_stage1 is the preset " in capsys.readouterr().err
