"""Products in four bits."""

import copy

import made_language
import pytest
import torch
from model.tuning import families
from model.tuning.families import gradients, loss_of
from torch.multiprocessing.reductions import StorageWeakRef

from vglm_train.checkpoint.load.language import load_language
from vglm_train.config.language import Language
from vglm_train.config.tuning import Lora
from vglm_train.model.language import build_language
from vglm_train.model.language.linears import linears, quantize_blocks
from vglm_train.model.language.nf4 import (
    BLOCK,
    LEVELS,
    Nf4Linear,
    dequantize,
    pair_table,
    quantize,
)
from vglm_train.model.language.packed import frozen_bytes, number_of_weights
from vglm_train.model.tuning import is_adapter
from vglm_train.model.tuning.lora import attach_lora
from vglm_train.prompt.chatglm import build_chatglm


def round_trip(weight):
    codes, scales = quantize(weight)
    return dequantize(codes, scales, pair_table(weight.dtype), tuple(weight.shape), weight.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_levels_come_back_exactly(dtype):
    """Weights that are levels times a power of two are what they were; also where n is no whole number of blocks."""
    levels = torch.tensor(LEVELS).to(dtype)
    weight = levels[torch.arange(5 * 30) % 16].view(5, 30) * 0.25
    assert torch.equal(round_trip(weight), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_weight_becomes_the_nearest_level_of_its_block(dtype):
    torch.manual_seed(0)
    weight = torch.randn(8, 48).to(dtype)
    found = round_trip(weight).float().flatten().view(-1, BLOCK)
    blocks = weight.float().flatten().view(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True).to(torch.bfloat16).float()
    nearest = (blocks[..., None] - scales[..., None] * torch.tensor(LEVELS)).abs().amin(-1)
    torch.testing.assert_close((found - blocks).abs(), nearest, rtol=0.05, atol=0.01)  # products in `dtype`


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(4096, 1024), (70, 48), (3, 64), (5, 30)])
def test_a_gpu_dequantises_to_the_same_numbers(dtype, size):
    torch.manual_seed(0)
    weight = torch.randn(*size).to(dtype)
    weight[0] = 0
    codes, scales = quantize(weight)
    table = pair_table(dtype)
    expected = dequantize(codes, scales, table, size, dtype)
    assert torch.equal(dequantize(codes.cuda(), scales.cuda(), table.cuda(), size, dtype).cpu(), expected)


def test_a_normal_weight_loses_as_much_as_nf4_does():
    torch.manual_seed(0)
    weight = torch.randn(64, 1024)
    error = (round_trip(weight) - weight).pow(2).mean() / weight.pow(2).mean()
    assert 0.005 < error < 0.012  # 4-bit levels at a normal's quantiles: about 0.9 % of the power


def test_zeros_stay_zeros():
    assert torch.equal(round_trip(torch.zeros(3, 64)), torch.zeros(3, 64))


def test_a_product_and_its_gradient_are_those_of_the_weight_it_holds():
    torch.manual_seed(0)
    four = Nf4Linear(32, 24, torch.randn(24), torch.float32)
    four.weight = torch.nn.Parameter(torch.randn(24, 32))
    x = torch.randn(2, 5, 32, requires_grad=True)
    out = four(x)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    torch.testing.assert_close(out, torch.nn.functional.linear(x, four.full(), four.bias))
    torch.testing.assert_close(x.grad, weight @ four.full())
    assert set(four.state_dict()) == {"codes", "scales", "bias"}
    assert four.codes.dtype == torch.uint8
    assert len(four.codes) == 24 * 32 // 2


def test_nothing_but_codes_is_kept_for_backward():
    four = Nf4Linear(64, 64, None, torch.float32)
    four.weight = torch.randn(64, 64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        four(torch.randn(3, 64, requires_grad=True)).sum().backward()
    assert not any(tensor.numel() >= 64 * 64 for tensor in kept)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_updates_train_on_quantised_blocks_alone(tmp_path, family):
    model, batch = families.language(family, tmp_path / "m"), families.prompts(family)
    before = sum(p.numel() for p in model.parameters())
    full = copy.deepcopy(model)
    quantize_blocks(model)
    four = [module for module in model.modules() if isinstance(module, Nf4Linear)]
    assert len(four) == len(list(linears(full)))
    assert number_of_weights(model) == before
    for (_, twin), module in zip(linears(full), four, strict=True):
        twin.weight.copy_(module.full())
    torch.testing.assert_close(loss_of(model, batch), loss_of(full, batch), rtol=1e-5, atol=1e-5)
    for each in (model, full):
        attach_lora(each, Lora(rank=2), 0)
    ours, theirs = gradients(model, batch), gradients(full, batch)
    assert ours
    assert all(is_adapter(name) for name in ours)
    for name, grad in ours.items():
        torch.testing.assert_close(grad, theirs[name], rtol=1e-4, atol=1e-4)
    model.recompute(True)
    for name, grad in gradients(model, batch).items():
        torch.testing.assert_close(grad, ours[name])


@pytest.mark.parametrize("family", families.FAMILIES)
def test_recomputed_blocks_keep_a_weight_from_the_second_forward_to_backward(tmp_path, family, monkeypatch):
    """Twice a step is it dequantised, not three times; after the first forward no weight stands in memory."""
    model, batch = families.language(family, tmp_path / "m"), families.prompts(family)
    quantize_blocks(model)
    model.recompute(True)
    made, alive, full = [], [], Nf4Linear.full

    def watched(self):
        weight = full(self)
        made.append(StorageWeakRef(weight.untyped_storage()))
        alive.append(sum(not storage.expired() for storage in made))
        return weight

    monkeypatch.setattr(Nf4Linear, "full", watched)
    logits, targets = model.score(model.embed(batch.input_ids).detach().requires_grad_(), batch)
    loss = torch.nn.functional.cross_entropy(logits.float(), targets)
    linear = sum(isinstance(module, Nf4Linear) for module in model.modules())
    assert len(made) == linear
    assert all(storage.expired() for storage in made)
    loss.backward()
    assert len(made) == 2 * linear
    assert all(storage.expired() for storage in made)
    assert max(alive) <= max(sum(isinstance(part, Nf4Linear) for part in block.modules()) for block in model.blocks())


@pytest.mark.parametrize("family", families.FAMILIES)
def test_weights_are_quantised_while_they_are_read(tmp_path, family, monkeypatch):
    section = Language(**made_language.sections(tmp_path / "m", family)["language"])
    sop = build_chatglm(tmp_path / "m.model").sop_id if family == "chatglm" else None
    whole = build_language(section, sop)
    load_language(whole, section)
    quantize_blocks(whole)
    held = []
    taking = Nf4Linear._quantize
    monkeypatch.setattr(
        Nf4Linear, "_quantize", lambda self, weight: (held.append(_full(model)), taking(self, weight))[1]
    )
    model = build_language(section, sop, quantize="nf4")
    assert all(p.is_meta for p in model.parameters())
    load_language(model, section)
    assert held
    assert not any(held), "a weight in full stood in a quantised product"
    ours, theirs = model.state_dict(), whole.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    batch = families.prompts(family)
    if family == "chatglm":
        batch.input_ids[batch.input_ids == 114] = model.sop_id
    torch.testing.assert_close(loss_of(model, batch), loss_of(whole, batch))


def _full(model):
    return [m for m in model.modules() if isinstance(m, Nf4Linear) and m.weight is not None and not m.weight.is_meta]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_random_weights_are_drawn_product_by_product(tmp_path, family):
    made_language.sections(tmp_path / "m", family)
    shape = families.small_chatglm.SHAPE if family == "chatglm" else {"config": str(tmp_path / "m"), "tokenizer": "no"}
    section = Language(family=family, **{"dtype": "fp32", **shape})
    model = build_language(section, quantize="nf4")
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    assert loss_of(model, families.prompts(family)).isfinite()
    with torch.device("meta"):
        shapes = build_language(section, quantize="nf4")
    assert frozen_bytes(shapes) == frozen_bytes(model)
