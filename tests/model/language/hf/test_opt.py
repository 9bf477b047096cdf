"""OPT's blocks in fewer passes: the numbers of transformers' own code, and what runs which."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from precision import EXACT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, OPTConfig, OPTForCausalLM

from vglm_train.distributed import Ranks
from vglm_train.model.frozen_blocks import FrozenBlocks
from vglm_train.model.language.adapter import Prefix
from vglm_train.model.language.hf import forms, fused, opt
from vglm_train.model.language.hf.prefix import use_prefixes
from vglm_train.model.language.linears import Linear
from vglm_train.model.tuning.lora import LowRank, add_update, remove_update

SHAPE = {"vocab_size": 64, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2,
         "num_attention_heads": 2, "max_position_embeddings": 64, "dropout": 0.0}  # fmt: skip
BLOCK = ["layer_norm", "attend", "layer_norm", "inner"]
BACK = ["inner_backward", "layer_norm_backward", "projections_backward", "layer_norm_backward"]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")


class Kernels:
    """What the kernels compute, by torch's operations; `called` has the names of what ran."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def layer_norm(self, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Any:
        self.called.append("layer_norm")
        total = x if added is None else x + added
        return total, *torch.native_layer_norm(total, weight.shape, weight, bias, eps)

    def layer_norm_backward(
        self, above: Tensor, grad: Tensor, total: Tensor, weight: Tensor, mean: Tensor, scale: Tensor
    ) -> Tensor:
        self.called.append("layer_norm_backward")
        normed, slope = (total - mean) * scale, grad * weight
        along, level = (each.mean(-1, keepdim=True) for each in (slope * normed, slope))
        return torch.add(scale * (slope - normed * along - level), above)

    def noted(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*inputs: Any, **options: Any) -> Any:
            self.called.append(name)
            return run(*inputs, **options)

        return noting


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    """Fused on this machine too, and in every precision."""
    made = Kernels()
    every = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

    def takes(x: Tensor) -> bool:
        return not torch.compiler.is_compiling() and x.is_contiguous()

    functions = {
        (opt._LinearRelu, "forward"): "inner",
        (opt._LinearRelu, "backward"): "inner_backward",
        (opt._Projections, "backward"): "projections_backward",
    }
    with ExitStack() as patches:
        patches.enter_context(patch.multiple(fused, kernels=lambda: made, HALF=every, takes=takes))
        patches.enter_context(patch.object(opt, "attend", made.noted("attend", opt.attend)))
        for (owner, key), name in functions.items():
            run = staticmethod(made.noted(name, getattr(owner, key)))
            patches.enter_context(patch.object(owner, key, run))
        yield made


def model(dtype: torch.dtype = torch.float64, attention: str = "sdpa", **changes: Any) -> Any:
    """OPT by transformers alone, with random weights, frozen."""
    torch.manual_seed(0)
    found = OPTForCausalLM._from_config(OPTConfig(**{**SHAPE, **changes}), attn_implementation=attention)
    for name, parameter in found.named_parameters():
        parameter.data.normal_(mean=float("norm.weight" in name), std=0.2)
    return found.to(dtype).requires_grad_(False).eval()


def both(**options: Any) -> tuple[Any, Any]:
    """A model by transformers alone, and its copy that runs fused."""
    plain = model(**options)
    made = deepcopy(plain)
    forms.fuse(made)
    return plain, made


def value_and_gradient(model: Any, **options: Any) -> list[Tensor]:
    """The last states of two rows of seven tokens, and what a fixed sum of them gives the embeddings."""
    draw = torch.Generator().manual_seed(1)
    weight = model.lm_head.weight
    x, above = (torch.randn(2, 7, weight.shape[1], generator=draw).bfloat16().to(weight) for _ in range(2))
    x.requires_grad_()
    out = model.model(inputs_embeds=x, use_cache=False, **options).last_hidden_state
    return [out.detach(), *torch.autograd.grad(out, x, above)]


def blocks(model: Any) -> list[Any]:
    return list(model.model.decoder.layers)


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_a_model_computes_what_transformers_computes(kernels: Kernels) -> None:
    plain, made = both()
    assert [type(block).__name__ for block in blocks(made)] == ["OPTDecoderLayer"] * 2
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
    assert kernels.called.count("layer_norm") == 4


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
        out = blocks(each)[0](x)
        with Sums() as counted:
            out.sum().backward()
        sums.append(counted.number)
    assert sums == [4, 2]  # the two are the sums within the kernels' stand-in


@pytest.mark.parametrize(
    ("changes", "called"),
    [
        ({"do_layer_norm_before": False}, ["attend"]),
        ({"layer_norm_elementwise_affine": False}, ["attend"]),
        ({"enable_bias": False}, ["layer_norm", "layer_norm"]),
        ({"activation_function": "gelu"}, ["layer_norm", "attend", "layer_norm"]),
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
        (lambda block: widened(block.self_attn), ["layer_norm", "layer_norm", "inner"]),
        (lambda block: hooked(block.self_attn.v_proj), ["layer_norm", "layer_norm", "inner"]),
        (lambda block: hooked(block.self_attn.out_proj), BLOCK),
        (lambda block: hooked(block.fc1), BLOCK[:3]),
        (lambda block: hooked(block.activation_fn), BLOCK[:3]),
        (lambda block: hooked(block.fc2), BLOCK),
    ],
)
def test_a_part_that_is_no_plain_frozen_one(kernels: Kernels, change: Any, called: list[str]) -> None:
    plain, made = both()
    for each in (plain, made):
        change(blocks(each)[0])
    found = value_and_gradient(made)
    assert [name for name in kernels.called if "backward" not in name] == called + BLOCK
    same(found, value_and_gradient(plain))


def test_what_trains_gets_its_gradient(kernels: Kernels) -> None:
    gradients = []
    for each in both():
        parts = [blocks(each)[0].final_layer_norm.weight, blocks(each)[1].self_attn.q_proj.bias]
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
        linear = Linear(last, blocks(each)[0].get_submodule(last))
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
        for block in blocks(each):
            prefix = Prefix(2, 3, 16)
            for weight in prefix.parameters():
                nn.init.normal_(weight)
            block.self_attn.add_module("adapter", prefix.double())
    found = value_and_gradient(made)
    assert [name for name in kernels.called if "backward" not in name] == ["layer_norm", "layer_norm", "inner"] * 2
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
    for block in blocks(made):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    kernels.called.clear()
    found = value_and_gradient(made)
    assert kernels.called == BLOCK * 2 + (BLOCK + BACK) * 2
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_blocks_whose_weights_lie_elsewhere(kernels: Kernels) -> None:
    _, made = both()
    wanted = value_and_gradient(made)
    kernels.called.clear()
    FrozenBlocks(Ranks(device=torch.device("cpu")), offload=True).add(made, blocks(made))
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
    for block in blocks(made):
        block.forward = torch.compile(block.forward, backend="aot_eager")
    found = value_and_gradient(made)
    assert not kernels.called
    same(found, value_and_gradient(plain))


def error(x: Tensor, exact: Tensor) -> float:
    return float((x.double() - exact).norm() / exact.norm())


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [48, 128, 2560, 5000, 8192])
@pytest.mark.parametrize("adds", [False, True])
def test_norm_kernel_does_what_torch_does(dtype: torch.dtype, width: int, adds: bool) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias)
    norm = norm.cuda().to(dtype).requires_grad_(False)
    parts = [(torch.randn(3, 37, width, device="cuda") + 0.5).to(dtype) for _ in range(1 + adds)]
    above = [torch.randn(3, 37, width, device="cuda").to(dtype) for _ in range(2)]

    def run(fuses: bool, to: torch.dtype) -> tuple[Tensor, Tensor, list[Tensor]]:
        own = deepcopy(norm).to(to)
        x, *added = inputs = [part.to(to).requires_grad_() for part in parts]
        if fuses:
            assert fused.takes(x)
            assert opt.fits_norm(own, x)
            total, normed = opt.add_norm(x, added[0] if added else None, own)
        else:
            total = x + added[0] if added else x * 1
            normed = own(total)
        found = torch.autograd.grad([total, normed], inputs, [each.to(to) for each in above])
        return total.detach(), normed.detach(), list(found)

    total, normed, gradients = run(True, dtype)
    wanted_total, wanted, wanted_gradients = run(False, dtype)
    assert torch.equal(total, wanted_total)
    # both round the same fp32 values; those that lie within an fp32 rounding of the middle may go either way
    assert (normed != wanted).float().mean() < 0.002
    assert error(normed, wanted.double()) < 0.1 * torch.finfo(dtype).eps
    _, _, exact = run(False, torch.float64)
    assert len(gradients) == len(exact)
    for one, other, true in zip(gradients, wanted_gradients, exact, strict=True):
        assert one.dtype == dtype
        assert error(one, true) < 1.05 * error(other, true)  # one rounding, where two were


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 37, 512])
def test_relu_at_the_end_of_a_product_is_relu(dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 1024, device="cuda", dtype=dtype).requires_grad_(False)
    nn.init.normal_(linear.bias)
    x = torch.randn(2, rows, 256, device="cuda", dtype=dtype, requires_grad=True)
    above = torch.randn(2, rows, 1024, device="cuda", dtype=dtype)
    found = opt.apply(opt._LinearRelu, x, linear.weight, linear.bias)
    wanted = F.relu(linear(x))
    exact = F.relu(F.linear(x.double(), linear.weight.double(), linear.bias.double()))
    assert error(found, exact) < 1.02 * error(wanted, exact)
    # the mask is that of the values that were computed
    gradient = torch.autograd.grad(found, x, above)[0]
    masked = (above.double() * (found > 0)) @ linear.weight.double()
    assert error(gradient, masked) < torch.finfo(dtype).eps


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_projections_sum_their_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(256, 256, device="cuda", dtype=dtype).requires_grad_(False) for _ in range(3)]
    x = torch.randn(4, 33, 256, device="cuda", dtype=dtype, requires_grad=True)
    above = [torch.randn(4, 33, 256, device="cuda", dtype=dtype) for _ in linears]
    found = opt.apply(opt._Projections, x, *(each.weight for each in linears), *(each.bias for each in linears))
    wanted = [each(x) for each in linears]
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    gradient, plain = (torch.autograd.grad(outs, x, above)[0] for outs in (found, wanted))
    exact = sum((g.double() @ each.weight.double() for g, each in zip(above, linears, strict=True)), torch.zeros(()))
    assert error(gradient, exact) < 1.05 * error(plain, exact)


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_on_a_gpu_is_as_exact_as_transformers(dtype: torch.dtype) -> None:
    sizes = {"hidden_size": 320, "word_embed_proj_dim": 320, "ffn_dim": 640, "num_attention_heads": 4}
    plain, made = both(dtype=dtype, **sizes)
    plain, made = plain.cuda(), made.cuda()
    ran: list[str] = []
    built = fused.built()
    layer_norm = built.layer_norm

    def noted(*inputs: Any) -> Any:
        ran.append("norm")
        return layer_norm(*inputs)

    with patch.object(built, "layer_norm", noted):
        found = value_and_gradient(made)
    assert ran == ["norm"] * 4
    wanted = value_and_gradient(plain)
    exact = value_and_gradient(deepcopy(plain).double())
    for one, other, true in zip(found, wanted, exact, strict=True):
        assert one.dtype == dtype
        assert error(one, true) < 1.1 * error(other, true)  # other roundings, as many
