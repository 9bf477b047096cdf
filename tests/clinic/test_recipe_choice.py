"""The recipe fits the base and the card; where none does, it says what each would need."""

import json
from pathlib import Path
from typing import Any

import pytest
from shipped import BASES, CONFIGS, write_description

from vglm_train.clinic.recipe import GIB, Found, Machine, Recipe, choose, look, main
from vglm_train.errors import UserError

REPORTS = Found(("en", "zh"), ("report",), 2)
WITHOUT = ("model.language.tokenizer=nowhere",)  # descriptions hold no tokenizer


def card(gib: float) -> Machine:
    return Machine("a card", int(gib * GIB), True)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name; of each what is read before its weights."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, recipe in BASES.items():
        write_description(folder / Path(name).name, CONFIGS / recipe)
    return {Path(name).name: folder / Path(name).name for name in BASES}


@pytest.mark.parametrize(
    ("bundle", "gib", "preset"),
    [
        ("visualglm", 80, "xray_report_chatglm_lora"),
        ("visualglm", 14, "xray_report_chatglm_qlora"),
        ("blip2-opt-2.7b", 24, "xray_report_opt"),
        ("blip2-flan-t5-xl", 24, "xray_report_flan_t5"),
        ("bundle", 4, "xray_report_small"),
    ],
)
def test_what_fits_is_chosen(bundle: str, gib: float, preset: str, bundles: dict[str, Path]) -> None:
    found = choose(REPORTS, bundles[bundle], None, card(gib), WITHOUT)
    assert found.preset == preset
    assert "prompt.max_images=2" in found.overrides
    assert found.tasks == ("report",)
    assert f"of {gib:.1f} of a card" in found.reason
    assert found.checkpoint > 0


def test_fewer_rows_at_once_where_they_do_not_fit(bundles: dict[str, Path]) -> None:
    chosen = {gib: choose(REPORTS, bundles["blip2-opt-2.7b"], None, card(gib), WITHOUT) for gib in (80, 11.7)}
    assert not any("micro_batch" in each for each in chosen[80].overrides)
    assert any("engine.micro_batch=" in each for each in chosen[11.7].overrides)


def test_questions_take_the_recipe_for_questions(bundles: dict[str, Path]) -> None:
    found = choose(Found(("en",), ("report", "vqa"), 1), bundles["visualglm"], None, card(80), WITHOUT)
    assert (found.preset, found.tasks) == ("xray_vqa_chatglm_lora", ("report", "vqa"))
    assert "data.languages=[en]" in found.overrides


def test_none_fits(bundles: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"no recipe fits 4\.0 GiB of a card: xray_report_chatglm_lora .*qlora"):
        choose(REPORTS, bundles["visualglm"], None, card(4), WITHOUT)
    named = choose(REPORTS, bundles["visualglm"], "xray_report_chatglm_ptuning", card(4), WITHOUT)
    assert named.preset == "xray_report_chatglm_ptuning"
    assert "as asked for" in named.reason


def test_reports_in_another_language(bundles: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="xray_report_opt is for en, and the reports are in other languages"):
        choose(Found(("zh",), ("report",), 1), bundles["blip2-opt-2.7b"], None, card(80), WITHOUT)


def test_what_records_hold(tmp_path: Path) -> None:
    turns = [{"role": "user", "text": "A lung?"}, {"role": "assistant", "text": "yes"}]
    rows: list[dict[str, Any]] = [
        {"id": "a", "image": ["a.png", "b.png"], "captions": {"zh": ["肺"]}},
        {"id": "b", "image": "c.png", "captions": {}, "turns": turns, "language": "en"},
    ]
    for side in ("train", "test"):
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert look(tmp_path) == Found(("en", "zh"), ("report", "vqa"), 2)
    with pytest.raises(UserError, match="vglm data split makes it"):
        look(tmp_path / "nowhere")


def test_the_command_alone(bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in ("train", "test"):
        record = {"id": "a", "image": "a.png", "captions": {"en": ["a lung"]}}
        (tmp_path / f"{side}.jsonl").write_text(json.dumps(record) + "\n", "utf-8")
    out = tmp_path / "recipe.json"
    assert main([str(tmp_path), "--base", str(bundles["bundle"]), "--out", str(out), *WITHOUT]) == 0
    assert Recipe.read(out).preset == "xray_report_small"
    assert Recipe.read(out).reason in capsys.readouterr().out
    out.write_text("{}")
    with pytest.raises(UserError, match="is no recipe; delete it"):
        Recipe.read(out)
