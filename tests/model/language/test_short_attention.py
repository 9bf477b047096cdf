"""Attention over short rows: which kernels take it, and on a GPU the kernels against the formula."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

from vglm_train.model.language import attention
from vglm_train.model.language.attention import Scores, attend, attend_short, fits
from vglm_train.model.language.hf.attention import _scores, short_sdpa
from vglm_train.model.language.hf.forms import use_short
from vglm_train.model.language.hf.fused import SHORT_SDPA

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels need a GPU")
CASES = {  # rows, queries, keys, heads, channels, bias, mask, causal
    "opt": (3, 64, 64, 4, 80, None, None, True),
    "chatglm": (2, 96, 96, 2, 128, (2, 1), None, False),
    "t5 encoder": (3, 48, 48, 4, 64, (1, 4), (3, 1, 1), False),
    "t5 decoder": (2, 17, 17, 3, 64, (1, 3), (2, 1, 17), False),
    "t5 cross": (2, 16, 48, 3, 64, (1, 3), (2, 1, 1), False),
    "one token": (2, 1, 1, 2, 16, None, None, False),
    "longest": (1, 128, 300, 2, 40, None, (1, 1, 128), False),
}
Made = tuple[tuple[Tensor, Tensor, Tensor], Scores]


def made(name: str, dtype: torch.dtype, device: str) -> Made:
    """Queries, keys and values, and what is done with the scores: a third of the keys is hidden, not the first."""
    n, s, t, h, d, bias, mask, causal = CASES[name]
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(n, length, h, d, generator=draw).to(device, dtype) for length in (s, t, t))
    added = torch.randn(*bias, s, t, generator=draw).to(device, dtype) if bias else None
    seen = None
    if mask:
        seen = ((torch.rand(*mask, t, generator=draw) < 0.7) | (torch.arange(t) == 0)).to(device)
        seen = seen.expand(-1, -1, s, -1)  # as transformers gives it: without a copy
    return (q, k, v), Scores(d**-0.5, added, seen, causal)


def exact(q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
    """By the formula, in fp64."""
    products = torch.einsum("nshd,nthd->nhst", q.double(), k.double()) * scores.scale
    if scores.bias is not None:
        products = products + scores.bias.double()
    if scores.mask is not None:
        products = products.masked_fill(~scores.mask, float("-inf"))
    if scores.causal:
        hidden = torch.ones(products.shape[2:], dtype=torch.bool, device=q.device).triu(1)
        products = products.masked_fill(hidden, float("-inf"))
    return torch.einsum("nhst,nthd->nshd", products.softmax(3), v.double())


def values_and_gradients(function, scores: Scores, *heads: Tensor) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in heads]
    out = function(*inputs, scores)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.device, out.dtype)
    return [out, *torch.autograd.grad(out, inputs, weights)]


def error(value: Tensor, wanted: Tensor) -> float:
    return float((value.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CASES)
def test_kernels_are_the_formula(name: str, dtype: torch.dtype) -> None:
    heads, scores = made(name, dtype, "cuda")
    assert fits(heads[0].requires_grad_(), *heads[1:], scores)
    found = values_and_gradients(attend_short, scores, *heads)
    wanted = values_and_gradients(exact, scores, *heads)
    limit = 0.01 if dtype == torch.bfloat16 else 0.002  # a few roundings of 8 or 11 bits
    errors = [error(*pair) for pair in zip(found, wanted, strict=True)]
    if heads[1].shape[1] == 1:  # one key: no gradient of queries and keys but what rounding leaves
        assert max(found[1].abs().max(), found[2].abs().max()) < limit
        errors = [errors[0], errors[3]]
    assert max(errors) < limit


@gpu
def test_a_row_that_sees_no_key_has_the_mean_of_all_and_no_gradient() -> None:
    """An empty place of a batch is in no loss, but what is not a number would spread."""
    (q, k, v), scores = made("t5 encoder", torch.bfloat16, "cuda")
    assert scores.mask is not None
    mask = scores.mask.clone()
    mask[1] = False
    found = values_and_gradients(attend_short, scores._replace(mask=mask), q, k, v)
    assert all(bool(x.isfinite().all()) for x in found)
    assert error(found[0][1], v[1].double().mean(0).expand(48, -1, -1)) < 0.01
    assert all(bool((gradient[1] == 0).all()) for gradient in found[1:])
    wanted = values_and_gradients(attend_short, scores, q, k, v)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(found, wanted, strict=True))


@gpu
def test_parts_of_a_packed_projection_are_read_in_place() -> None:
    packed = torch.randn(2, 30, 3, 4, 64, device="cuda", dtype=torch.bfloat16)
    scores = Scores(0.125, causal=True)
    apart = values_and_gradients(attend_short, scores, *(x.contiguous() for x in packed.unbind(2)))
    together = values_and_gradients(attend_short, scores, *packed.unbind(2))
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@gpu
def test_what_the_kernels_cannot_do_is_left_to_torch() -> None:
    (q, k, v), scores = made("opt", torch.bfloat16, "cuda")
    assert not fits(q, k, v, scores)  # nobody wants a gradient: an answer
    q = q.requires_grad_()
    assert fits(q, k, v, scores)
    assert not fits(q, k[:, :, :2], v[:, :, :2], scores)  # fewer heads of keys
    assert not fits(q.float(), k.float(), v.float(), scores)
    assert not fits(q, k, v, scores._replace(bias=torch.zeros(1, 1, 64, 64, device="cuda", requires_grad=True)))
    longer = torch.zeros(1, 129, 2, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    assert not fits(longer, longer, longer, scores)
    assert not fits(q, k[:1], v[:1], scores)  # the same keys for all rows
    assert not fits(q, k, v[..., :40], scores)
    assert not fits(q, k, v, scores._replace(mask=torch.ones(1, 1, 64, 1, dtype=torch.bool, device="cuda")))


@gpu
def test_a_card_with_too_little_memory_for_them_goes_on_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    from vglm_train.model import attention_triton

    def launched(kernel: object, *_: object, **__: object) -> None:
        if kernel is attention_triton._backward:
            raise OutOfResources(131072, 101376, "shared memory")

    (q, k, v), scores = made("chatglm", torch.bfloat16, "cuda")
    monkeypatch.setattr(attention_triton, "launch", launched)
    attention_triton.fits_card.cache_clear()
    assert not fits(q.requires_grad_(), k, v, scores)
    monkeypatch.undo()
    attention_triton.fits_card.cache_clear()
    assert fits(q, k, v, scores)


def test_elsewhere_it_is_torchs_attention() -> None:
    (q, k, v), scores = made("chatglm", torch.float32, "cpu")
    q = q.requires_grad_()
    assert not fits(q, k, v, scores)
    plain = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=scores.bias)
    torch.testing.assert_close(attend(q, k, v, scores.bias), plain.transpose(1, 2).flatten(2), rtol=0, atol=0)


OPTIONS = [
    ({"dropout": 0.0, "scaling": 0.5}, Scores(0.5, causal=True)),
    ({"scaling": None, "sliding_window": 4096, "position_ids": torch.arange(3)}, Scores(0.25, causal=True)),
    ({"is_causal": False}, Scores(0.25)),
    ({"dropout": 0.1}, None),
    ({"softcap": 30.0}, None),
    ({"output_attentions": True}, None),
    ({"something": torch.ones(2)}, None),
]


@pytest.mark.parametrize(("options", "wanted"), OPTIONS)
def test_options_of_transformers(options: dict[str, object], wanted: Scores | None) -> None:
    q = torch.zeros(2, 4, 8, 16)
    assert _scores(SimpleNamespace(is_causal=True), q, q, None, options) == wanted


def test_a_mask_of_transformers_replaces_the_causal_one() -> None:
    q, mask = torch.zeros(2, 4, 8, 16), torch.ones(2, 1, 8, 8, dtype=torch.bool)
    bias = torch.zeros(1, 4, 8, 8)
    assert _scores(SimpleNamespace(is_causal=True), q, q, mask, {}) == Scores(0.25, None, mask, False)
    found = _scores(SimpleNamespace(), q, q, mask, {"position_bias": bias})
    assert found == Scores(0.25, bias, mask, False)
    assert _scores(SimpleNamespace(), q, q, bias, {}) == Scores(0.25, bias, None, False)
    assert _scores(SimpleNamespace(), q, q, bias, {"position_bias": bias}) is None
    assert _scores(SimpleNamespace(), q[:, :, :5], q, None, {}) is None  # after a cache, causal is another corner


def test_short_sdpa_is_transformers_attention_with_the_same_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where kernels take it, they are given the same scores: the formula of those is transformers' result."""
    module = SimpleNamespace(is_causal=True)
    for name in ("opt", "t5 encoder", "t5 decoder", "chatglm"):
        (q, k, v), scores = made(name, torch.float64, "cpu")
        inputs = [x.transpose(1, 2) for x in (q, k, v)]
        options = {"scaling": scores.scale}
        mask = scores.mask
        if mask is None:
            mask = scores.bias
        else:
            options["position_bias"] = scores.bias
        wanted, _ = short_sdpa(module, *inputs, mask, **options)
        with monkeypatch.context() as patch:
            patch.setattr("vglm_train.model.language.hf.attention.fits", lambda *_: True)
            patch.setattr("vglm_train.model.language.hf.attention.attend_short", exact)
            found, _ = short_sdpa(module, *inputs, mask, **options)
        torch.testing.assert_close(found, wanted)


class StandIn:
    """The kernels' module, computing the formula."""

    Heads = staticmethod(lambda *heads: heads)
    How = staticmethod(Scores)

    @staticmethod
    def forward(heads: tuple[Tensor, Tensor, Tensor], scores: Scores) -> tuple[Tensor, Tensor]:
        return exact(*heads, scores), torch.zeros(1)

    @staticmethod
    def backward(
        grad: Tensor, heads: tuple[Tensor, ...], scores: Scores, out: Tensor, lse: Tensor, grads: tuple[Tensor, ...]
    ) -> None:
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in heads]
            found = torch.autograd.grad(exact(*inputs, scores), inputs, grad)
        for into, value in zip(grads, found, strict=True):
            into.copy_(value)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_the_function_go_where_they_belong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "built", lambda: StandIn)
    heads, scores = made(name, torch.float64, "cpu")
    found = values_and_gradients(attend_short, scores, *heads)
    wanted = values_and_gradients(exact, scores, *heads)
    torch.testing.assert_close(found, wanted)


def test_known_families_ask_for_it_and_others_keep_their_own() -> None:
    opt = OPTForCausalLM(OPTConfig(hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, num_hidden_layers=1,
                                   num_attention_heads=2, vocab_size=20))  # fmt: skip
    t5 = T5ForConditionalGeneration(T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=20))
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20))
    for model in (opt, t5, gpt2):
        use_short(model)
    assert opt.config._attn_implementation == t5.config._attn_implementation == SHORT_SDPA
    assert {part.config._attn_implementation for part in (t5.encoder, t5.decoder)} == {SHORT_SDPA}
    assert gpt2.config._attn_implementation == "sdpa"
