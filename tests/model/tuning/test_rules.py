"""Which parameters train, by name."""

from dataclasses import replace

import pytest
import tiny_language
import torch

from vglm_train.config.tuning import RULES, Lora, Rule, Tuning
from vglm_train.config.validation import FieldError
from vglm_train.model.tuning import apply_tuning, is_adapter, table


@pytest.fixture
def model():
    return tiny_language.build(tiny_language.CHATGLM)


def half(dtype="bf16"):
    language = replace(tiny_language.CHATGLM.language, dtype=dtype)
    return tiny_language.build(replace(tiny_language.CHATGLM, language=language))


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_default_is_what_stage_two_trains(model):
    before = trained(model)
    resolved = apply_tuning(model, Tuning())
    assert trained(model) == before == {line.name for line in resolved if line.trained}
    assert {name.split(".")[0] for name in before} == {"vision_norm", "qformer", "projection"}


def test_the_first_rule_that_fits_decides(model):
    rules = (Rule(match="*.bias", train=False), Rule(match="projection.*", lr=3.0), Rule(match="*", train=False))
    lines = {line.name: line for line in apply_tuning(model, Tuning(rules=rules))}
    assert trained(model) == {"projection.weight"}
    assert lines["projection.weight"].lr == 3.0
    assert lines["projection.bias"].rule == "*.bias"
    assert lines["qformer.query_tokens"].rule == "*"


def test_what_no_rule_fits_is_frozen(model):
    lines = apply_tuning(model, Tuning(rules=(Rule(match="qformer.*"),)))
    assert all(name.startswith("qformer.") for name in trained(model))
    assert {line.rule for line in lines if not line.trained} == {""}


def test_adapters_train_whatever_the_rules_say(model):
    lines = apply_tuning(model, Tuning(rules=(Rule(match="*", train=False),), lora=Lora(rank=2)))
    assert trained(model) == {line.name for line in lines if is_adapter(line.name)}
    assert {(line.lr, line.rule) for line in lines if line.trained} == {(1.0, "lora")}


def test_a_rule_may_give_adapters_another_rate(model):
    rules = (Rule(match="*.lora_b", lr=16.0), *RULES)
    lines = apply_tuning(model, Tuning(rules=rules, lora=Lora(rank=2)))
    assert {line.lr for line in lines if line.name.endswith(".lora_b")} == {16.0}
    assert {line.lr for line in lines if line.name.endswith(".lora_a")} == {1.0}


def test_a_rule_that_fits_nothing_names_what_is_near(model):
    with pytest.raises(FieldError, match=r"tuning\.rules\.0\.match: 'qfomer\.\*' fits no parameter; near it: qformer"):
        apply_tuning(model, Tuning(rules=(Rule(match="qfomer.*"), *RULES)))


def test_a_rule_that_is_never_reached_is_told(model):
    with pytest.raises(FieldError, match=r"rules\.3\.match: 'qformer\.\*' is never reached"):
        apply_tuning(model, Tuning(rules=(*RULES, Rule(match="qformer.*", lr=0.1))))


def test_towers_train_by_their_own_means_only(model):
    with pytest.raises(FieldError, match=r"would train vision\.encoder.*vision_blocks.*match: 'vision\.\*', train: f"):
        apply_tuning(model, Tuning(rules=(Rule(match="*"),)))
    rules = (Rule(match="vision.*", train=False), Rule(match="*"))
    with pytest.raises(FieldError, match=r"would train language\..*tuning\.lora"):
        apply_tuning(half(), Tuning(rules=rules))
    apply_tuning(model, Tuning(rules=rules))  # fp32
    assert "language.network.transformer.word_embeddings.weight" in trained(model)


def test_on_the_meta_device_too(model):
    config = Tuning(lora=Lora(rank=2))
    with torch.device("meta"):
        shapes = tiny_language.build(tiny_language.CHATGLM)
    assert apply_tuning(shapes, config) == apply_tuning(model, config)
    assert all(p.is_meta for p in shapes.parameters())


def test_the_table_counts_everything_once(model):
    resolved = apply_tuning(model, Tuning(lora=Lora(rank=2)))
    lines = table(resolved)
    assert len(lines) == 1 + len({(r.name.split(".")[0], r.trained, r.lr, r.rule) for r in resolved})
    counts = [int(line[16:32].replace(",", "")) for line in lines[1:]]
    assert sum(counts) == sum(p.numel() for p in model.parameters())


def test_a_frozen_qformer_draws_no_dropout():
    section = replace(tiny_language.CHATGLM.qformer, dropout=0.5)
    model = tiny_language.build(replace(tiny_language.CHATGLM, qformer=section))
    assert model.train().qformer.training
    apply_tuning(model, Tuning(rules=(Rule(match="*", train=False),), lora=Lora(rank=2)))
    assert not model.train().qformer.training
    assert all(adapter.training for adapter in model.language.adapters())
