"""LoRA inside frozen language models of every family and dtype."""

import copy

import pytest
import small_chatglm
import tiny_language
import torch
from model.tuning import families
from model.tuning.families import gradients, loss_of
from torch.utils.checkpoint import checkpoint

from vglm_train.config.tuning import Lora, Rule, Tuning
from vglm_train.config.validation import FieldError
from vglm_train.model.tuning import apply_tuning, is_adapter
from vglm_train.model.tuning.lora import attach_lora
from vglm_train.objective.generation import GenerationObjective

FROZEN = (Rule(match="*", train=False),)


def wake(model, std=0.5):
    """B is zero at first, and then A has no gradient."""
    torch.manual_seed(3)
    with torch.no_grad():
        for adapter in model.adapters():
            adapter.lora_b.normal_(std=std)


@pytest.fixture
def batch():
    return small_chatglm.prompts([5, 9], [4, 7])


def dense(model):
    """The same function with updates added to weights that train: what autograd makes of the definition."""
    other = copy.deepcopy(model)
    for (_, module), (_, twin) in zip(model.named_modules(), other.named_modules(), strict=True):
        if hasattr(module, "adapter"):
            twin.adapter.handle.remove()
            twin.weight.data += module.adapter.delta()
            twin.weight.requires_grad_(True)
    return other


def test_a_fresh_update_changes_nothing(batch):
    model = small_chatglm.chatglm()
    before = model.score(model.embed(batch.input_ids), batch)[0]
    attach_lora(model, Lora(rank=4), seed=0)
    assert torch.equal(model.score(model.embed(batch.input_ids), batch)[0], before)


def test_forward_and_gradients_are_those_of_the_definition(batch):
    model = small_chatglm.chatglm()
    names = [product.name for product in attach_lora(model, Lora(rank=3, alpha=6.0, layers=(0, 2)), seed=0)]
    wake(model)
    other = dense(model)
    torch.testing.assert_close(loss_of(model, batch), loss_of(other, batch), rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(model, batch), gradients(other, batch)
    assert set(ours) == {f"{name}.adapter.{part}" for name in names for part in ("lora_a", "lora_b")}
    for name in names:
        update = model.get_submodule(name).adapter
        weight = theirs[f"{name}.weight"] * update.scale
        torch.testing.assert_close(ours[f"{name}.adapter.lora_a"], update.lora_b.T @ weight, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours[f"{name}.adapter.lora_b"], weight @ update.lora_a.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("recompute", [False, True])
def test_every_family_trains_its_updates_alone(tmp_path, family, recompute):
    model, batch = families.language(family, tmp_path / "m"), families.prompts(family)
    attach_lora(model, Lora(rank=2), seed=0)
    wake(model, std=0.1)
    plain = gradients(model, batch)
    assert plain
    assert all(is_adapter(name) for name in plain)
    assert all(grad.abs().sum() > 0 for grad in plain.values())
    model.recompute(recompute)
    again = gradients(model, batch)
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad)


@pytest.mark.parametrize("recompute", [False, True])
def test_an_fp16_models_updates_get_gradients_that_fp16_could_not_hold(batch, recompute):
    """As `HalfGate`: the loss is divided by so much that fp16 has no number for its gradients."""
    half, full = small_chatglm.chatglm(dtype="fp16"), small_chatglm.chatglm()
    full.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    for model in (half, full):
        attach_lora(model, Lora(rank=4, alpha=4.0), seed=0)
        wake(model, std=0.05)
        model.recompute(recompute)
        model.zero_grad()
        (loss_of(model, batch) / 1e7).backward()
    for (name, ours), theirs in zip(half.named_parameters(), full.parameters(), strict=True):
        if is_adapter(name):
            assert ours.grad.dtype == torch.float32
            # half precision through three blocks; without the gate all gradients would be 0
            assert (ours.grad - theirs.grad).norm() < 0.05 * theirs.grad.norm()


@pytest.mark.parametrize("family", ["chatglm", "causal"])
def test_dropout_is_drawn_in_training_alone_and_the_same_again_in_backward(tmp_path, batch, family):
    model = families.language(family, tmp_path / "m")
    attach_lora(model, Lora(rank=4, dropout=0.5), seed=0)
    wake(model)
    model.eval()
    still = loss_of(model, batch)
    assert torch.equal(still, loss_of(model, batch))
    model.train()
    found = []
    for recompute in (False, True):
        model.recompute(recompute)
        torch.manual_seed(5)
        found.append(gradients(model, batch))
    torch.manual_seed(5)
    assert not torch.isclose(loss_of(model, batch), still)
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad)
    assert not any(module.training for module in model.modules() if isinstance(module, torch.nn.Dropout))


def test_backward_ends_at_the_lowest_update():
    """What lies below it keeps no activations."""
    model = tiny_language.build(tiny_language.CHATGLM)
    apply_tuning(model, Tuning(rules=FROZEN, lora=Lora(rank=2, layers=(1,))))
    seen = {}
    for number, block in enumerate(model.language.blocks()):
        block.mlp.register_forward_hook(lambda _m, _i, out, n=number: seen.update({n: out.requires_grad}))
    GenerationObjective(model.train())(tiny_language.prompts(3))
    assert seen == {0: False, 1: True}


def test_fresh_weights_are_a_function_of_seed_and_name():
    def first(seed, layers):
        model = small_chatglm.chatglm()
        attach_lora(model, Lora(rank=2, layers=layers), seed)
        return model.blocks()[1].attention.dense.adapter.lora_a

    assert torch.equal(first(0, (1,)), first(0, (0, 1)))
    assert not torch.equal(first(0, (1,)), first(1, (1,)))
    bound = 48**-0.5
    assert 0.8 * bound < first(0, (1,)).abs().max() < bound


def test_targets_and_layers_that_are_not_there_are_named():
    model = small_chatglm.chatglm()
    with pytest.raises(
        FieldError, match=r"targets\.1: 'q_proj' is no linear layer.*query_key_value, dense, dense_h_to_4h"
    ):
        attach_lora(model, Lora(targets=("dense*", "q_proj")), 0)
    with pytest.raises(FieldError, match=r"layers: there is no block 3: the language model has 3, 0 to 2"):
        attach_lora(model, Lora(layers=(0, 3)), 0)


def test_default_targets_are_the_attentions_products():
    model = small_chatglm.chatglm()
    found = {product.last for product in attach_lora(model, Lora(), 0)}
    assert found == {"query_key_value", "dense"}


def test_outer_checkpoints_keep_working(batch):
    """An update within a block that somebody else checkpoints."""
    model = small_chatglm.chatglm()
    attach_lora(model, Lora(rank=2), 0)
    wake(model)
    plain = gradients(model, batch)
    model.zero_grad()
    checkpoint(lambda: loss_of(model, batch), use_reentrant=False).backward()
    for name, grad in plain.items():
        torch.testing.assert_close(model.get_parameter(name).grad, grad)
