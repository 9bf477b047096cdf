"""Tables of names: both ways, and strict both ways."""

import pytest
import tiny
import torch
from safetensors.torch import load_file

from vglm_train.checkpoint.keymaps.bert import BERT
from vglm_train.checkpoint.keymaps.encoders import EVA
from vglm_train.checkpoint.keymaps.keymap import (
    KeyMap,
    KeyMapError,
    join,
    join_without_key_bias,
    rename,
    reshape,
    unbatch,
)
from vglm_train.checkpoint.keymaps.lavis import LAVIS_STAGE1

TABLE = KeyMap(
    rules=(
        rename("layer.#.dense.*", "blocks.#.output.*"),
        join(["layer.#.q.*", "layer.#.k.*"], "blocks.#.qk.*"),
        join_without_key_bias("layer.#.q_bias", "layer.#.v_bias", "blocks.#.qkv.bias"),
        reshape("temp", "temperature", (), (1,)),
        unbatch("tokens", "queries"),
    ),
    ignored=("junk.*",),
    copies={"decoder": "tokens"},
)
THERE = {
    "layer.0.dense.weight": torch.arange(4.0).view(2, 2),
    "layer.10.dense.bias": torch.arange(2.0),
    "layer.10.q.weight": torch.full((2, 3), 1.0),
    "layer.10.k.weight": torch.full((2, 3), 2.0),
    "layer.0.q_bias": torch.tensor([1.0, 2.0]),
    "layer.0.v_bias": torch.tensor([5.0, 6.0]),
    "temp": torch.tensor(0.07),
    "tokens": torch.ones(1, 2, 3),
    "decoder": torch.ones(1, 2, 3),
}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[key].shape == b[key].shape and torch.equal(a[key], b[key]) for key in a)


def test_each_kind_of_rule():
    here = TABLE.apply({**THERE, "junk.x": torch.zeros(1)})
    assert {name: list(value.shape) for name, value in here.items()} == {
        "blocks.0.output.weight": [2, 2],
        "blocks.10.output.bias": [2],
        "blocks.10.qk.weight": [4, 3],
        "blocks.0.qkv.bias": [6],
        "temperature": [1],
        "queries": [2, 3],
    }
    assert here["blocks.10.qk.weight"][:, 0].tolist() == [1, 1, 2, 2]
    assert here["blocks.0.qkv.bias"].tolist() == [1, 2, 0, 0, 5, 6]


def test_there_and_back():
    assert equal(TABLE.inverse().apply(TABLE.apply(THERE)), THERE)


def test_unexpected_names_are_all_named():
    with pytest.raises(KeyMapError, match=r"unexpected: layer\.x\.dense\.weight, other"):
        TABLE.apply({**THERE, "other": torch.zeros(1), "layer.x.dense.weight": torch.zeros(1)})


def test_a_part_without_its_partner_is_named():
    lonely = {name: value for name, value in THERE.items() if name != "layer.10.k.weight"}
    with pytest.raises(KeyMapError, match=r"missing beside layer\.10\.q\.weight: layer\.10\.k\.weight"):
        TABLE.apply(lonely)


def test_colliding_names_are_named():
    table = KeyMap(rules=(rename("a.*", "c.*"), rename("b.*", "c.*")))
    with pytest.raises(KeyMapError, match=r"two keys become c\.x"):
        table.apply({"a.x": torch.zeros(1), "b.x": torch.zeros(1)})


def test_a_key_bias_that_is_not_zero_cannot_go_back():
    here = TABLE.apply(THERE)
    here["blocks.0.qkv.bias"] = torch.ones(6)
    with pytest.raises(KeyMapError, match="keys is not zero"):
        TABLE.inverse().apply(here)


@pytest.mark.parametrize("name", ["a", "b4"])
def test_lavis_names_are_a_bijection_with_ours(shared, name):
    there = load_file(shared / "fixtures" / f"blip2_stage1_{name}" / "weights.safetensors")
    there["Qformer.cls.predictions.bias"] = there["Qformer.cls.predictions.decoder.bias"]  # what tying them means
    assert equal(LAVIS_STAGE1.inverse().apply(LAVIS_STAGE1.apply(there)), there)


def test_every_weight_of_ours_has_a_name_in_lavis():
    state = tiny.alignment().state_dict()
    for name in state:
        if name.endswith("attention.qkv.bias"):
            state[name] = torch.zeros_like(state[name])
    assert equal(LAVIS_STAGE1.apply(LAVIS_STAGE1.inverse().apply(state)), state)


def test_bare_eva_names_are_those_of_the_encoder():
    state = tiny.alignment().vision.encoder.state_dict()
    assert equal(EVA.apply(EVA.inverse().apply(state)), state)


def test_bert_leaves_out_what_the_qformer_has_not():
    ignored = ("bert.pooler.dense.weight", "bert.embeddings.token_type_embeddings.weight", "cls.seq_relationship.bias")
    assert BERT.apply({name: torch.zeros(1) for name in ignored}) == {}
