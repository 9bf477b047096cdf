"""Weights that are NaN or infinite are refused when they are read, by every loader: file and tensors are named."""

from dataclasses import replace
from pathlib import Path

import hf_families
import made_language
import pytest
import tiny
import tiny_language
import torch
from safetensors.torch import load_file, save_file

from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.bundle.adapter import read_adapter, save_adapter
from vglm_train.checkpoint.bundle.stage_one import init_from_bundle
from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.checkpoint.keymaps.encoders import EVA
from vglm_train.checkpoint.load.finite import is_finite
from vglm_train.checkpoint.load.language import load_language
from vglm_train.checkpoint.load.pretrained import load_pretrained
from vglm_train.config.language import Language
from vglm_train.config.tuning import Tuning
from vglm_train.errors import UserError
from vglm_train.model.language import build_language
from vglm_train.model.vision import build_vision

BROKEN = [float("nan"), float("inf"), float("-inf")]


def broken(file: Path, *names: str, value: float = float("nan")) -> None:
    """Put a value into tensors of a safetensors file."""
    weights = load_file(file)
    for name in names:
        weights[name].flatten()[-1] = value
    save_file(weights, file, {"format": "pt"})


def refused(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "NaN or infinite" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_value_is_looked_at(dtype):
    largest = torch.finfo(dtype).max
    for value in BROKEN:
        for place in (0, 7, 14):
            tensor = torch.full((3, 5), largest, dtype=dtype)
            assert is_finite(tensor), "large is not infinite"
            tensor.view(-1)[place] = value
            assert not is_finite(tensor)
    assert all(map(is_finite, (torch.ones(3, dtype=torch.int64), torch.ones(0), torch.ones(2, device="meta"))))


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("way", ["memory", "meta", "nf4", "bf16"])
def test_language_models_of_transformers(tmp_path, way, value):
    """Renamed, in several files: messages have the names of the file."""
    hf_families.model("causal", hf_families.configuration("gpt_neox")).save_pretrained(tmp_path, max_shard_size="20KB")
    files = {name: file for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    names = ["embed_out.weight", "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    for name in names:
        broken(files[name], name, value=value)
    dtype = "fp32" if way == "memory" else "bf16"
    config = Language(family="causal", weights=str(tmp_path), dtype=dtype)
    if way == "meta":
        with torch.device("meta"):
            model = build_language(config)
    else:
        model = build_language(config, quantize="nf4" if way == "nf4" else None)
    message = refused(lambda: load_language(model, config))
    for file in {files[name] for name in names}:
        lost = ", ".join(name for name in names if files[name] == file)
        assert f"{file} holds NaN or infinite values in {lost}" in message


def test_what_half_precision_cannot_hold(tmp_path):
    """Finite in the file, infinite in fp16."""
    hf_families.model("causal", hf_families.configuration("gpt_neox")).save_pretrained(tmp_path)
    broken(tmp_path / "model.safetensors", "embed_out.weight", value=1e6)
    config = Language(family="causal", weights=str(tmp_path), dtype="fp16")
    with pytest.raises(UserError, match=r"lm_head.weight holds numbers too large for float16. Set .* bf16 or fp32"):
        load_language(build_language(config), config)
    wider = replace(config, dtype="bf16")
    load_language(build_language(wider), wider)


def test_chatglm(tmp_path):
    sections = made_language.sections(tmp_path / "glm", "chatglm")["language"]
    config = Language(**sections)
    name = "transformer.layers.1.mlp.dense_h_to_4h.weight"
    broken(tmp_path / "glm" / "model.safetensors", name)
    message = refused(lambda: load_language(build_language(config), config))
    assert str(tmp_path / "glm" / "model.safetensors") in message
    assert name in message


def test_image_encoders_and_bert(tmp_path):
    vision = build_vision(tiny.MODEL.vision)
    weights = {name: value.clone() for name, value in EVA.inverse().apply(vision.encoder.state_dict()).items()}
    weights["blocks.0.attn.q_bias"][2] = float("inf")
    torch.save({"model": weights}, tmp_path / "eva.pth")
    model = replace(tiny.MODEL, vision=replace(tiny.MODEL.vision, weights=str(tmp_path / "eva.pth")))
    message = refused(lambda: load_pretrained(tiny.alignment(model=model), model))
    assert f"{tmp_path / 'eva.pth'} holds NaN or infinite values in blocks.0.attn.q_bias." in message


def bundle_of(folder, model=tiny.MODEL):
    class NoTokenizer:
        def save(self, folder):
            folder.mkdir()

    save_bundle(folder, tiny.config(model=model), tiny.alignment(model=model), NoTokenizer(), {})
    return folder


def test_what_a_bundle_s_run_trained(tmp_path):
    folder = bundle_of(tmp_path / "b")
    broken(folder / "trained.safetensors", "qformer.query_tokens")
    message = refused(lambda: init_from_bundle(tiny.alignment(), folder))
    assert f"{folder / 'trained.safetensors'} holds NaN or infinite values in qformer.query_tokens." in message


def test_what_a_bundle_s_run_trained_on_the_meta_device(tmp_path):
    """As --check reads it: in the same words."""
    folder = bundle_of(tmp_path / "b")
    broken(folder / "trained.safetensors", "qformer.query_tokens")
    with torch.device("meta"):
        model = tiny.alignment()
        message = refused(lambda: init_from_bundle(model, folder))
    assert f"{folder / 'trained.safetensors'} holds NaN or infinite values in qformer.query_tokens." in message


def test_the_frozen_towers_of_a_bundle(tmp_path, capsys):
    """And exports of such a bundle."""
    folder = bundle_of(tmp_path / "b")
    broken(folder / "vision.safetensors", "blocks.0.mlp.up.weight")
    command = ["export", str(folder), "--format", "hf-blip2-retrieval", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"{folder / 'vision.safetensors'} holds NaN or infinite values in blocks.0.mlp.up.weight." in said
    assert not (tmp_path / "out").exists()


def test_imports(tmp_path, capsys):
    import blip2_folders

    blip2_folders.generation("opt").save_pretrained(tmp_path / "there")
    broken(tmp_path / "there" / "model.safetensors", "qformer.layernorm.bias", "query_tokens", value=float("-inf"))
    assert main(["import", str(tmp_path / "there"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    file = tmp_path / "there" / "model.safetensors"
    assert f"{file} holds NaN or infinite values in qformer.layernorm.bias, query_tokens." in said
    assert not (tmp_path / "out").exists()
    assert main(["diff", str(tmp_path / "there"), str(tmp_path / "there")]) == 0, "a comparison compares"


def test_adapters(tmp_path):
    model = tiny_language.build(tiny_language.CHATGLM)
    bad = torch.full_like(model.projection.weight, float("nan"))
    save_adapter(tmp_path / "a", [("projection.weight", bad)], Tuning(), {}, {})
    assert "adapter.safetensors holds NaN or infinite values in projection.weight" in refused(
        lambda: read_adapter(tmp_path / "a")
    )


def test_many_are_counted(tmp_path):
    folder = bundle_of(tmp_path / "b")
    names = sorted(load_file(folder / "trained.safetensors"))
    broken(folder / "trained.safetensors", *names)
    message = refused(lambda: init_from_bundle(tiny.alignment(), folder))
    assert f"and {len(names) - 6} more" in message
