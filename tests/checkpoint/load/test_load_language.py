"""Weights of Hugging Face folders, as transformers writes them, and every way they may not fit."""

import json
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from vglm_train.checkpoint.load.hf_language import load_hf_language
from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.model.language import LanguageModel, build_language

SHAPE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = transformers.LlamaConfig(**SHAPE, intermediate_size=48, num_key_value_heads=2)
OPT = transformers.OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=16, max_position_embeddings=64)
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
      "decoder_start_token_id": 0}  # fmt: skip
ORACLES = {
    "llama": lambda: transformers.LlamaForCausalLM(LLAMA),
    "opt": lambda: transformers.OPTForCausalLM(OPT),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)
    ),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)),
}
IDS = torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(0))


def folder_of(path: Path, family: str, **options):
    """A folder that transformers wrote, and the model it wrote."""
    torch.manual_seed(3)
    oracle = ORACLES[family]().eval()
    oracle.save_pretrained(path, **options)
    return oracle


def built(path: Path, family: str = "llama", dtype: str = "fp32") -> LanguageModel:
    kind = "seq2seq" if "t5" in family else "causal"
    return build_language(Language(family=kind, weights=str(path), dtype=dtype))


def loaded(path: Path, family: str = "llama", dtype: str = "fp32") -> LanguageModel:
    model = built(path, family, dtype)
    load_hf_language(model, path)
    return model


def refused(path: Path, family: str = "llama") -> str:
    model = built(path, family)
    for parameter in model.parameters():
        parameter.data.zero_()  # memory that was not filled may hold anything
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_hf_language(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "nothing was loaded"
    return str(error.value)


def logits(model, **inputs):
    extra = {"decoder_input_ids": IDS[:, :3]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=IDS, **extra, **inputs).logits


@pytest.mark.parametrize("family", ORACLES)
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "10KB"}], ids=["one", "shards"])
def test_folders_of_transformers(tmp_path, family, options):
    oracle = folder_of(tmp_path, family, **options)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == bool(options)
    assert torch.equal(logits(loaded(tmp_path, family).model), logits(oracle))


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_torch_files(tmp_path, shards, old):
    oracle = folder_of(tmp_path, "llama")
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = [f"pytorch_model-{n}-of-{shards}.bin" for n in range(shards)] if shards > 1 else ["pytorch_model.bin"]
    places = {key: names[number % shards] for number, key in enumerate(weights)}
    for name in names:
        part = {key: value for key, value in weights.items() if places[key] == name}
        torch.save(part, tmp_path / name, _use_new_zipfile_serialization=not old)
    if shards > 1:
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(logits(loaded(tmp_path).model), logits(oracle))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_half_precision_model_on_meta_is_filled_in_its_dtype(tmp_path, dtype):
    oracle = folder_of(tmp_path, "llama")
    with torch.device("meta"):
        model = built(tmp_path, dtype=dtype)
    load_hf_language(model, tmp_path)
    state = oracle.state_dict()
    assert {parameter.dtype for parameter in model.parameters()} == {model.dtype}
    assert all(torch.equal(value, state[name].to(model.dtype)) for name, value in model.model.state_dict().items())
    tables = {name: table for name, table in model.model.named_buffers() if "inv_freq" in name}
    assert tables
    for name, table in tables.items():
        assert table.dtype == torch.float32
        assert torch.equal(table, oracle.get_buffer(name))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_names_without_the_familys_prefix_and_old_tables(tmp_path):
    """As the first releases of GPT-2 and OPT were written."""
    oracle = folder_of(tmp_path, "gpt2")
    weights = load_file(tmp_path / "model.safetensors")
    old = {name.removeprefix("transformer."): value for name, value in weights.items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(old, tmp_path / "model.safetensors")
    assert torch.equal(logits(loaded(tmp_path, "gpt2").model), logits(oracle))


def test_a_head_that_differs_from_the_embeddings_is_kept(tmp_path):
    oracle = folder_of(tmp_path, "opt")
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        weights | {"lm_head.weight": weights["model.decoder.embed_tokens.weight"] + 1}, tmp_path / "model.safetensors"
    )
    model = loaded(tmp_path, "opt")
    assert torch.equal(model.embeddings.weight, oracle.get_input_embeddings().weight)
    assert torch.equal(model.model.lm_head.weight, oracle.get_input_embeddings().weight + 1)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    save_file(
        weights | {"lm_head.weight": weights["model.decoder.embed_tokens.weight"].clone()},
        tmp_path / "model.safetensors",
    )
    model = loaded(tmp_path, "opt")
    assert model.model.lm_head.weight is model.embeddings.weight


@pytest.mark.parametrize("own_head", [False, True])
def test_flan_t5(tmp_path, own_head):
    """Published: tie_word_embeddings false, a head of its own, the embeddings three times."""
    oracle = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, tie_word_embeddings=False)).eval()
    oracle.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if own_head:
        oracle.lm_head.weight = torch.nn.Parameter(torch.randn(64, 32))
        weights = {name: value.clone() for name, value in oracle.state_dict().items()}
        unexpected = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        save_file(weights | {unexpected: torch.ones(32, 4)}, tmp_path / "model.safetensors")
    model = loaded(tmp_path, "t5")
    assert not model.model.config.scale_decoder_outputs
    assert torch.equal(logits(model.model), logits(oracle))


def test_a_folder_without_weights(tmp_path):
    LLAMA.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"without weights"):
        built(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    folder_of(tmp_path, "llama", max_shard_size="10KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    model = built(tmp_path)
    lost.unlink()
    for call in (lambda: built(tmp_path), lambda: load_hf_language(model, tmp_path)):
        with pytest.raises(UserError, match=f"lacks {lost.name}"):
            call()


def test_missing_unexpected_and_misshapen_keys_are_named_at_once(tmp_path):
    folder_of(tmp_path, "llama")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.norm.weight"] = torch.ones(16)
    save_file(weights | {"strange": torch.ones(1)}, tmp_path / "model.safetensors")
    message = refused(tmp_path)
    parts = ["missing: model.layers.1.mlp.up_proj.weight", "strange", "model.norm.weight is [16], the model has [32]"]
    assert all(part in message for part in [str(tmp_path), *parts])


def test_a_tied_pair_that_is_not_there_at_all(tmp_path):
    folder_of(tmp_path, "opt")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.decoder.embed_tokens.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    assert "model.decoder.embed_tokens.weight" in refused(tmp_path, "opt")


def test_a_cut_file_and_a_pickle_with_code(tmp_path):
    folder_of(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors is cut short"):
        built(tmp_path)
    file.unlink()
    torch.save({"model.norm.weight": Path("x")}, tmp_path / "pytorch_model.bin")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "pytorch_model.bin" in refused(tmp_path)
