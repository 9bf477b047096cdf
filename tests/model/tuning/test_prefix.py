"""Trained keys and values in every block."""

import pytest
import small_chatglm
import torch
from model.tuning import families
from model.tuning.families import gradients, loss_of

from vglm_train.config.language import Decoding
from vglm_train.config.tuning import Prefix
from vglm_train.config.validation import FieldError
from vglm_train.errors import UserError
from vglm_train.model.language.adapter import Prefix as PrefixAdapter
from vglm_train.model.language.linears import quantize_blocks
from vglm_train.model.tuning import is_adapter
from vglm_train.model.tuning.prefix import attach_prefix


def prefixed(family, folder, layers=(), dtype="fp32", length=3):
    model = families.language(family, folder / "m", dtype)
    attach_prefix(model, Prefix(length=length, layers=layers), 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for adapter in model.adapters():
            for weight in adapter.parameters():
                weight.normal_()
    return model


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("recompute", [False, True])
def test_prefixes_alone_get_gradients(tmp_path, family, recompute):
    model, batch = prefixed(family, tmp_path), families.prompts(family)
    plain = gradients(model, batch)
    assert len(plain) == 2 * len(model.blocks())
    assert all(is_adapter(name) for name in plain)
    assert all(grad.abs().sum() > 0 for grad in plain.values())
    model.recompute(recompute)
    for name, grad in gradients(model, batch).items():
        torch.testing.assert_close(grad, plain[name])


@pytest.mark.parametrize("family", families.FAMILIES)
def test_gradients_are_those_of_finite_differences(tmp_path, family):
    model, batch = prefixed(family, tmp_path), families.prompts(family)
    found = gradients(model, batch)
    for name, grad in list(found.items())[:2]:
        parameter, direction = model.get_parameter(name), torch.sign(grad)
        losses = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
                losses.append(float(loss_of(model, batch)))
                parameter.add_(direction, alpha=-step)
        expected = float(grad.abs().sum())
        assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(expected, rel=0.05, abs=0.02)


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("layers", [(), (1,)])
def test_writing_with_a_cache_agrees_with_reading_at_once(tmp_path, family, layers):
    """Each id that greedy decoding writes is the likeliest one when all before it is read in one pass."""
    model = prefixed(family, tmp_path, layers)
    batch = families.prompts(family)
    prompt = families.without_answers(family, batch)
    with torch.no_grad():
        written = model.generate(model.embed(prompt.input_ids), prompt, Decoding(max_new=5), end_id=-1)
        read = families.with_answers(family, prompt, written)
        logits, targets = model.score(model.embed(read.input_ids), read)
        assert torch.equal(logits.argmax(-1), targets)
        plain = families.language(family, tmp_path / "m")
        other = plain.generate(plain.embed(prompt.input_ids), prompt, Decoding(max_new=5), end_id=-1)
    assert not torch.equal(other, written)


def test_an_fp16_models_prefix_gets_gradients_that_fp16_could_not_hold(tmp_path):
    batch = families.prompts("chatglm")
    half, full = prefixed("chatglm", tmp_path, dtype="fp16"), prefixed("chatglm", tmp_path)
    full.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    for model in (half, full):
        (loss_of(model, batch) / 1e7).backward()
    for (name, ours), theirs in zip(half.named_parameters(), full.parameters(), strict=True):
        if is_adapter(name):
            assert (ours.grad - theirs.grad).norm() < 0.05 * theirs.grad.norm()


def test_blocks_without_prefix_are_as_they_were():
    model = small_chatglm.chatglm()
    attach_prefix(model, Prefix(length=4, layers=(2,)), 0)
    assert [isinstance(a, PrefixAdapter) for a in (getattr(m, "adapter", None) for m, *_ in model.attentions())] == [
        False,
        False,
        True,
    ]
    assert model.blocks()[2].attention.adapter.prefix_keys.shape == (4, 4, 12)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_on_quantised_blocks_too(tmp_path, family):
    model = families.language(family, tmp_path / "m")
    shapes = [(heads, width) for _, heads, width in model.attentions()]
    quantize_blocks(model)
    assert [(heads, width) for _, heads, width in model.attentions()] == shapes
    attach_prefix(model, Prefix(length=2), 0)
    assert all(is_adapter(name) for name in gradients(model, families.prompts(family)))


def test_mistakes_are_told(tmp_path):
    with pytest.raises(FieldError, match=r"tuning\.prefix\.layers: there is no block 7: the language model has 3"):
        attach_prefix(small_chatglm.chatglm(), Prefix(layers=(7,)), 0)
    model = families.language("causal", tmp_path / "m")
    model.model.set_attn_implementation("eager")
    with pytest.raises(UserError, match=r"tuning\.prefix: the attention of OPTForCausalLM is its own \(eager\)"):
        attach_prefix(model, Prefix(), 0)
