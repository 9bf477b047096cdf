"""Several cards on a page: what is computed from measured rows, and what a sentence computes from the code."""

from pathlib import Path

import pytest
import torch

from benchmarks.finetune_cases import CASES, tuning_of
from docs import several
from docs.tables import read
from vglm_train.model.flops import generation_cost
from vglm_train.model.language.packed import number_of_weights
from vglm_train.model.tuning import apply_tuning
from vglm_train.model.visual_language import build_visual_language

ROOT = Path(__file__).resolve().parents[2]


def test_times_one_is_of_the_measured_rates() -> None:
    lines = {tuple(line[:2]): line for line in several.card_rows("en")}
    rates = {cards: read("four").row("scaling", f"align, {cards} cards").get("samples_per_s") for cards in (1, 4)}
    line = lines["stage one", "4"]
    assert line[3] == f"{rates[4] / rates[1]:.2f}"
    assert line[4] == f"{100 * rates[4] / rates[1] / 4:.0f} %"
    assert lines["stage two", "1"][3:5] == ["1.00", "100 %"]


def test_the_model_starts_from_the_card_that_was_measured() -> None:
    for stage in several.STAGES:
        one = several.one_card(stage)
        assert 1e3 * one.arithmetic(one.rows) == pytest.approx(several.measured(stage, 1, "ms"), rel=1e-3)
    for line in list(several.model_rows("en"))[1:]:
        parts = [float(cell) for cell in line[2:7]]
        assert sum(parts[:3]) == pytest.approx(parts[3], abs=0.16)
        assert line[7] == "" or float(line[7]) == pytest.approx(parts[4] - parts[3], abs=0.11)


def test_lora_with_recompute_beside_three_passes() -> None:
    """Every block of the language model has a gradient, and runs forward once more."""
    config, tuning = CASES["lora"].configure(False), tuning_of("lora", False)
    with torch.device("meta"):
        model = build_visual_language(config.model, config.data.image.mean, config.data.image.std)
        apply_tuning(model, tuning)
    tokens, targets = 320, 256
    work = generation_cost(config.model, model).of(
        0, {"visual": model.image_length, "sequence": tokens, "target": targets}
    )
    blocks = model.language.blocks()
    others = [p for block in blocks for p in block.parameters() if p.ndim != 2]
    again = 2 * tokens * (sum(map(number_of_weights, blocks)) - sum(p.numel() for p in others))
    ratio = read("four").row("finetune/lora", "with recompute").get("ratio") * work / (work + again)
    said = f"{(work + again) / 1e9:,.0f} GFLOP instead of {work / 1e9:,.0f}", f"takes {ratio:.2f} times"
    text = " ".join((ROOT / "docs/en/benchmarks.md").read_text("utf-8").split())
    assert [words for words in said if words not in text] == []
