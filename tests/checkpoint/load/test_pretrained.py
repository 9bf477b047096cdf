"""Published weights into a new model, and every way they may not fit."""

from dataclasses import replace

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from vglm_train.checkpoint.keymaps.bert import BERT
from vglm_train.checkpoint.keymaps.encoders import EVA
from vglm_train.checkpoint.load.pretrained import load_pretrained
from vglm_train.config.model import Model
from vglm_train.errors import UserError
from vglm_train.model.vision import build_vision

PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def with_vision(path, **changes) -> Model:
    return replace(tiny.MODEL, vision=replace(tiny.MODEL.vision, weights=str(path), **changes))


def with_bert(path, **changes) -> Model:
    return replace(tiny.MODEL, qformer=replace(tiny.MODEL.qformer, weights=str(path), **changes))


def loaded(config: Model, seed: int = 1):
    model = tiny.alignment(seed, config)
    load_pretrained(model, config)
    return model


def refused(config: Model) -> str:
    with pytest.raises(UserError) as error:
        loaded(config)
    return str(error.value)


def eva_file(folder, depth: int = 1, prefix: str = "", **extra):
    """A published file of an encoder of that depth, and the encoder itself."""
    torch.manual_seed(7)
    vision = build_vision(replace(tiny.MODEL.vision, depth=depth))
    weights = {f"{prefix}{name}": value.contiguous() for name, value in
               EVA.inverse().apply(vision.encoder.state_dict()).items()}  # fmt: skip
    save_file({**weights, **extra}, folder / "eva.safetensors")
    return folder / "eva.safetensors", vision


@pytest.mark.parametrize("prefix", ["", "visual_encoder."])
def test_eva_under_lavis_names(tmp_path, prefix):
    path, published = eva_file(tmp_path, prefix=prefix)
    assert torch.equal(loaded(with_vision(path)).vision(PIXELS), published(PIXELS))


def test_encoder_among_all_of_blip2s_weights(tmp_path):
    path, published = eva_file(tmp_path, prefix="visual_encoder.", **{"ln_vision.weight": torch.ones(24)})
    assert torch.equal(loaded(with_vision(path)).vision(PIXELS), published(PIXELS))


@pytest.mark.parametrize("part", [None, "model"])
def test_eva_as_a_torch_file(tmp_path, part):
    """LAVIS's `eva_vit_g.pth`, and what its runner saves."""
    path, published = eva_file(tmp_path, prefix="visual_encoder." if part else "")
    weights = load_file(path)
    torch.save({part: weights} if part else weights, tmp_path / "eva.pth")
    assert torch.equal(loaded(with_vision(tmp_path / "eva.pth")).vision(PIXELS), published(PIXELS))


def test_eva_under_our_own_names(tmp_path):
    _, vision = eva_file(tmp_path)
    save_file(vision.encoder.state_dict(), tmp_path / "own.safetensors")
    assert torch.equal(loaded(with_vision(tmp_path / "own.safetensors")).vision(PIXELS), vision(PIXELS))


def test_blocks_beyond_the_depth_are_left_out(tmp_path):
    path, deep = eva_file(tmp_path, depth=3, **{"norm.weight": torch.ones(24), "norm.bias": torch.ones(24)})
    model = loaded(with_vision(path))
    assert torch.equal(model.vision.encoder.blocks[0].mlp.up.weight, deep.encoder.blocks[0].mlp.up.weight)


def test_weights_keep_the_encoders_dtype_and_stay_frozen(tmp_path):
    path, published = eva_file(tmp_path)
    model = loaded(with_vision(path, dtype="bf16"))
    assert torch.equal(model.vision.encoder.positions, published.encoder.positions.bfloat16())
    assert not any(parameter.requires_grad for parameter in model.vision.parameters())


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("whole", [True, False])
def test_hugging_face_folders(tmp_path, family, whole):
    from transformers import (
        CLIPConfig,
        CLIPModel,
        CLIPVisionModel,
        SiglipConfig,
        SiglipModel,
        SiglipVisionModel,
    )

    vision = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": 20}
    config = {"clip": CLIPConfig, "siglip": SiglipConfig}[family](vision_config=vision, text_config=text)
    torch.manual_seed(0)
    if whole:
        oracle = {"clip": CLIPModel, "siglip": SiglipModel}[family](config).eval()
    else:
        oracle = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}[family](config.vision_config).eval()
    oracle.save_pretrained(tmp_path)
    tower = oracle.vision_model if whole else oracle
    expected = tower(PIXELS, output_hidden_states=True).hidden_states[1]
    found = loaded(with_vision(tmp_path, family=family)).vision(PIXELS)
    assert torch.allclose(found, expected, atol=1e-5)


def test_other_shape_names_file_key_and_both_shapes(tmp_path):
    path, _ = eva_file(tmp_path)
    message = refused(with_vision(path, mlp_width=64))
    assert all(word in message for word in (str(path), "blocks.0.mlp.up.weight", "[48, 24]", "[64, 24]"))


def test_missing_and_unexpected_keys_are_named(tmp_path):
    path, _ = eva_file(tmp_path)
    message = refused(with_vision(path, depth=2))
    assert "missing" in message
    assert "blocks.1.norm1.weight" in message
    path, _ = eva_file(tmp_path, strange=torch.ones(1))
    assert "strange" in refused(with_vision(path))


@pytest.mark.parametrize("content", [None, b"this is not a safetensors file"])
def test_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "eva.safetensors"
    if content:
        path.write_bytes(content)
    message = refused(with_vision(path))
    assert ("no safetensors file" if content else "model.vision.weights: no such file or folder") in message
    assert str(path) in message


def bert_weights(vocabulary: int = 49, layers: int = 2, old_names: bool = False, prefix: str = "bert.") -> dict:
    torch.manual_seed(3)
    shape = tiny.MODEL.qformer
    from transformers import BertConfig, BertForPreTraining

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.mlp_width,
        max_position_embeddings=shape.positions,
    )
    weights = {name: value.clone() for name, value in BertForPreTraining(config).state_dict().items()}
    for old, new in (("weight", "gamma"), ("bias", "beta")) if old_names else ():
        weights = {name.replace(f"LayerNorm.{old}", f"LayerNorm.{new}"): value for name, value in weights.items()}
    if not prefix:
        weights = {name.removeprefix("bert."): v for name, v in weights.items() if name.startswith("bert.")}
    return weights


@pytest.mark.parametrize("old_names", [False, True])
def test_bert_starts_the_qformer(tmp_path, old_names):
    weights = bert_weights(old_names=old_names)
    save_file(weights, tmp_path / "model.safetensors")
    fresh, model = tiny.alignment(1), loaded(with_bert(tmp_path))
    state, before = model.state_dict(), fresh.state_dict()
    expected = BERT.apply(bert_weights())
    words = "qformer.embeddings.words.weight"
    assert torch.equal(state[words][:49], expected[words])
    assert torch.equal(state[words][49:], before[words][49:]), "the row of [DEC] is new"
    for name, value in expected.items():
        if name not in (words, "caption_head.bias"):
            assert torch.equal(state[name], value), name
        if ".text_mlp." in name:
            assert torch.equal(state[name.replace("text_mlp", "query_mlp")], value), name
    for name in ("qformer.query_tokens", "qformer.blocks.0.cross.query.weight", "image_projection.weight"):
        assert torch.equal(state[name], before[name]), name


def test_the_text_pass_is_berts(tmp_path):
    """The same hidden states as transformers' BERT, but for its segment embedding, which is taken out."""
    from transformers import BertConfig, BertModel

    weights = bert_weights(50)
    save_file(weights, tmp_path / "model.safetensors")
    shape = tiny.MODEL.qformer
    oracle = BertModel(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=shape.mlp_width,
            max_position_embeddings=shape.positions,
        ),
        add_pooling_layer=False,
    ).eval()
    own = {name.removeprefix("bert."): value for name, value in weights.items()}
    oracle.load_state_dict(own, strict=False)
    oracle.embeddings.token_type_embeddings.weight.data.zero_()
    batch = tiny.batch(0, 3)
    expected = oracle(batch.text_ids, attention_mask=batch.text_mask.long()).last_hidden_state
    found = loaded(with_bert(tmp_path)).qformer.text(batch.text_ids, batch.text_mask)
    assert torch.allclose(found[batch.text_mask], expected[batch.text_mask], atol=1e-5)


def test_bert_without_its_head_or_prefix(tmp_path):
    save_file(bert_weights(prefix=""), tmp_path / "model.safetensors")
    model = loaded(with_bert(tmp_path / "model.safetensors"))
    assert torch.equal(model.caption_head.transform.weight, tiny.alignment(1).caption_head.transform.weight)


@pytest.mark.parametrize("vocabulary", [51, 46])
def test_vocabulary_that_does_not_belong_to_the_weights(tmp_path, vocabulary):
    save_file(bert_weights(vocabulary), tmp_path / "model.safetensors")
    message = refused(with_bert(tmp_path))
    assert all(word in message for word in (str(vocabulary), "50", "model.text.tokenizer", str(tmp_path)))


def test_bert_of_another_depth(tmp_path):
    save_file(bert_weights(layers=3), tmp_path / "model.safetensors")
    assert "qformer.blocks.2.attention.qkv.weight" in refused(with_bert(tmp_path))
    save_file(bert_weights(layers=1), tmp_path / "model.safetensors")
    assert "qformer.blocks.1.text_mlp.up.weight" in refused(with_bert(tmp_path))


def test_weights_that_are_not_berts(tmp_path):
    save_file({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    assert "not BERT weights" in refused(with_bert(tmp_path))
