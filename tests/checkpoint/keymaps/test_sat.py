"""Folders of SAT and of the Hugging Face hub for ChatGLM: what they must hold, and in which order."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from small_chatglm import SHAPE, chatglm

from vglm_train.checkpoint.keymaps.sat import qkv, sat_language
from vglm_train.checkpoint.load.chatglm import hub_chatglm
from vglm_train.checkpoint.load.language import load_language
from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.model.language import build_language

HEADS, WIDTH, LAYERS = SHAPE["heads"], SHAPE["width"], SHAPE["layers"]
EXAMPLE = "transformer.layers.1.attention.query_key_value.weight"


@pytest.fixture(scope="module")
def weights():
    return {name: value.detach() for name, value in chatglm(seed=4).state_dict().items()}


def hub_folder(folder, weights, parts=3, safetensors=False):
    """ChatGLM-6B's layout in `parts` files."""
    theirs = hub_chatglm(HEADS).inverse().apply(weights)
    theirs["transformer.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(3)
    names = sorted(theirs)
    suffix, stem = (".safetensors", "model") if safetensors else (".bin", "pytorch_model")
    index = {}
    for part in range(parts):
        file = f"{stem}-{part + 1:05}-of-{parts:05}{suffix}"
        tensors = {name: theirs[name].contiguous() for name in names[part::parts]}
        (save_file if safetensors else torch.save)(tensors, folder / file)
        index |= dict.fromkeys(tensors, file)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": HEADS, "bos_token_id": 114}))
    return folder


def sat_folder(folder, weights, change=lambda tensors: tensors, **config):
    (folder / "7").mkdir()
    (folder / "latest").write_text("7\n")
    shape = {"num_attention_heads": HEADS, "bos_token_id": 114, **config}
    (folder / "model_config.json").write_text(json.dumps(shape))
    tensors = change(sat_language(HEADS).inverse().apply(weights))
    torch.save({"module": tensors}, folder / "7" / "mp_rank_00_model_states.pt")
    return folder


def read(folder, dtype="fp32", fused=None):
    config = Language(**SHAPE, dtype=dtype, weights=str(folder))
    model = build_language(config)
    load_language(model, config, fused)
    return model


def refused(folder, words, **changes):
    """Loading ends in one UserError with these words, and the model is as it was."""
    config = replace(Language(**SHAPE, dtype="fp32"), **changes)
    model = build_language(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_language(model, replace(config, weights=str(folder)))
    for word in [str(folder), *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_heads_become_thirds():
    """Row by row: head h's query, key and value stand at 3h, 3h+1, 3h+2 there, and part by part here."""
    heads, size, inputs = 3, 2, 5
    weight = torch.arange(3 * heads * size * inputs).view(-1, inputs)
    expected = torch.cat(
        [
            weight[(3 * head + part) * size : (3 * head + part + 1) * size]
            for part in range(3)  # queries, keys, values
            for head in range(heads)
        ]
    )
    rule = qkv("there.*", "here.*", heads, "heads")
    assert torch.equal(rule.forward(weight)[0], expected)
    assert torch.equal(rule.forward(weight[:, 0])[0], expected[:, 0])
    assert torch.equal(rule.inverse().forward(expected)[0], weight)


@pytest.mark.parametrize("safetensors", [False, True])
def test_hub_folder_in_parts(tmp_path, weights, safetensors):
    model = read(hub_folder(tmp_path, weights, safetensors=safetensors))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert set(model.state_dict()) == set(weights)


def test_a_wrong_order_is_another_model(tmp_path, weights):
    model = read(hub_folder(tmp_path, weights), fused="thirds")
    assert not torch.equal(model.state_dict()[f"network.{EXAMPLE}"], weights[f"network.{EXAMPLE}"])


def test_sat_folder_of_either_order(tmp_path, weights):
    model = read(sat_folder(tmp_path, weights))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    older = sat_language(HEADS, "heads").inverse().apply(weights)
    torch.save({"module": older}, tmp_path / "7" / "mp_rank_00_model_states.pt")
    model = read(tmp_path, fused="heads")
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_weights_take_the_model_s_dtype(tmp_path, weights):
    half = {name: value.half() for name, value in weights.items()}
    model = read(sat_folder(tmp_path, half), dtype="bf16")
    for name, value in model.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, half[name].bfloat16())


def test_files_older_than_the_zip_format(tmp_path, weights):
    folder = sat_folder(tmp_path, weights)
    file = folder / "7" / "mp_rank_00_model_states.pt"
    torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=False)
    assert torch.equal(read(folder).state_dict()[f"network.{EXAMPLE}"], weights[f"network.{EXAMPLE}"])


def test_a_model_on_the_meta_device_is_filled(tmp_path, weights):
    config = Language(**SHAPE, dtype="fp32", weights=str(sat_folder(tmp_path, weights)))
    with torch.device("meta"):
        model = build_language(config)
    load_language(model, config)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])


def test_the_image_side_of_visualglm_is_left_out(tmp_path, weights):
    extra = {"mixins.eva.model.glm_proj.bias": torch.zeros(3), "mixins.chatglm-attn.rotary_emb.inv_freq": torch.ones(3)}
    read(sat_folder(tmp_path, weights, lambda tensors: tensors | extra))


def test_all_that_does_not_fit_in_one_message(tmp_path, weights):
    def spoil(tensors):
        del tensors[EXAMPLE], tensors["transformer.final_layernorm.bias"]
        tensors["mixins.lora.a"] = tensors["transformer.extra"] = torch.zeros(2)
        tensors["transformer.word_embeddings.weight"] = torch.zeros(99, WIDTH)
        return tensors

    words = [EXAMPLE, "transformer.final_layernorm.bias", "mixins.lora.a", "transformer.extra", "Nothing was loaded"]
    refused(sat_folder(tmp_path, weights, spoil), [*words, "word_embeddings.weight is [99, 48]"])


def test_rows_that_heads_do_not_divide(tmp_path, weights):
    name = f"network.{EXAMPLE}"
    folder = hub_folder(tmp_path, weights)
    file = next(file for file in folder.glob("*.bin") if EXAMPLE in torch.load(file, weights_only=True))
    torch.save(torch.load(file, weights_only=True) | {EXAMPLE: weights[name][:-1]}, file)
    refused(folder, [f"{EXAMPLE}: {3 * WIDTH - 1} rows"])


def test_hub_folder_without_some_weights(tmp_path, weights):
    kept = {name: value for name, value in weights.items() if "layers.2." not in name}
    lost = hub_chatglm(HEADS).inverse().apply({name: weights[name] for name in set(weights) - set(kept)})
    refused(hub_folder(tmp_path, kept), [*lost, "missing"])


def test_a_shard_that_was_not_downloaded(tmp_path, weights):
    folder = hub_folder(tmp_path, weights)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    refused(folder, ["pytorch_model-00002-of-00003.bin", "Complete the download"])


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"\x80\x02cos\n"]
)
def test_a_shard_that_is_no_weights(tmp_path, weights, content):
    folder = hub_folder(tmp_path, weights)
    (folder / "pytorch_model-00002-of-00003.bin").write_bytes(content)
    refused(folder, ["pytorch_model-00002-of-00003.bin"])


def test_what_no_shape_tells(tmp_path, weights):
    refused(sat_folder(tmp_path, weights, num_attention_heads=8), ["num_attention_heads is 8", str(HEADS)])
    (tmp_path / "model_config.json").write_text(json.dumps({"bos_token_id": 130004}))
    refused(tmp_path, ["130004", "114", "language.tokenizer"])


def test_folders_that_are_none(tmp_path, weights):
    refused(tmp_path / "nowhere", ["not a folder"])
    refused(tmp_path, ["an empty folder"])
    (tmp_path / "config.json").write_text('{"num_layers": 1}')
    refused(tmp_path, ["neither a SAT checkpoint"])
    (tmp_path / "config.json").unlink()
    folder = sat_folder(tmp_path, weights)
    (folder / "7" / "mp_rank_00_model_states.pt").rename(folder / "7" / "mp_rank_01_model_states.pt")
    torch.save({}, folder / "7" / "mp_rank_00_model_states.pt")
    refused(folder, ["2 parts", "merge"])
    (folder / "7" / "mp_rank_01_model_states.pt").unlink()
    refused(folder, ["'module'"])
    (folder / "latest").unlink()
    refused(folder, ["latest"])
