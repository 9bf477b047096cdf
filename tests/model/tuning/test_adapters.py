"""Updates folded into weights, and several adapters on one model."""

import json
from dataclasses import replace

import made_language
import pytest
import small_chatglm
import tiny_language
import torch
from model.tuning import families
from model.tuning.families import gradients, loss_of

from vglm_train.config.language import Language
from vglm_train.config.tuning import Lora, Prefix, Rule, Tuning, VisionBlocks
from vglm_train.errors import UserError
from vglm_train.model.language import build_language
from vglm_train.model.language.linears import quantize_blocks
from vglm_train.model.tuning import apply_tuning
from vglm_train.model.tuning.adapters import Adapters
from vglm_train.model.tuning.lora import LowRank, attach_lora, merge

FROZEN = (Rule(match="*", train=False),)


def gpt2(folder):
    """Its products hold their weights the other way round."""
    shape = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 256, "n_positions": 64}
    (folder / "config.json").write_text(json.dumps(shape))
    model = build_language(Language(family="causal", config=str(folder), tokenizer="none", dtype="fp32"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    return model


@pytest.mark.parametrize("family", [*families.FAMILIES, "gpt2"])
def test_merged_equals_unmerged(tmp_path, family):
    model = gpt2(tmp_path) if family == "gpt2" else families.language(family, tmp_path / "m")
    batch = families.prompts("causal" if family == "gpt2" else family)
    plain = loss_of(model, batch)
    names = list(model.state_dict())
    attached = attach_lora(model, Lora(rank=3, targets=("*",)), 0)
    wake(model, 0.1)
    assert all(grad.abs().sum() > 0 for grad in gradients(model, batch).values())
    with torch.no_grad():
        before = model.score(model.embed(batch.input_ids), batch)[0]
        assert merge(model) == [product.name for product in attached]
        after = model.score(model.embed(batch.input_ids), batch)[0]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert list(model.state_dict()) == names
    assert not torch.isclose(loss_of(model, batch), plain)


def wake(model, std=0.5, seed=3):
    torch.manual_seed(seed)
    with torch.no_grad():
        for adapter in model.adapters():
            if isinstance(adapter, LowRank):
                adapter.lora_b.normal_(std=std)


def test_updates_do_not_merge_into_four_bits():
    model = small_chatglm.chatglm()
    quantize_blocks(model)
    attach_lora(model, Lora(rank=2), 0)
    with pytest.raises(UserError, match="merge into weights in full: load the language model without"):
        merge(model)
    assert list(model.adapters())


def base():
    model = tiny_language.build(tiny_language.CHATGLM)
    made_language.spread(model.language)
    return model


def trained(seed, **tuning):
    """A tuned model's tensors, as a run would leave them."""
    model = base()
    apply_tuning(model, Tuning(**tuning), seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model, {name: p.detach().clone() for name, p in model.trained_parameters()}


def logits(model):
    with torch.no_grad():
        return model.eval().score(tiny_language.prompts(4))[0]


@pytest.fixture(scope="module")
def made():
    """Two adapters: their own models, tensors."""
    rules = (Rule(match="projection.*"), *FROZEN)
    return {
        "a": trained(1, lora=Lora(rank=3, alpha=6.0), rules=FROZEN),
        "b": trained(2, lora=Lora(rank=2, alpha=2.0, layers=(1,), targets=("dense*",)), rules=rules),
        "p": trained(3, prefix=Prefix(length=3), rules=FROZEN),
    }


@pytest.fixture
def loaded(made):
    model = base()
    adapters = Adapters(model)
    for name, scale in (("a", 2.0), ("b", 1.0), ("p", 1.0)):
        adapters.add(name, made[name][1], scale)
    return model, adapters


def test_each_alone_is_the_model_it_came_from(made, loaded):
    model, adapters = loaded
    plain = logits(model)
    for name in ("a", "p", "b", "a"):
        adapters.use({name: 1.0})
        torch.testing.assert_close(logits(model), logits(made[name][0]), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits(model), plain, atol=1e-3)
    adapters.use({})
    assert torch.equal(logits(model), plain)


def test_a_sum_is_the_sum_of_what_each_adds(made, loaded):
    model, adapters = loaded
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapters.use({"a": 0.5, "b": -2.0})
    merge(model.language)
    after = dict(model.named_parameters())
    for name, value in before.items():
        expected = value.clone()
        for weight, key in ((0.5, "a"), (-2.0, "b")):
            expected += weight * _added(made[key][0], name, value)
        torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-5)


def _added(model, name, value):
    """What an adapter's own model has more than the base in this parameter."""
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    update = getattr(module, "adapter", None)
    return update.delta() if last == "weight" and update is not None else model.get_parameter(name).detach() - value


def test_a_prefix_beside_an_update(made, loaded):
    model, adapters = loaded
    adapters.use({"a": 1.0, "p": 1.0})
    both = logits(model)
    adapters.use({"p": 1.0})
    assert not torch.allclose(both, logits(model))
    for weights in ({"p": 0.5}, {"p": 1.0, "q": 1.0}):
        adapters.add("q", made["p"][1], 1.0)
        with pytest.raises(UserError, match="use it alone, whole"):
            adapters.use(weights)


def test_trained_image_blocks_come_back_in_full_precision():
    """What training changed may be less than bf16 tells apart."""
    shape = replace(tiny_language.CHATGLM, vision=replace(tiny_language.CHATGLM.vision, dtype="bf16", depth=3))
    model, twin = tiny_language.build(shape), tiny_language.build(shape)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    apply_tuning(twin, Tuning(rules=FROZEN, vision_blocks=VisionBlocks(last=2)))
    with torch.no_grad():
        for _, parameter in twin.trained_parameters():
            parameter.mul_(1 + 2**-10)
    adapters = Adapters(model)
    adapters.add("v", {name: p.detach().clone() for name, p in twin.trained_parameters()}, 1.0)
    adapters.use({"v": 1.0})
    pixels = tiny_language.prompts(2).pixels
    with torch.no_grad():
        assert torch.equal(model.encode_image(pixels), twin.encode_image(pixels))
    adapters.use({})
    assert all(torch.equal(p, before[name]) and p.dtype == before[name].dtype for name, p in model.named_parameters())


def test_what_does_not_fit_is_named():
    section = replace(tiny_language.CHATGLM.language, layers=1)
    adapters = Adapters(tiny_language.build(replace(tiny_language.CHATGLM, language=section)))
    _, deep = trained(1, lora=Lora(rank=2), rules=FROZEN)
    with pytest.raises(
        UserError, match=r"adapter x: the model has no linear layer for language\..*layers\.1\.attention"
    ):
        adapters.add("x", deep, 1.0)
    _, prefix = trained(1, prefix=Prefix(), rules=FROZEN)
    with pytest.raises(UserError, match=r"adapter x: the model has no attention .*layers\.1\.attention"):
        adapters.add("x", prefix, 1.0)
    with pytest.raises(UserError, match=r"adapter x: projection\.weight is \[3, 3\], the model has one of \[32, 32\]"):
        adapters.add("x", {"projection.weight": torch.zeros(3, 3)}, 1.0)
