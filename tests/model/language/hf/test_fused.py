"""Norms and gated activations in fewer kernels: the numbers of transformers' own modules, and who runs which."""

import importlib
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import transformers
from fused_kernels import Kernels, standing_in
from precision import EXACT, in_float64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vglm_train.batch import PromptBatch
from vglm_train.config.language import Language
from vglm_train.model.language.hf import forms, fused
from vglm_train.model.language.hf.causal import CausalLanguage
from vglm_train.model.language.hf.seq2seq import Seq2SeqLanguage

WIDTH, INNER = 32, 48
NUMBERS = {"hidden_size": WIDTH, "intermediate_size": INNER, "d_model": WIDTH, "d_ff": INNER, "dropout_rate": 0.0}
SWITCHES = {"mlp_bias": False, "use_bias": False, "pretraining_tp": 1}
GELUS = {"dense_act_fn": "gelu_new", "hidden_activation": "gelu_pytorch_tanh"}
T5 = {"vocab_size": 64, "d_model": 128, "d_kv": 64, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2,
      "num_heads": 2, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"}  # fmt: skip
LLAMA = {"vocab_size": 64, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 96, "pad_token_id": 0}  # fmt: skip
CONFIGS = {
    "t5": transformers.T5Config(**T5),
    "llama": transformers.LlamaConfig(**LLAMA),
    "qwen3": transformers.Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=64),
    "glm4": transformers.Glm4Config(**LLAMA, num_key_value_heads=2, head_dim=64),
}
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    with standing_in() as made:
        yield made


def module(name: str, act: str = "silu") -> Any:
    """One of transformers' modules with random weights, frozen."""
    family, _, kind = name.partition(".")
    made = getattr(importlib.import_module(f"transformers.models.{family}.modeling_{family}"), kind)
    torch.manual_seed(0)
    if "Norm" in kind:
        found = made(WIDTH, eps=1e-3)
    else:
        found = made(SimpleNamespace(**NUMBERS, **SWITCHES, **GELUS, hidden_act=act))
    for parameter in found.parameters():
        parameter.data.normal_(std=1.0)
    return found.requires_grad_(False)


def value_and_gradient(run: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    out = run(x)
    draw = torch.Generator().manual_seed(3)
    above = torch.randn(out.shape, generator=draw).bfloat16()  # the same in every precision
    return out.detach(), torch.autograd.grad(out, x, above.to(out))[0]


@pytest.mark.parametrize("name", [name for name in forms.BY_NAME if name.endswith(("Norm", "MLP", "GatedActDense"))])
def test_a_fused_module_computes_what_its_class_computes(kernels: Kernels, name: str) -> None:
    plain = module(name)
    with in_float64(plain):
        made = deepcopy(plain)
        forms.fuse(made)
        assert type(made).__name__ == type(plain).__name__
        assert isinstance(made, type(plain))
        x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
        wanted, found = value_and_gradient(plain, x), value_and_gradient(made, x)
    part = "norm" if "Norm" in name else "gated"
    assert kernels.called == [part, f"{part}_backward"]
    close = {"rtol": 1e-5, "atol": 1e-6} if part == "norm" else EXACT  # transformers' norms compute in fp32 always
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "swish"])
def test_activations_are_told_by_their_class(kernels: Kernels, act: str) -> None:
    plain = module("llama.LlamaMLP", act).double()
    made = deepcopy(plain)
    forms.fuse(made)
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(made(x), plain(x), **EXACT)
    assert kernels.called == ["gated"]


@pytest.mark.parametrize("name", ["llama.LlamaMLP", "phi3.Phi3MLP"])
def test_another_activation_is_its_own(kernels: Kernels, name: str) -> None:
    plain = module(name, "relu2")
    made = deepcopy(plain)
    forms.fuse(made)
    x = torch.randn(2, 5, WIDTH)
    assert torch.equal(made(x), plain(x))
    assert not kernels.called


@pytest.mark.parametrize("name", ["t5.T5LayerNorm", "llama.LlamaRMSNorm"])
def test_a_norm_that_trains_runs_its_own_code(kernels: Kernels, name: str) -> None:
    made = module(name)
    forms.fuse(made)
    made.requires_grad_(True)
    made(torch.randn(2, WIDTH)).sum().backward()
    assert made.weight.grad is not None
    assert not kernels.called


def test_a_residual_stream_in_fp32_comes_back_in_the_weights_dtype(kernels: Kernels) -> None:
    x = torch.randn(2, 5, WIDTH)
    for name, called in (("t5.T5LayerNorm", ["norm"]), ("llama.LlamaRMSNorm", [])):
        plain = module(name).half()
        made = deepcopy(plain)
        forms.fuse(made)
        kernels.called.clear()
        found, wanted = made(x), plain(x)
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)
        assert kernels.called == called


def test_values_are_rounded_where_the_module_rounds_them(kernels: Kernels) -> None:
    for name in ("t5.T5LayerNorm", "llama.LlamaRMSNorm"):
        plain = module(name).bfloat16()
        made = deepcopy(plain)
        forms.fuse(made)
        x = torch.randn(2, 5, WIDTH).bfloat16()
        assert torch.equal(made(x), plain(x))


def test_weights_are_read_when_it_runs(kernels: Kernels) -> None:
    """Divided blocks and adapters put others in their place."""
    made, other = module("t5.T5LayerNorm"), module("t5.T5LayerNorm")
    forms.fuse(made)
    del made._parameters["weight"]
    made.__dict__["weight"] = other.weight.data * 2
    x = torch.randn(2, WIDTH)
    torch.testing.assert_close(made(x), 2 * other(x))
    assert kernels.called == ["norm"]


def test_a_class_of_the_same_name_elsewhere_is_left_alone() -> None:
    class LlamaRMSNorm(nn.Module):
        pass

    mine = LlamaRMSNorm()
    forms.fuse(mine)
    assert type(mine) is LlamaRMSNorm


def test_on_a_cpu_a_module_runs_its_own_code() -> None:
    with patch.object(fused, "kernels", pytest.fail):
        assert not fused.takes(torch.zeros(1, 1, dtype=torch.bfloat16))


def on_gpu(*, contiguous: bool = True, numbers: int = 4) -> Any:
    return SimpleNamespace(is_cuda=True, is_contiguous=lambda: contiguous, numel=lambda: numbers)


def test_where_kernels_cannot_run_a_module_runs_its_own_code() -> None:
    with patch.object(fused, "kernels", lambda: None):
        assert not fused.takes(on_gpu())
    with patch.object(fused, "kernels", Kernels):
        assert fused.takes(on_gpu())
        assert not fused.takes(on_gpu(contiguous=False))
        assert not fused.takes(on_gpu(numbers=0))
        with patch.object(torch.compiler, "is_compiling", lambda: True):
            assert not fused.takes(on_gpu())
        with patch.object(torch, "is_autocast_enabled", lambda device: device == "cuda"):
            assert not fused.takes(on_gpu())


def language(tmp_path: Any, family: str, dtype: str = "fp32") -> Any:
    CONFIGS[family].save_pretrained(tmp_path)
    torch.manual_seed(0)
    kind = "seq2seq" if family == "t5" else "causal"
    config = Language(family=kind, config=str(tmp_path / "config.json"), tokenizer="t", dtype=dtype)
    model: Any = (Seq2SeqLanguage if family == "t5" else CausalLanguage)(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.1)
    return model


def prompts(device: str = "cpu") -> PromptBatch:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 64, (3, 9), generator=draw).to(device)
    mask = (torch.arange(9) < torch.tensor([4, 9, 6])[:, None]).to(device)
    return PromptBatch(
        pixels=torch.zeros(3, 3, 2, 2), valid=torch.ones(3, dtype=torch.bool), input_ids=ids, attention_mask=mask,
        visual_mask=torch.zeros_like(mask), labels=ids.masked_fill(~mask, -100),
    )  # fmt: skip


def score_and_gradient(model: Any, batch: PromptBatch) -> tuple[Tensor, Tensor]:
    return value_and_gradient(lambda embeds: model.score(embeds, batch)[0], model.embed(batch.input_ids))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_is_built_with_them(tmp_path: Any, kernels: Kernels, family: str) -> None:
    model, batch = language(tmp_path, family), prompts()
    found = score_and_gradient(model, batch)
    wanted_parts = {"norm", "gated", "add_norm"} if family in ("llama", "qwen3") else {"norm", "gated"}
    assert wanted_parts | {f"{part}_backward" for part in wanted_parts} == set(kernels.called)
    model.recompute(True)
    again = score_and_gradient(model, batch)
    with patch.object(fused, "takes", lambda _: False):
        wanted = score_and_gradient(model, batch)
    for one, other, third in zip(found, again, wanted, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, third, rtol=1e-4, atol=1e-5 * float(third.abs().max()))


def test_compiled_blocks_trace_their_own_code(tmp_path: Any, kernels: Kernels, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model, batch = language(tmp_path, "llama"), prompts()
    with patch.object(fused, "takes", lambda _: False):
        wanted = score_and_gradient(model, batch)
    model.compile_blocks()
    found = score_and_gradient(model, batch)
    assert set(kernels.called) == {"norm", "norm_backward"}  # that behind the blocks
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("family", ["T5", "MT5", "UMT5"])
def test_the_position_bias_is_contiguous(family: str) -> None:
    modeling = importlib.import_module(f"transformers.models.{family.lower()}.modeling_{family.lower()}")
    shape = getattr(transformers, f"{family}Config")(**T5)
    plain = getattr(modeling, f"{family}Attention")(shape, has_relative_attention_bias=True, layer_idx=0)
    made = deepcopy(plain)
    forms.fuse(made)
    found, wanted = made.compute_bias(6, 5), plain.compute_bias(6, 5)
    assert torch.equal(found, wanted)
    assert found.is_contiguous()


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [48, 128, 2048, 5000, 8192])
@pytest.mark.parametrize("name", ["t5.T5LayerNorm", "llama.LlamaRMSNorm"])
def test_norm_kernel_does_what_the_module_does(dtype: torch.dtype, width: int, name: str) -> None:
    plain = module(name)
    plain.weight = nn.Parameter(1 + 0.3 * torch.randn(width), requires_grad=False)
    plain = plain.cuda().to(dtype)
    made = deepcopy(plain)
    forms.fuse(made)
    for x in (torch.randn(3, 37, width, device="cuda").to(dtype), torch.randn(2, width, device="cuda") * 3):
        if x.dtype != dtype and name.startswith("llama"):
            continue
        assert fused.takes(x)
        wanted, wanted_gradient = value_and_gradient(plain, x)
        found, gradient = value_and_gradient(made, x)
        assert (found.dtype, gradient.dtype) == (wanted.dtype, wanted_gradient.dtype)
        # both round the same fp32 values; those that lie within an fp32 rounding of the middle may go either way
        assert (found != wanted).float().mean() < 0.002
        torch.testing.assert_close(found, wanted, rtol=4 * torch.finfo(dtype).eps, atol=0)
        exact = value_and_gradient(deepcopy(plain).double(), x.double())[1]
        assert error(gradient, exact) < 1.05 * error(wanted_gradient, exact)


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "gelu_pytorch_tanh", "silu"])
@pytest.mark.parametrize("shape", [(2, 7, 10), (5, 5120), (3, 4, 1500)])
def test_gate_kernel_does_what_torch_does(dtype: torch.dtype, act: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    function = transformers.activations.ACT2FN[act]
    x = (torch.randn(*shape[:-1], 2 * shape[-1], device="cuda") * 3).to(dtype)

    def plain(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return function(a) * b

    def apart(x: Tensor) -> Tensor:
        return fused.gated(function, *(half.contiguous() for half in x.chunk(2, -1)))

    exact, wanted = value_and_gradient(plain, x.double()), value_and_gradient(plain, x)
    for run in (apart, partial(fused.gated_halves, function)):
        found = value_and_gradient(run, x)
        for one, other, true in zip(found, wanted, exact, strict=True):
            assert one.dtype == dtype
            assert error(one, true) < 1.05 * error(other, true)
        if act != "gelu_new":  # whose terms transformers rounds one by one
            # below, torch's 1 + tanh and 1 + erf lose what the kernel keeps
            near = x.chunk(2, -1)[0] > -2.5
            assert (found[0] != wanted[0])[near].float().mean() < 0.002


def error(x: Tensor, exact: Tensor) -> float:
    return float((x.double() - exact).norm() / exact.norm())


@gpu
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_on_a_gpu_is_no_less_exact(tmp_path: Any, family: str, dtype: str) -> None:
    model, batch = language(tmp_path, family, dtype).cuda(), prompts("cuda")
    found = score_and_gradient(model, batch)
    model.recompute(True)
    again = score_and_gradient(model, batch)
    with patch.object(fused, "takes", lambda _: False):
        plain = score_and_gradient(model, batch)
        model.float().dtype = torch.float32
        exact = score_and_gradient(model, batch)
    for one, other, rough, true in zip(found, again, plain, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-2 * float(true.abs().max()))
        assert error(one, true.double()) < 1.5 * error(rough, true.double())


@gpu
def test_t5_needs_no_attention_of_many_kernels(tmp_path: Any) -> None:
    model, batch = language(tmp_path, "t5", "bf16").cuda(), prompts("cuda")
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]):
        found = score_and_gradient(model, batch)
    for one, other in zip(found, score_and_gradient(model, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))


@gpu
def test_on_a_gpu_compiled_blocks_trace_their_own_code(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model, batch = language(tmp_path, "t5", "bf16").cuda(), prompts("cuda")
    with patch.object(fused, "takes", lambda _: False):
        wanted = score_and_gradient(model, batch)
    model.compile_blocks()
    for one, other in zip(score_and_gradient(model, batch), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=5e-2, atol=5e-2 * float(other.abs().max()))
