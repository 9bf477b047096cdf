"""The model card: what is known stands in it, in both languages, and what is not known is said."""

import json
from pathlib import Path

import pytest
import yaml
from made_bundles import built
from run import runs

from vglm_train.checkpoint.__main__ import main
from vglm_train.config.load import load

ORIGIN = {"run": "tiny", "step": 7, "samples": 56, "sources": {"made": 1234}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    config = runs.write_run(folder / "data")
    document = yaml.safe_load(config.read_text("utf-8"))
    document["data"]["train"][0].update(name="made", licence="CC BY 4.0 | own")
    config.write_text(yaml.safe_dump(document), "utf-8")
    stage, model = built(config)
    stage.save(folder / "run" / "bundle", model, ORIGIN)
    return folder / "run" / "bundle"


@pytest.fixture
def card(bundle: Path, tmp_path: Path) -> str:
    assert main(["card", str(bundle), "--out", str(tmp_path)]) == 0
    return (tmp_path / "README.md").read_text("utf-8")


def test_the_header_is_what_the_hub_reads(card, bundle):
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "vglm_train"
    assert header["language"] == list(load(bundle / "config.yaml").data.languages)


def test_data_with_counts_and_licences(card):
    assert card.count("| 1,234 | CC BY 4.0 \\| own |") == 2, "in both languages"


def test_the_run_and_the_program(card):
    assert "run tiny, 7 steps, 56 samples" in card
    assert "运行 tiny，7 步，56 个样本" in card
    assert "vglm_train 0." in card


def test_towers(card):
    assert "| vision | `vision.safetensors` | eva, " in card
    assert "| in this bundle |" in card


def test_both_languages_have_the_same_parts(card):
    english, chinese = card.split("## 中文")
    assert english.count("### ") == chinese.count("### ") == 5
    assert english.count("\n| ") == chinese.count("\n| ")


def test_what_is_not_known_is_said(card):
    assert "No evaluation lies beside the bundle." in card
    assert "bundle 旁没有评测结果。" in card


def test_scores_stand_beside_their_baselines(bundle, tmp_path):
    retrieval = {
        "bundle": str(bundle),
        "data": "val",
        "scores": {"eval/en_i2t_r1": 50.0, "eval/en_shuffled_i2t_r1": 3.0, "eval/r_mean": 41.26},
        "chance": {"en_i2t_r1": 2.5},
    }
    answers = {"bundle": str(bundle), "data": "q", "scores": {"model": {"f1": 80.0}, "majority": {"f1": 30.0}}}
    part = {
        "bundle": str(bundle), "data": "q.json", "protocol": "vqav2", "version": 1, "fingerprint": "0123456789ab",
        "items": {"scored": 4, "official": 214354}, "scores": {"accuracy": 62.5},
    }  # fmt: skip
    answers["findings"] = {"says": {"en": ["Findings are keywords."], "zh": ["异常所见由关键词得出。"]}}
    other = {"bundle": "elsewhere", "data": "no", "scores": {"eval/r_mean": 99.0}}
    for name, content in {"retrieval": retrieval, "vqa": answers, "vqav2": part, "other": other, "facts": [1]}.items():
        (bundle.parent / f"{name}.json").write_text(json.dumps(content), "utf-8")
    assert main(["card", str(bundle), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "| `eval/en_i2t_r1` | 50 | 3 | 2.5 |" in text
    assert "| `eval/r_mean` | 41.26 |  |  |" in text
    assert "| `f1` | 80 | 30 |\n\nFindings are keywords.\n" in text
    assert "| `f1` | 80 | 30 |\n\n异常所见由关键词得出。\n" in text
    assert "`vqav2 1 (0123456789ab), 4 / 214,354` (`vqav2.json`)" in text
    assert "| `accuracy` | 62.5 |" in text
    assert "other.json" not in text
    for file in bundle.parent.glob("*.json"):
        file.unlink()


def test_it_lies_in_the_bundle_where_nothing_else_is_said(bundle):
    assert main(["card", str(bundle)]) == 0
    assert (bundle / "README.md").is_file()
    (bundle / "README.md").unlink()


def test_a_folder_that_is_no_bundle(tmp_path, capsys):
    assert main(["card", str(tmp_path)]) == 2
    assert "is not a bundle" in capsys.readouterr().err
