"""T5's attention with its projections as one step: transformers' numbers, and when it runs transformers' code."""

import importlib
from collections.abc import Iterator
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import pytest
import torch
import transformers
from fused_kernels import Kernels, standing_in
from precision import EXACT
from torch import Tensor, nn

from vglm_train.model.language.hf import forms, frozen, fused, t5

SHAPE = {"vocab_size": 20, "d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 3}
B, S, T = 2, 5, 7


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    with standing_in() as made:
        run = staticmethod(made.noted("projections_backward", frozen._Projections.backward))
        with patch.object(frozen._Projections, "backward", run):
            yield made


def attention(family: str, causal: bool = False, bias: bool = True) -> tuple[Any, Any]:
    """transformers' module with random weights, frozen, and the same fused."""
    modeling = importlib.import_module(f"transformers.models.{family.lower()}.modeling_{family.lower()}")
    shape = getattr(transformers, f"{family}Config")(**SHAPE)
    shape._attn_implementation = fused.SHORT_SDPA
    torch.manual_seed(0)
    plain = getattr(modeling, f"{family}Attention")(shape, has_relative_attention_bias=bias, layer_idx=0)
    plain.is_causal = causal
    for parameter in plain.parameters():
        parameter.data.normal_(std=0.3)
    plain = plain.double().requires_grad_(False).eval()
    made = deepcopy(plain)
    forms.fuse(made)
    return plain, made


def values_and_gradients(module: Any, others: bool, **options: Any) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(B, S, 24, generator=draw, dtype=torch.float64).requires_grad_()
    inputs = [x]
    if others:
        options["key_value_states"] = torch.randn(B, T, 24, generator=draw, dtype=torch.float64).requires_grad_()
        inputs.append(options["key_value_states"])
    out, bias, *_ = module(x, **options)
    above = torch.randn(out.shape, generator=draw, dtype=torch.float64)
    return [out, bias, *torch.autograd.grad(out, inputs, above)]


def hidden(queries: int, keys: int) -> Tensor:
    """As transformers' masks: bool, no copy for the queries."""
    seen = torch.ones(B, 1, 1, keys, dtype=torch.bool)
    seen[1, :, :, -2:] = False
    return seen.expand(-1, -1, queries, -1)


CASES = {
    "encoder": (False, False, True, {"mask": hidden(S, S)}),
    "no mask": (False, False, True, {}),
    "decoder": (False, True, True, {}),
    "bias of the first block": (False, True, True, {"position_bias": torch.randn(1, 3, S, S, dtype=torch.float64)}),
    "cross": (True, False, False, {"mask": hidden(S, T)}),
}


@pytest.mark.parametrize("family", ["T5", "MT5"])
@pytest.mark.parametrize("name", CASES)
def test_it_is_transformers_attention(kernels: Kernels, name: str, family: str) -> None:
    others, causal, bias, options = CASES[name]
    plain, made = attention(family, causal, bias)
    wanted = values_and_gradients(plain, others, **options)
    assert not kernels.called
    found = values_and_gradients(made, others, **options)
    assert kernels.called == ["projections_backward"]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_a_linear_layer_that_trains_or_has_an_adapter_runs_itself(kernels: Kernels) -> None:
    plain, made = attention("T5")
    for module in (plain, made):
        module.k.register_forward_hook(lambda _, inputs, output: output + inputs[0])
    found, wanted = values_and_gradients(made, False), values_and_gradients(plain, False)
    assert not kernels.called
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    made.v.requires_grad_(True)
    values_and_gradients(made, False)
    assert not kernels.called


@pytest.mark.parametrize("change", ["cache", "other attention", "dropout", "weights are wanted"])
def test_what_does_not_fit_is_transformers_code(kernels: Kernels, change: str) -> None:
    _, made = attention("T5")
    options: dict[str, Any] = {}
    if change == "cache":
        options["past_key_values"] = transformers.DynamicCache()
    elif change == "other attention":
        made.config._attn_implementation = "eager"
    elif change == "dropout":
        made.dropout = 0.5
        made.train()
    else:
        options["output_attentions"] = True
    with patch.object(t5, "project", side_effect=AssertionError):
        made(torch.randn(B, S, 24, dtype=torch.float64), **options)


def test_mlp_projects_gate_and_value_together(kernels: Kernels) -> None:
    shape = transformers.T5Config(**SHAPE, feed_forward_proj="gated-gelu")
    torch.manual_seed(0)
    plain: nn.Module = transformers.models.t5.modeling_t5.T5DenseGatedActDense(shape).double().requires_grad_(False)
    plain = plain.eval()
    made = deepcopy(plain)
    forms.fuse(made)
    x = torch.randn(B, S, 24, dtype=torch.float64, requires_grad=True)
    above = torch.randn(B, S, 24, dtype=torch.float64)
    wanted = torch.autograd.grad(plain(x), x, above)
    found = torch.autograd.grad(made(x), x, above)
    assert kernels.called == ["gated", "gated_backward", "projections_backward"]
    torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("family", ["T5", "MT5", "UMT5"])
def test_a_whole_model_of_each_family_is_transformers(kernels: Kernels, family: str) -> None:
    """With padding: what each family's blocks call their attention with."""
    shape = getattr(transformers, f"{family}Config")(**SHAPE, feed_forward_proj="gated-gelu", decoder_start_token_id=0)
    torch.manual_seed(0)
    plain = getattr(transformers, f"{family}ForConditionalGeneration")(shape).double().requires_grad_(False).eval()
    made = deepcopy(plain)
    forms.fuse(made)
    forms.use_short(made)
    embeds = torch.randn(B, S, 24, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(B, S, dtype=torch.long)
    mask[1, -2:] = 0
    ids = torch.randint(1, 20, (B, 4))
    above = torch.randn(B, 4, 20, dtype=torch.float64)
    results = []
    for model in (plain, made):
        logits = model(inputs_embeds=embeds, attention_mask=mask, decoder_input_ids=ids, use_cache=False).logits
        results.append([logits, *torch.autograd.grad(logits, embeds, above)])
    assert "norm_backward" in kernels.called
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))  # norms are in fp32
    made.generate(inputs_embeds=embeds.detach(), attention_mask=mask, max_new_tokens=3)  # with a cache
