"""Learning rates and decay by name, through the real DeepSpeed."""

import tiny
import tiny_language
import torch

from vglm_train import distributed
from vglm_train.config.run import Optim
from vglm_train.config.tuning import Lora, Rule, Tuning
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine
from vglm_train.engine.parameter_groups import parameter_groups
from vglm_train.model.tuning import apply_tuning
from vglm_train.objective.generation import GenerationObjective


def build(rules, lora, optim=None):
    model = tiny_language.build(tiny_language.CHATGLM)
    resolved = apply_tuning(model, Tuning(rules=rules, lora=lora))
    objective = GenerationObjective(model).train()
    scales = {f"model.{line.name}": line.lr for line in resolved if line.trained}
    config = tiny.config(optim=optim or Optim(lr=1e-3, weight_decay=0.0, clip=None, eps=1e-15))
    return objective, DeepSpeedEngine(objective, config, 1, distributed.start("gloo"), scales), scales


def step(objective, engine, lr=1e-3):
    batch = tiny_language.prompts(8)
    scale = {"lm": 1.0 / objective.units(batch)["lm"]}
    return engine.step([batch], [scale], lr)


def test_groups_hold_each_parameter_once():
    objective, _, scales = build((Rule(match="qformer.*", lr=0.5), Rule(match="*", train=False)), Lora(rank=2))
    groups = parameter_groups(objective, Optim(), scales)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in objective.parameters() if p.requires_grad)
    assert {(group["scale"], group["weight_decay"]) for group in groups} == {(0.5, 0.05), (0.5, 0.0), (1.0, 0.05)}


def test_a_steps_size_is_its_groups_rate():
    """Adam's first step is lr times the sign of the gradient, whatever its size."""
    rules = (Rule(match="projection.*", lr=0.25), Rule(match="vision_norm.*"), Rule(match="*", train=False))
    objective, engine, _ = build(rules, None)
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    _, update = step(objective, engine)
    assert update.applied
    for name, parameter in objective.named_parameters():
        expected = {"projection": 2.5e-4, "vision_norm": 1e-3}.get(name.split(".")[1])
        if expected:
            moved = (parameter - before[name]).abs().max()
            torch.testing.assert_close(moved.item(), expected, rtol=1e-3, atol=0)


def test_only_what_is_claimed_changes():
    rules = (Rule(match="*", train=False),)
    objective, engine, scales = build(rules, Lora(rank=2, layers=(1,)))
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    for _ in range(2):  # B first: A's gradient begins with B
        step(objective, engine)
    changed = {name for name, p in objective.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(scales)
    assert all(p.grad is None for name, p in objective.named_parameters() if name not in scales)


def test_moments_are_kept_for_every_group():
    rules = (Rule(match="projection.*", lr=0.25), Rule(match="*", train=False))
    objective, engine, _ = build(rules, Lora(rank=2))
    step(objective, engine)
    saved = {name: tensor.clone() for name, tensor in engine.state()}
    other_objective, other, _ = build(rules, Lora(rank=2))
    other.load_state(saved)
    for run in ((objective, engine), (other_objective, other)):
        step(*run)
    for (name, left), (_, right) in zip(engine.state(), other.state(), strict=True):
        assert torch.equal(left, right), name
