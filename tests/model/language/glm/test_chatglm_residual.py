"""ChatGLM's sums and norms in fewer kernels: the numbers of SAT's own block, and where which of them runs."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from precision import EXACT, in_float64
from small_chatglm import SHAPE, chatglm, prompts
from torch import Tensor, nn

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.language import Language
from vglm_train.distributed import Ranks
from vglm_train.model.frozen_blocks import FrozenBlocks
from vglm_train.model.language import build_language
from vglm_train.model.language.glm import residual

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")
EPS, ALPHA = 1e-5, 56**0.5
SIZES = [(3, 5, 48), (2, 130, 100), (40, 33, 768), (2, 96, 4096), (1, 1, 5000)]  # rows, tokens, width


@dataclass
class Kernels:
    """What the kernels compute, by torch's operations; `called` has their names."""

    called: list[str] = field(default_factory=list)

    def norm(self, h: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        self.called.append("norm")
        return self._norm(h, weight, bias, eps)

    def add_and_norm(
        self, kept: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float, alpha: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.called.append("add_and_norm")
        total = y + alpha * kept
        out, mean, scale = self._norm(total, weight, bias, eps)
        return out, total, mean, scale

    def backward(
        self, product: Tensor, kept: Tensor, h: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, alpha: float
    ) -> Tensor:
        self.called.append("backward")
        assert product.is_contiguous()
        assert kept.is_contiguous()
        slope = (product + alpha * kept) * weight
        normed = (h - mean[..., None]) * scale[..., None]
        along = (slope * normed).mean(-1, keepdim=True)
        return scale[..., None] * (slope - normed * along - slope.mean(-1, keepdim=True))

    def add(self, kept: Tensor, y: Tensor, alpha: float) -> Tensor:
        self.called.append("add")
        return y + alpha * kept

    @staticmethod
    def _norm(h: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        mean = h.mean(-1)
        scale = ((h - mean[..., None]).square().mean(-1) + eps).rsqrt()
        return F.layer_norm(h, h.shape[-1:], weight, bias, eps), mean, scale


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    """Fused on this machine too, and in every precision."""
    made = Kernels()

    def fuses(x: Tensor, *norms: nn.Module) -> bool:
        return all(residual._is_plain(norm, x.dtype) for norm in norms)

    every = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    with patch.multiple(residual, kernels=lambda: made, HALF=every, fuses=fuses):
        yield made


def batch(device: str = "cpu") -> PromptBatch:
    made = prompts([5, 9, 2], [6, 3, 1], width=17)
    names = ("input_ids", "attention_mask", "visual_mask", "labels")
    return replace(made, **{name: getattr(made, name).to(device) for name in names})


def with_norms(model: Any) -> Any:
    """Norms with gains and shifts of their own: those of a new model are ones and zeros."""
    torch.manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, std=0.3)
    return model


def score_and_gradients(model: Any, device: str = "cpu") -> list[Tensor]:
    """Logits, and what a fixed sum of them gives the embeddings and all that trains."""
    asked = batch(device)
    embeds = model.embed(asked.input_ids).detach().requires_grad_()
    logits, _ = model.score(embeds, asked)
    above = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)).bfloat16().to(logits)
    trained = [part for part in model.parameters() if part.requires_grad]
    return [logits.detach(), *torch.autograd.grad(logits, [embeds, *trained], above)]


def plainly(model: Any, device: str = "cpu") -> list[Tensor]:
    with patch.object(residual, "fuses", lambda *_: False):
        return score_and_gradients(model, device)


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=EXACT["rtol"], atol=1e-9 * float(other.abs().max()))


def test_a_block_computes_what_sat_s_does(kernels: Kernels) -> None:
    model = with_norms(chatglm())
    with in_float64(model):
        wanted = plainly(model)
        assert not kernels.called
        found = score_and_gradients(model)
        assert kernels.called == ["norm", "add_and_norm", "add"] * 3 + ["backward"] * 6
        model.recompute(True)
        again = score_and_gradients(model)
    assert_same(found, wanted)
    assert all(torch.equal(*pair) for pair in zip(again, found, strict=True))


def test_backward_neither_multiplies_by_alpha_nor_adds_gradients_up(kernels: Kernels) -> None:
    """What costs a pass over memory between the products is the kernels' and nothing else."""
    model = with_norms(chatglm())
    network = model.network
    x = torch.randn(2, 5, 48, requires_grad=True)

    hidden = x
    for number, layer in enumerate(model.blocks()):
        attention = patch.object(layer.attention, "forward", lambda x, *_, **__: x.tanh())
        with attention, patch.object(layer.mlp, "forward", lambda x, **_: x.tanh()):
            hidden = network.hooks["layer_forward"](hidden, None, layer_id=number, output_this_layer={})
    with (
        patch.object(Kernels, "backward", lambda self, product, *_: product),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
    ):
        hidden.backward(torch.ones_like(x))
    found = {row.key for row in profile.key_averages()}
    assert "aten::tanh_backward" in found
    assert found.isdisjoint({"aten::add", "aten::add_", "aten::mul", "aten::mul_"})


def test_the_last_block_computes_its_mlp_for_targets_alone() -> None:
    model, asked = with_norms(chatglm()), batch()
    read: list[Any] = []
    for block in model.blocks():
        block.mlp.register_forward_pre_hook(lambda _, inputs: read.append(tuple(inputs[0].shape)))
    with in_float64(model):
        found = score_and_gradients(model)
        assert read == [(3, 17, 48), (3, 17, 48), (7 + 4 + 2, 48)]
        every = torch.arange(3 * 17)
        layout = model.layout(asked)
        embeds = model.embed(asked.input_ids).detach().requires_grad_()
        logits = model._logits(embeds, layout.positions, layout.visible, every)
        logits = logits[asked.target_places(apart=False) - 1]
        above = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)).bfloat16().to(logits)
        assert_same(found, [logits.detach(), torch.autograd.grad(logits, embeds, above)[0]])


def test_gradient_of_chosen_rows() -> None:
    x, rows = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.tensor([3, 0, 4])
    assert torch.equal(residual.take(x, rows), x[rows])
    assert torch.autograd.gradcheck(lambda x: residual.take(x, rows), x)


def test_only_part_of_the_gradients_is_wanted(kernels: Kernels) -> None:
    """Without a gradient of the embeddings, and with one of an adapter's weights inside of a block."""
    model = with_norms(chatglm())
    for layer in model.network.transformer.layers[1:]:
        for part in (layer.attention.dense, layer.mlp.dense_h_to_4h):
            part.weight.requires_grad_(True)

    def gradients() -> list[Tensor]:
        logits, _ = model.score(model.embed(batch().input_ids), batch())
        return list(torch.autograd.grad(logits.sin().sum(), [p for p in model.parameters() if p.requires_grad]))

    with in_float64(model):
        found, count = gradients(), kernels.called.count("backward")
        with patch.object(residual, "fuses", lambda *_: False):
            assert_same(found, gradients())
    assert count == 3  # not before what trains


def test_norms_that_train_or_have_hooks_are_run_as_modules(kernels: Kernels) -> None:
    model = chatglm()
    first, second, _ = model.network.transformer.layers
    first.post_attention_layernorm.weight.requires_grad_(True)
    seen: list[Any] = []
    second.input_layernorm.register_forward_hook(lambda *_: seen.append(1))
    found = score_and_gradients(model)
    assert kernels.called == ["norm", "add_and_norm", "add", "backward", "backward"]  # of the third block
    assert seen
    for one, other in zip(found, plainly(model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_attention_and_mlp_are_called_as_modules(kernels: Kernels) -> None:
    model, called = chatglm(), []
    for layer in model.network.transformer.layers:
        for part in (layer, layer.attention, layer.mlp):
            part.register_forward_hook(lambda module, *_: called.append(type(module).__name__))
    score_and_gradients(model)
    assert called == ["SelfAttention", "MLP", "BaseTransformerLayer"] * 3


def test_blocks_whose_weights_lie_elsewhere(kernels: Kernels) -> None:
    model = with_norms(chatglm())
    wanted = score_and_gradients(model)
    frozen = FrozenBlocks(Ranks(device=torch.device("cpu")), offload=False)
    frozen.add(model, model.blocks())
    kernels.called.clear()
    found = score_and_gradients(model)
    assert kernels.called.count("backward") == 6
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_a_copy_runs_its_own_weights(kernels: Kernels) -> None:
    model = with_norms(chatglm())
    made = deepcopy(model)
    for layer in made.network.transformer.layers:
        layer.post_attention_layernorm.bias.add_(1.0)
    assert not torch.equal(score_and_gradients(made)[0], score_and_gradients(model)[0])


def without_target(model: Any, device: str) -> tuple[Tensor, Tensor]:
    asked = batch(device)
    embeds = model.embed(asked.input_ids).detach().requires_grad_()
    logits, _ = model.score(embeds, replace(asked, labels=torch.full_like(asked.labels, IGNORED)))
    return logits, torch.autograd.grad(logits.sum(), embeds)[0]


def test_no_target_at_all(kernels: Kernels) -> None:
    logits, gradient = without_target(chatglm(), "cpu")
    assert kernels.called == ["norm", "add_and_norm", "add"] * 3 + ["backward"] * 6
    assert logits.shape == (0, SHAPE["vocabulary"])
    assert not gradient.any()


@gpu
def test_no_target_at_all_on_a_gpu() -> None:
    logits, gradient = without_target(chatglm(dtype="bf16").cuda(), "cuda")
    assert logits.shape == (0, SHAPE["vocabulary"])
    assert not gradient.any()


def test_on_a_cpu_sat_s_own_block_runs() -> None:
    with patch.object(residual, "kernels", pytest.fail):
        score_and_gradients(chatglm(dtype="bf16"))


def on_gpu(*, contiguous: bool = True, numbers: int = 4, width: int = 4, dtype: Any = torch.bfloat16) -> Any:
    return SimpleNamespace(
        is_cuda=True, is_contiguous=lambda: contiguous, numel=lambda: numbers, shape=(1, width), dtype=dtype
    )


def test_where_kernels_cannot_run_sat_s_own_block_does() -> None:
    norm = nn.LayerNorm(4).bfloat16().requires_grad_(False)
    with patch.object(residual, "kernels", lambda: None):
        assert not residual.fuses(on_gpu(), norm)
    with patch.object(residual, "kernels", Kernels):
        assert residual.fuses(on_gpu(), norm, norm)
        assert not residual.fuses(on_gpu(contiguous=False), norm)
        assert not residual.fuses(on_gpu(numbers=0), norm)
        assert not residual.fuses(on_gpu(width=10_000), norm)
        assert not residual.fuses(on_gpu(dtype=torch.float32), norm)
        assert not residual.fuses(on_gpu(dtype=torch.float16), norm)
        assert not residual.fuses(on_gpu(), norm, nn.RMSNorm(4).bfloat16().requires_grad_(False))
        assert not residual.fuses(on_gpu(), norm, deepcopy(norm).requires_grad_(True))
        assert not residual.fuses(on_gpu(dtype=torch.float32), deepcopy(norm).float())
        with patch.object(torch.compiler, "is_compiling", lambda: True):
            assert not residual.fuses(on_gpu(), norm)
        with patch.object(torch, "is_autocast_enabled", lambda device: device == "cuda"):
            assert not residual.fuses(on_gpu(), norm)


def made(n: int, s: int, width: int, dtype: torch.dtype) -> tuple[list[nn.LayerNorm], list[Tensor]]:
    """Two norms, and on a GPU what they read: what enters a block, and what stands for its attention and its MLP."""
    torch.manual_seed(0)
    norms = [nn.LayerNorm(width, EPS).requires_grad_(False) for _ in range(2)]
    for norm in norms:
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias)
    parts = [torch.randn(n, s, width) + 0.5 for _ in range(3)]
    return [norm.cuda().to(dtype) for norm in norms], [part.cuda().to(dtype) for part in parts]


def block(norms: list[nn.LayerNorm], parts: list[Tensor], fused: bool) -> list[Tensor]:
    """What a block gives with a product by numbers as attention and as MLP, its inner x, and the input's gradient."""
    h, read, wide = parts
    h = h.detach().requires_grad_()
    if fused:
        x, kept = residual.FUSED.norm(h, norms[0], ALPHA)
        x, kept = residual.FUSED.add_and_norm(kept, x * read, norms[1], ALPHA)
        out = residual.FUSED.add(kept, x * wide, ALPHA)
    else:
        x = norms[0](h)
        x = norms[1](x * ALPHA + x * read)
        out = x * ALPHA + x * wide
    above = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(out)
    return [x.detach(), out.detach(), *torch.autograd.grad(out, h, above)]


def error(x: Tensor, exact: Tensor) -> float:
    return float((x.double() - exact).norm() / exact.norm())


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_kernels_are_no_less_exact_than_what_torch_does(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    norms, parts = made(*size, dtype)
    assert residual.fuses(parts[0], *norms)
    found, rough = block(norms, parts, fused=True), block(norms, parts, fused=False)
    exact = block([deepcopy(norm).double() for norm in norms], [part.double() for part in parts], fused=False)
    limit = 0.01 if dtype == torch.bfloat16 else 0.00125  # a few roundings of 8 or 11 bits
    for one, other, true in zip(found, rough, exact, strict=True):
        assert one.dtype == dtype
        assert error(one, true) < min(limit, 1.05 * error(other, true))


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_norm_kernel_rounds_as_torch_does(dtype: torch.dtype) -> None:
    (norm, _), (h, *_) = made(2, 130, 4096, dtype)
    found, wanted = residual.FUSED.norm(h, norm, ALPHA)[0], norm(h)
    # both round the same fp32 values; those that lie within an fp32 rounding of the middle may go either way
    assert (found != wanted).float().mean() < 0.002
    torch.testing.assert_close(found, wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@gpu
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_model_on_a_gpu_is_no_less_exact(dtype: str) -> None:
    shape = {"layers": 3, "width": 256, "heads": 4, "mlp_width": 512, "vocabulary": 120, "tokenizer": "none"}
    torch.manual_seed(0)
    model = with_norms(build_language(Language(**shape, dtype=dtype))).cuda()
    found = score_and_gradients(model, "cuda")
    model.recompute(True)
    again = score_and_gradients(model, "cuda")
    rough = plainly(model, "cuda")
    model.float().dtype = torch.float32
    exact = plainly(model, "cuda")
    for one, other, plain, true in zip(found, again, rough, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-2 * float(true.abs().max()))
        assert error(one, true.double()) < 1.5 * error(plain, true.double())
