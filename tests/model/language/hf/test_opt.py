"""OPT's blocks in fewer passes: the numbers of transformers' own code, and what runs which."""

from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from fused_kernels import Kernels, standing_in
from precision import EXACT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, OPTConfig, OPTForCausalLM

from vglm_train.distributed import Ranks
from vglm_train.model.frozen_blocks import FrozenBlocks
from vglm_train.model.language.adapter import Prefix
from vglm_train.model.language.hf import forms, frozen, fused, opt
from vglm_train.model.language.hf.prefix import use_prefixes
from vglm_train.model.language.linears import Linear
from vglm_train.model.tuning.lora import LowRank, add_update, remove_update

SHAPE = {"vocab_size": 64, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2,
         "num_attention_heads": 2, "max_position_embeddings": 64, "dropout": 0.0}  # fmt: skip
BLOCK = ["add_norm", "attend", "add_norm", "inner"]
BACK = ["inner_backward", "add_norm_backward", "projections_backward", "add_norm_backward"]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    """What runs beside the kernels is noted too."""
    functions: list[tuple[Any, str, str]] = [
        (opt._LinearRelu, "forward", "inner"),
        (opt._LinearRelu, "backward", "inner_backward"),
        (frozen._Projections, "backward", "projections_backward"),
    ]
    with ExitStack() as patches:
        made = patches.enter_context(standing_in())
        patches.enter_context(patch.object(opt, "attend", made.noted("attend", opt.attend)))
        for owner, key, name in functions:
            run = staticmethod(made.noted(name, getattr(owner, key)))
            patches.enter_context(patch.object(owner, key, run))
        yield made


def model(dtype: torch.dtype = torch.float64, attention: str = "sdpa", std: float = 0.2, **changes: Any) -> Any:
    """OPT by transformers alone, with random weights, frozen."""
    torch.manual_seed(0)
    found = OPTForCausalLM._from_config(OPTConfig(**{**SHAPE, **changes}), attn_implementation=attention)
    for name, parameter in found.named_parameters():
        parameter.data.normal_(mean=float("norm.weight" in name), std=std)
    return found.to(dtype).requires_grad_(False).eval()


def both(**options: Any) -> tuple[Any, Any]:
    """A model by transformers alone, and its copy that runs fused."""
    plain = model(**options)
    made = deepcopy(plain)
    forms.fuse(made)
    return plain, made


def value_and_gradient(model: Any, rows: int = 2, **options: Any) -> list[Tensor]:
    """The last states of rows of seven tokens, and what a fixed sum of them gives the embeddings."""
    draw = torch.Generator().manual_seed(1)
    weight = model.lm_head.weight
    x, above = (torch.randn(rows, 7, weight.shape[1], generator=draw).bfloat16().to(weight) for _ in range(2))
    x.requires_grad_()
    out = model.model(inputs_embeds=x, use_cache=False, **options).last_hidden_state
    return [out.detach(), *torch.autograd.grad(out, x, above)]


def layers_of(model: Any) -> list[Any]:
    return list(model.model.decoder.layers)


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_a_model_computes_what_transformers_computes(kernels: Kernels) -> None:
    plain, made = both()
    assert [type(block).__name__ for block in layers_of(made)] == ["OPTDecoderLayer"] * 2
    wanted = value_and_gradient(plain)
    assert not kernels.called
    found = value_and_gradient(made)
    assert kernels.called == BLOCK * 2 + BACK * 2
    same(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_cpu_a_model_runs_its_own_code(dtype: torch.dtype) -> None:
    plain, made = both(dtype=dtype)
    with patch.object(fused, "kernels", pytest.fail):
        found = value_and_gradient(made)
    for one, other in zip(found, value_and_gradient(plain), strict=True):
        assert torch.equal(one, other)


def test_forward_rounds_where_transformers_rounds(kernels: Kernels) -> None:
    """All but the scaled queries: without attention, the bits are the same."""
    plain, made = both(dtype=torch.bfloat16)
    with patch.object(opt.OptAttention, "_fits", lambda *_: False):
        assert torch.equal(value_and_gradient(made)[0], value_and_gradient(plain)[0])
    assert kernels.called.count("add_norm") == 4


class Sums(TorchDispatchMode):
    """Counts additions that are kernels of their own."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
        return func(*args, **(kwargs or {}))


def test_autograd_sums_no_gradients(kernels: Kernels) -> None:
    sums = []
    for each in both():
        x = torch.randn(2, 7, 32, dtype=torch.float64, requires_grad=True)
        out = layers_of(each)[0](x)
        with Sums() as counted:
            out.sum().backward()
        sums.append(counted.number)
    assert sums == [4, 2]  # the two are the sums within the kernels' stand-in


@pytest.mark.parametrize(
    ("changes", "called"),
    [
        ({"do_layer_norm_before": False}, ["attend"]),
        ({"layer_norm_elementwise_affine": False}, ["attend"]),
        ({"enable_bias": False}, ["add_norm", "attend", "add_norm"]),
        ({"activation_function": "gelu"}, ["add_norm", "attend", "add_norm"]),
        ({"attention": "eager"}, []),  # which has a mask always
    ],
)
def test_other_kinds_of_opt(kernels: Kernels, changes: dict[str, Any], called: list[str]) -> None:
    plain, made = both(**changes)
    found = value_and_gradient(made)
    assert [name for name in kernels.called if "backward" not in name] == called * 2
    same(found, value_and_gradient(plain))


def widened(attention: Any) -> None:
    attention.k_proj.weight.requires_grad_()


def hooked(part: nn.Module) -> None:
    """What it returns, or the first of that, is doubled."""

    def double(module: nn.Module, inputs: Any, output: Any) -> Any:
        return (output[0] * 2, *output[1:]) if isinstance(output, tuple) else output * 2

    part.register_forward_hook(double)


@pytest.mark.parametrize(
    ("change", "called"),
    [
        (lambda block: block.final_layer_norm.requires_grad_(), ["attend"]),
        (lambda block: hooked(block.self_attn_layer_norm), ["attend"]),
        (lambda block: hooked(block.self_attn), BLOCK),
        (lambda block: widened(block.self_attn), ["add_norm", "add_norm", "inner"]),
        (lambda block: hooked(block.self_attn.v_proj), ["add_norm", "add_norm", "inner"]),
        (lambda block: hooked(block.self_attn.out_proj), BLOCK),
        (lambda block: hooked(block.fc1), BLOCK[:3]),
        (lambda block: hooked(block.activation_fn), BLOCK[:3]),
        (lambda block: hooked(block.fc2), BLOCK),
    ],
)
def test_a_part_that_is_no_plain_frozen_one(kernels: Kernels, change: Any, called: list[str]) -> None:
    plain, made = both()
    for each in (plain, made):
        change(layers_of(each)[0])
    found = value_and_gradient(made)
    assert [name for name in kernels.called if "backward" not in name] == called + BLOCK
    same(found, value_and_gradient(plain))


def test_what_trains_gets_its_gradient(kernels: Kernels) -> None:
    gradients = []
    for each in both():
        parts = [layers_of(each)[0].final_layer_norm.weight, layers_of(each)[1].self_attn.q_proj.bias]
        for part in parts:
            part.requires_grad_()
        each.model(inputs_embeds=torch.ones(1, 3, 32).double()).last_hidden_state.square().sum().backward()
        gradients.append([part.grad for part in parts])
    same(gradients[1], gradients[0])


@pytest.mark.parametrize("last", ["self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"])
def test_updates_of_linear_layers(kernels: Kernels, last: str) -> None:
    found = []
    for each in both(dtype=torch.float32):
        torch.manual_seed(2)
        linear = Linear(last, layers_of(each)[0].get_submodule(last))
        update = LowRank(*linear.size, 4, 0.5)
        nn.init.normal_(update.lora_a)
        nn.init.normal_(update.lora_b)
        add_update(linear, update)
        found.append([*value_and_gradient(each)])
        out = each.model(inputs_embeds=torch.ones(1, 3, 32)).last_hidden_state
        found[-1] += torch.autograd.grad(out.square().sum(), list(update.parameters()))
        kernels.called.clear()
        remove_update(linear)
        value_and_gradient(each)
    for one, other in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
    assert kernels.called == BLOCK * 2 + BACK * 2  # without it, as before


def test_prefixes(kernels: Kernels) -> None:
    plain, made = both()
    for each in (plain, made):
        use_prefixes(each)
        torch.manual_seed(5)
        for block in layers_of(each):
            prefix = Prefix(2, 3, 16)
            for weight in prefix.parameters():
                nn.init.normal_(weight)
            block.self_attn.add_module("adapter", prefix.double())
    found = value_and_gradient(made)
    assert [name for name in kernels.called if "backward" not in name] == ["add_norm", "add_norm", "inner"] * 2
    same(found, value_and_gradient(plain))


def test_dropout_in_training(kernels: Kernels) -> None:
    plain, made = both(dropout=0.5, attention_dropout=0.5)
    value_and_gradient(made)
    assert kernels.called
    kernels.called.clear()
    found = []
    for each in (made.train(), plain.train()):
        torch.manual_seed(4)
        found.append(value_and_gradient(each))
    assert not kernels.called
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_masks(kernels: Kernels) -> None:
    plain, made = both()
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]])
    found = value_and_gradient(made, attention_mask=mask)
    assert not kernels.called
    assert all(torch.equal(*pair) for pair in zip(found, value_and_gradient(plain, attention_mask=mask), strict=True))


def test_a_cache(kernels: Kernels) -> None:
    ids, found = torch.tensor([[2, 5, 9], [2, 7, 11]]), []
    for each in both():
        cache = DynamicCache(config=each.config)
        first = each(input_ids=ids, past_key_values=cache, use_cache=True).logits
        found.append((first, each(input_ids=ids[:, :1], past_key_values=cache, use_cache=True).logits))
        assert cache.get_seq_length() == 4
    assert not kernels.called
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_weights_of_attention_are_asked_for(kernels: Kernels) -> None:
    plain, made = both(attention="eager")
    ids = torch.tensor([[2, 5, 9]])
    found, wanted = (each(input_ids=ids, output_attentions=True, output_hidden_states=True) for each in (made, plain))
    assert not {"attend", "inner_backward"} & set(kernels.called)
    same(list(found.attentions), list(wanted.attentions))
    same(list(found.hidden_states), list(wanted.hidden_states))


def test_blocks_that_are_computed_again(kernels: Kernels) -> None:
    _, made = both()
    wanted = value_and_gradient(made)
    for block in layers_of(made):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    kernels.called.clear()
    found = value_and_gradient(made)
    assert kernels.called == BLOCK * 2 + (BLOCK + BACK) * 2
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_blocks_whose_weights_lie_elsewhere(kernels: Kernels) -> None:
    _, made = both()
    wanted = value_and_gradient(made)
    kernels.called.clear()
    FrozenBlocks(Ranks(device=torch.device("cpu")), offload=True).add(made, layers_of(made))
    found = value_and_gradient(made)
    assert kernels.called == BLOCK * 2 + BACK * 2
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_a_copy_runs_fused(kernels: Kernels) -> None:
    plain, made = both()
    found = value_and_gradient(deepcopy(made))
    assert kernels.called == BLOCK * 2 + BACK * 2
    same(found, value_and_gradient(plain))


def test_compiled_blocks_trace_their_own_code(kernels: Kernels) -> None:
    plain, made = both()
    for block in layers_of(made):
        block.forward = torch.compile(block.forward, backend="aot_eager")
    found = value_and_gradient(made)
    assert not kernels.called
    same(found, value_and_gradient(plain))


def error(x: Tensor, exact: Tensor) -> float:
    return float((x.double() - exact).norm() / exact.norm())


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_on_a_gpu_is_as_exact_as_transformers(dtype: torch.dtype) -> None:
    sizes = {"hidden_size": 320, "word_embed_proj_dim": 320, "ffn_dim": 640, "num_attention_heads": 4}
    plain, made = (each.cuda() for each in both(dtype=dtype, std=0.02, **sizes))
    built, ran = fused.built(), Kernels()
    with patch.object(built, "add_norm", ran.noted("add_norm", built.add_norm)):
        found = value_and_gradient(made, rows=64)
    assert ran.called == ["add_norm"] * 4
    wanted = value_and_gradient(plain, rows=64)
    exact = value_and_gradient(deepcopy(plain).double(), rows=64)
    for one, other, true in zip(found, wanted, exact, strict=True):
        assert one.dtype == dtype
        # other roundings, as many; gradients differ by those inner values that ReLU cuts on one side of zero only
        assert error(one, true) < 1.3 * error(other, true)
