"""The three losses together: damaged rows, equal images, weights, measures."""

import math
from dataclasses import replace

import pytest
import tiny
import torch

from vglm_train.config.run import Captioning, Contrastive, Matching, Objective
from vglm_train.distributed import Ranks
from vglm_train.objective.alignment import AlignmentObjective


def build(config: Objective | None = None, **changes) -> AlignmentObjective:
    model = tiny.alignment(**changes).train()
    return AlignmentObjective(model, config or Objective(), Ranks(), 42, dec_id=tiny.DEC)


def means(objective: AlignmentObjective, batch) -> dict[str, float]:
    units, output = objective.units(batch), objective(batch)
    return {name: (output.sums[name] / units[name]).item() for name in output.sums}


def gradients(objective: AlignmentObjective, batch) -> dict[str, torch.Tensor]:
    units, output = objective.units(batch), objective(batch)
    objective.zero_grad()
    sum(output.sums[name] / units[name] for name in output.sums).backward()
    return {name: p.grad for name, p in objective.model.trained_parameters() if p.grad is not None}


def damage(batch, row: int, **changes):
    """The row as the loader leaves it where a sample could not be read."""
    pixels, ids, mask, valid = (t.clone() for t in (batch.pixels, batch.text_ids, batch.text_mask, batch.valid))
    pixels[row], ids[row], mask[row], valid[row] = 0, tiny.PAD, False, False
    return replace(batch, pixels=pixels, text_ids=ids, text_mask=mask, valid=valid, **changes)


def test_starts_where_arithmetic_says():
    losses = means(build(), tiny.batch(0, 16))
    assert losses["itc"] == pytest.approx(math.log(16), rel=0.1)
    assert losses["itm"] == pytest.approx(math.log(2), rel=0.1)
    assert losses["itg"] == pytest.approx(math.log(tiny.VOCABULARY), rel=0.1)


def test_units():
    batch = damage(tiny.batch(0, 4), 1)
    units = build().units(batch)
    kept = torch.tensor([True, False, True, True])
    words = batch.text_mask[kept].sum() - 3  # all but [CLS]
    assert {name: value.item() for name, value in units.items()} == {"itc": 3, "itm": 9, "itg": words}


def test_a_damaged_row_is_as_if_absent_but_for_the_negatives_drawn():
    """With three rows left, of which two show one picture, each row has a negative that is certain."""
    ids = torch.tensor([5, 9, 6])
    small = replace(tiny.batch(0, 3), image_ids=ids)
    small = replace(small, **{name: getattr(small, name)[[0, 2]] for name in ("pixels", "text_ids", "text_mask")},
                    image_ids=ids[[0, 2]], valid=torch.ones(2, dtype=torch.bool))  # fmt: skip
    whole = damage(replace(tiny.batch(0, 3), image_ids=ids), 1)
    objective = build()
    assert means(objective, whole) == pytest.approx(means(objective, small), rel=1e-5)
    first, second = gradients(objective, whole), gradients(objective, small)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-6), name


def test_what_stands_in_a_damaged_row_does_not_matter():
    objective = build()
    batch = damage(tiny.batch(0, 6), 2)
    noisy = replace(batch, pixels=batch.pixels.clone(), image_ids=batch.image_ids.clone())
    noisy.pixels[2] = 200
    noisy.image_ids[2] = noisy.image_ids[0]
    assert means(objective, batch) == means(objective, noisy)


def test_a_batch_damaged_from_end_to_end_has_zero_sums_and_gradients():
    batch = tiny.batch(0, 4)
    for row in range(4):
        batch = damage(batch, row)
    objective = build()
    output = objective(batch)
    assert {name: value.item() for name, value in output.sums.items()} == {"itc": 0, "itm": 0, "itg": 0}
    sum(output.sums.values()).backward()
    for name, parameter in objective.model.trained_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name


def test_rows_without_a_possible_negative_are_left_out_and_counted():
    objective = build()
    batch = replace(tiny.batch(0, 4), image_ids=torch.tensor([1, 1, 1, 1]))
    output, units = objective(batch), objective.units(batch)
    assert units["itm"] == 0
    assert output.sums["itm"] == 0
    assert [value.item() for value in output.measures["itm_left_out"]] == [4, 4]
    two = replace(batch, image_ids=torch.tensor([1, 1, 1, 2]))  # every row has one now
    assert objective.units(two)["itm"] == 12
    assert [value.item() for value in objective(two).measures["itm_left_out"]] == [0, 4]
    lonely = damage(two, 3)  # and again none: the damaged row is no candidate
    assert objective.units(lonely)["itm"] == 0


def test_a_negative_never_shows_the_same_picture(monkeypatch):
    objective = build()
    batch = replace(tiny.batch(0, 12), image_ids=torch.arange(12) // 3)
    sampled = []
    sample = AlignmentObjective._hard_negatives
    monkeypatch.setattr(AlignmentObjective, "_hard_negatives", lambda *a: sampled.append(sample(*a)) or sampled[-1])
    for first_row in range(0, 120, 12):
        objective(replace(batch, first_row=first_row))
    for text, image in sampled:
        assert not (batch.image_ids[text] == batch.image_ids).any()
        assert not (batch.image_ids[image] == batch.image_ids).any()
    assert len({tuple(text.tolist()) for text, _ in sampled}) > 5, "the position in the stream keys the sample"


def test_a_loss_of_weight_zero_is_not_computed():
    off = {"itc": Contrastive(weight=0), "itm": Matching(weight=0), "itg": Captioning(weight=0)}
    batch, whole = tiny.batch(0, 6), means(build(), tiny.batch(0, 6))
    for name, section in off.items():
        objective = build(replace(Objective(), **{name: section}))
        found = means(objective, batch)
        assert name not in found
        assert name not in objective.units(batch)
        assert name not in objective.weights
        assert found == pytest.approx({key: value for key, value in whole.items() if key != name}, rel=1e-5)


def test_measures():
    objective = build()
    measures = objective(tiny.batch(0, 6)).measures
    counts = {name: count.item() for name, (_, count) in measures.items()}
    assert counts == {"itc_accuracy": 12, "itm_accuracy": 18, "itm_left_out": 6}
    for name, (total, count) in measures.items():
        assert 0 <= total <= count, name
        assert not total.requires_grad


def test_same_step_same_losses_other_seed_other_negatives():
    model, batch = tiny.alignment(), tiny.batch(0, 12)

    def itm(seed: int) -> float:
        objective = AlignmentObjective(model, Objective(), Ranks(), seed, dec_id=tiny.DEC)
        return objective(batch).sums["itm"].item()

    assert itm(1) == itm(1)
    assert len({itm(seed) for seed in range(5)}) > 1


def test_under_autocast_losses_are_fp32_and_near():
    objective, batch = build(), tiny.batch(0, 8)
    exact = means(objective, batch)
    with torch.autocast("cpu", torch.bfloat16):
        output = objective(batch)
    assert {value.dtype for value in output.sums.values()} == {torch.float32}
    units = objective.units(batch)
    assert output.sums["itg"].item() / units["itg"].item() == pytest.approx(exact["itg"], rel=1e-2)
    assert output.sums["itc"].item() / units["itc"].item() == pytest.approx(exact["itc"], rel=5e-2)


def test_frozen_after_training_mode():
    objective = build()
    before = {name: value.clone() for name, value in objective.model.vision.state_dict().items()}
    gradients(objective.train(), tiny.batch(0, 4))
    assert not any(module.training for module in objective.model.vision.modules())
    assert all(torch.equal(value, before[name]) for name, value in objective.model.vision.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.model.vision.parameters())
