"""The real DeepSpeed on the CPU, one process; two processes are in test_generation_ranks.py and tests/objective."""

from dataclasses import replace

import pytest
import tiny
import torch
from deepspeed.accelerator import get_accelerator

from vglm_train import distributed
from vglm_train.config.run import Captioning, Contrastive, Engine, Matching, Objective, Optim
from vglm_train.distributed import Ranks
from vglm_train.engine import deepspeed_engine
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.engine.optim import parameter_groups
from vglm_train.objective.alignment import AlignmentObjective


@pytest.fixture(scope="module")
def ranks():
    return distributed.start("gloo")


def build(ranks, accumulation=1, model_seed=0, **sections):
    config = tiny.config(**sections)
    objective = AlignmentObjective(tiny.alignment(model_seed), config.objective, ranks, 42, dec_id=tiny.DEC)
    engine = DeepSpeedEngine(objective, config, accumulation, ranks)
    return objective.train(), engine


def step(objective, engine, batches, lr=1e-3, meanwhile=None):
    def scales():
        units = [objective.units(batch) for batch in batches]
        scale = {name: objective.weights[name] / sum(u[name] for u in units) for name in units[0]}
        return [scale] * len(batches)

    return engine.step(batches, scales, lr, meanwhile)


def test_units_are_counted_once_while_the_first_forward_runs(ranks):
    objective, engine = build(ranks, accumulation=2)
    done, units = [], objective.units
    objective.units = lambda batch: done.append("units") or units(batch)
    objective.register_forward_hook(lambda *_: done.append("forward"))
    step(objective, engine, [tiny.batch(0, 4), tiny.batch(4, 4)])
    assert done == ["forward", "units", "units", "forward"]


def test_rows_that_are_compared_over_micro_batches_are_counted_in_their_group(ranks):
    """Behind the first forward as before it, and nothing is kept."""
    objective, engine = build(ranks, accumulation=4, objective=Objective(itc=Contrastive(batch=8)))
    batches = [tiny.batch(2 * number, 2) for number in range(4)]
    batches[0] = replace(batches[0], image_ids=torch.tensor([1, 1]))  # alone it would have no negative
    objective.prepare(batches)
    before = [objective.units(batch) for batch in batches]
    assert before[0]["itm"] == 6
    found, units = [], objective.units
    objective.units = lambda batch: found.append(units(batch)) or found[-1]
    objective.prepare(batches)
    step(objective, engine, batches)
    assert found == before
    assert not objective._gathered
    assert not objective._groups


def test_deepspeed_times_nothing_for_which_it_would_wait_for_the_device(ranks, monkeypatch):
    objective, engine = build(ranks)
    waits = []
    monkeypatch.setattr(type(get_accelerator()), "synchronize", lambda *_: waits.append(1))
    for number in range(4):  # its timer begins with the third
        step(objective, engine, [tiny.batch(8 * number, 8)])
    assert not waits


class Counting(Ranks):
    """Counts the gathers without gradient: those of the rows' ids."""

    gathers = 0

    def gather(self, tensor):
        Counting.gathers += not tensor.is_floating_point()
        return super().gather(tensor)


def test_ids_are_gathered_once_a_micro_batch(ranks):
    config = tiny.config()
    own = Counting(ranks.rank, ranks.world, ranks.device)
    objective = AlignmentObjective(tiny.alignment(0), config.objective, own, 42, dec_id=tiny.DEC)
    engine = DeepSpeedEngine(objective, config, 2, ranks)
    for number in range(2):
        batches = [tiny.batch(8 * number, 4), tiny.batch(8 * number + 4, 4)]
        step(objective.train(), engine, batches)
        assert Counting.gathers == 2 * (number + 1)
    assert not objective._gathered
    batch = tiny.batch(0, 8)
    kept = objective.units(batch), objective(batch).sums
    anew = objective(batch).sums  # without its units
    assert all(torch.equal(kept[1][name], anew[name]) for name in anew)


@pytest.mark.parametrize("patched", [True, False])
def test_something_is_done_once_a_step_when_all_is_launched(ranks, monkeypatch, patched):
    """As reading the next batch: in a step of two micro-batches, and in one whose gradients are not finite."""
    monkeypatch.setattr(deepspeed_engine, "PATCH_ZERO_OPTIMIZER", patched)
    objective, engine = build(ranks, accumulation=2)
    done = []
    for lr in (1e-3, float("inf"), 1e-3):
        step(objective, engine, [tiny.batch(0, 4), tiny.batch(4, 4)], lr, lambda: done.append(True))
    step(objective, engine, [tiny.batch(0, 4), tiny.batch(4, 4)])
    assert len(done) == 3


def weights(engine):
    return {name: tensor.clone() for name, tensor in engine.state()}


def test_only_what_trains_is_in_the_state(ranks):
    objective, engine = build(ranks)
    names = {name.removeprefix("weight/") for name in weights(engine) if name.startswith("weight/")}
    assert names == {name for name, p in objective.named_parameters() if p.requires_grad}
    assert not any(name.startswith("model.vision.") for name in names)
    assert "model.vision_norm.weight" in names


def test_steps_change_every_trained_weight_and_no_frozen_one(ranks):
    objective, engine = build(ranks)
    frozen = {n: p.clone() for n, p in objective.named_parameters() if not p.requires_grad}
    before = weights(engine)
    for number in range(2):
        _, update = step(objective, engine, [tiny.batch(8 * number, 8)])
        assert update.applied
        assert update.grad_norm > 0
    after = weights(engine)
    still = [n for n in before if n.startswith("weight/") and torch.equal(before[n], after[n])]
    assert not still
    assert all(torch.equal(p, frozen[n]) for n, p in objective.named_parameters() if n in frozen)
    assert float(after["adam_step"]) == 2


@pytest.mark.parametrize("zero", [1, 2])
def test_norm_and_update_are_those_of_a_bare_loop(ranks, zero):
    """DeepSpeed's way to the norm and back to the weights is shortened: what comes out may not change."""
    # by the usual epsilon, what rounding leaves of a zero gradient is a step of 1e-5, another on each processor
    optim = Optim(clip=0.1, weight_decay=0.05, eps=1e-6)
    config = tiny.config(engine=Engine(zero=zero, precision="fp32"), optim=optim)
    objective, engine = build(ranks, engine=config.engine, optim=config.optim)
    bare = AlignmentObjective(tiny.alignment(0), config.objective, ranks, 42, dec_id=tiny.DEC).train()
    adamw = torch.optim.AdamW(parameter_groups(bare, optim), lr=1e-3, betas=optim.betas, eps=optim.eps)
    places = {name: p.data_ptr() for name, p in objective.named_parameters()}
    for number in range(3):
        batch = tiny.batch(8 * number, 8)
        torch.manual_seed(number)
        _, update = step(objective, engine, [batch])
        units = bare.units(batch)
        torch.manual_seed(number)
        sums = bare(batch).sums
        sum(bare.weights[name] * sums[name] / units[name] for name in sums).backward()
        norm = torch.nn.utils.clip_grad_norm_([p for p in bare.parameters() if p.grad is not None], 0.1)
        assert update.grad_norm == pytest.approx(float(norm), rel=1e-5)
        adamw.step()
        adamw.zero_grad()
    wanted = dict(bare.named_parameters())
    for name, parameter in objective.named_parameters():
        assert parameter.data_ptr() == places[name]
        torch.testing.assert_close(parameter, wanted[name], rtol=1e-4, atol=2e-5)
    for name, tensor in engine.state():
        if name.startswith("weight/"):
            assert torch.equal(tensor, dict(objective.named_parameters())[name.removeprefix("weight/")].cpu())


def test_accumulation_gives_the_update_of_the_whole_batch(ranks):
    """Uneven text lengths: only the mean over all tokens of both micro-batches is the whole batch's mean."""
    words_only = Objective(itc=Contrastive(weight=0), itm=Matching(weight=0), itg=Captioning(weight=1))
    whole, one = build(ranks, objective=words_only)
    halves, two = build(ranks, accumulation=2, objective=words_only)
    _, first = step(whole, one, [tiny.batch(0, 8)])
    _, second = step(halves, two, [tiny.batch(0, 4), tiny.batch(4, 4)])
    assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-5)
    left, right = weights(one), weights(two)
    for name in left:
        # an Adam step of gradient noise near zero is as large as any other, so moments are compared, not weights
        if name.startswith("exp_avg/"):
            torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-7)


def test_a_resumed_engine_continues_bit_for_bit(ranks):
    objective, engine = build(ranks)
    for number in range(2):
        step(objective, engine, [tiny.batch(8 * number, 8)])
    saved = weights(engine)
    other_objective, other = build(ranks)
    other.load_state(saved)
    for number in range(2, 4):
        straight, _ = step(objective, engine, [tiny.batch(8 * number, 8)])
        resumed, _ = step(other_objective, other, [tiny.batch(8 * number, 8)])
        assert all(torch.equal(straight[0].sums[n], resumed[0].sums[n]) for n in straight[0].sums)
    left, right = weights(engine), weights(other)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_zero_one_and_two_agree(ranks):
    results = []
    for stage in (1, 2):
        objective, engine = build(ranks, engine=replace(tiny.config().engine, zero=stage))
        for number in range(2):
            step(objective, engine, [tiny.batch(8 * number, 8)])
        results.append(weights(engine))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_gradient_that_is_not_finite_changes_nothing(ranks):
    objective, engine = build(ranks)
    step(objective, engine, [tiny.batch(0, 8)])
    before = weights(engine)
    bad = tiny.batch(8, 8)
    pixels = bad.pixels.float()
    pixels[3] = float("nan")
    _, update = step(objective, engine, [replace(bad, pixels=pixels)])
    assert not update.applied
    after = weights(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)
    _, update = step(objective, engine, [tiny.batch(16, 8)])
    assert update.applied


def test_bf16_autocast_keeps_weights_in_fp32(ranks):
    objective, engine = build(ranks, engine=Engine(precision="bf16", backend="gloo"))
    outputs, update = step(objective, engine, [tiny.batch(0, 8)])
    assert update.applied
    assert all(value.dtype == torch.float32 for value in outputs[0].sums.values())
    assert all(p.dtype == torch.float32 for p in objective.parameters() if p.requires_grad)
