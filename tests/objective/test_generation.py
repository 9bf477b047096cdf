"""Stage two's loss: exact over uneven rows, small in memory, and nothing but what trains gets a gradient."""

import pytest
import torch
from tiny_language import CHATGLM, build, prompts

from vglm_train.batch import IGNORED
from vglm_train.objective.generation import GenerationObjective


def test_no_target_at_all_still_reaches_every_parameter():
    objective = GenerationObjective(build(CHATGLM))
    batch = prompts(3)
    batch.labels.fill_(IGNORED)
    output = objective(batch)
    assert output.sums["lm"].item() == 0 == objective.units(batch)["lm"].item()
    output.sums["lm"].backward()
    assert all(parameter.grad is not None for _, parameter in objective.model.trained_parameters())


def test_sum_over_rows_is_the_sum_of_each_row_alone():
    objective = GenerationObjective(build(CHATGLM)).eval()
    whole, rows = prompts(4), [prompts(1, first=row) for row in range(4)]
    together = objective(whole).sums["lm"]
    apart = sum(objective(row).sums["lm"] for row in rows)
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)
    assert objective.units(whole)["lm"] == sum(objective.units(row)["lm"] for row in rows)


@pytest.mark.parametrize("wrong", [5, 3])
def test_as_many_positions_as_the_image_has_tokens_in_every_row(wrong):
    """One row has too many, another too few; their sum alone would be right."""
    model, batch = build(CHATGLM), prompts(2)
    batch.visual_mask[0] = torch.arange(batch.visual_mask.shape[1]) < wrong
    batch.visual_mask[1] = torch.arange(batch.visual_mask.shape[1]) < 8 - wrong
    with pytest.raises(ValueError, match=rf"\[{wrong}, {8 - wrong}\] image positions for 2 images of 4 tokens each"):
        model.score(batch)


def test_padding_and_accuracy_are_measured():
    objective = GenerationObjective(build(CHATGLM))
    batch = prompts(4)
    measures = objective(batch).measures
    pads, places = measures["padding"]
    assert places == batch.input_ids.numel()
    assert int(pads) == int((~batch.attention_mask).sum()) > 0
    right, count = measures["lm_accuracy"]
    assert 0 <= int(right) <= count == int((batch.labels != IGNORED).sum())


def test_frozen_towers_get_no_gradient_and_stay_in_eval_mode():
    objective = GenerationObjective(build(CHATGLM)).train()
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    objective(prompts(2)).sums["lm"].backward()
    model = objective.model
    trained = {name for name, _ in model.trained_parameters()}
    assert {name.split(".")[0] for name in trained} == {"vision_norm", "qformer", "projection"}
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
    assert not any(module.training for tower in (model.vision, model.language) for module in tower.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
