"""Whatever is given for weights is told for what it is, in the same words by every command and loader."""

from dataclasses import replace

import pytest
import tiny
import torch
from odd_folders import LLAMA, ODD, READ, TENSOR, folder
from safetensors.torch import save_file

from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.load.language import load_language
from vglm_train.checkpoint.load.pretrained import load_bert, load_vision
from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.model.language import build_language
from vglm_train.model.vision import build_vision
from vglm_train.prompt.tokenizers import build_tokenizer
from vglm_train.weights.identify import identify, require


def refused(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize("name", ODD)
def test_inspect_tells_what_it_is(tmp_path, capsys, name):
    odd = ODD[name]
    path = odd.make(tmp_path / "there")
    status = main(["inspect", str(path)])
    seen = capsys.readouterr()
    assert status == (2 if odd.broken else 0), "what is whole is no error"
    for words in odd.words:
        assert words in (seen.err if odd.broken else seen.out)


@pytest.mark.parametrize("name", ODD)
def test_every_reader_says_the_same(tmp_path, capsys, name):
    """Import, and each field of a configuration, before anything of the model is built."""
    path = ODD[name].make(tmp_path / "there")
    sentence = identify(path).sentence(path)
    assert main(["import", str(path), "--out", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    eva = replace(tiny.MODEL.vision, weights=str(path))
    clip = replace(eva, family="clip")
    language, glm = (Language(family=family, weights=str(path)) for family in ("causal", "chatglm"))
    shape = Language(layers=1, width=16, heads=2, mlp_width=16, vocabulary=60, tokenizer="none")
    model, encoder = build_language(shape), build_vision(tiny.MODEL.vision).encoder
    calls = {
        "model.language.weights": [lambda: build_language(language), lambda: load_language(model, glm)],
        "model.vision.weights": [lambda: build_vision(clip), lambda: load_vision(encoder, eva)],
        "model.qformer.weights": [lambda: load_bert(tiny.alignment(), path)],
    }  # fmt: skip
    if name != "tokenizer":  # a tokenizer may stand alone
        calls["model.language.weights"] += [lambda: build_tokenizer(language), lambda: build_tokenizer(glm)]
    for field, readers in calls.items():
        for reader in readers:
            assert refused(reader) == f"{field}: {sentence}"


@pytest.mark.parametrize("name", READ)
def test_what_is_read_here(tmp_path, capsys, name):
    make, what = READ[name]
    path = make(tmp_path / "there")
    assert main(["inspect", str(path)]) == 0
    seen = capsys.readouterr().out
    assert f"{path}: {what} ({name.partition(' ')[0]})" in seen
    assert ("no code in them is run" in seen) == (name == "hf-language in .bin")


@pytest.mark.parametrize(("name", "field", "goes"), [
    ("hf-language", "vision", "model.language.weights"), ("clip", "language", "model.vision.weights"),
    ("siglip", "bert", "model.vision.weights"), ("bert", "language", "model.qformer.weights"),
])  # fmt: skip
def test_a_part_in_the_wrong_field(tmp_path, name, field, goes):
    """It says where the weights go."""
    path = READ[name][0](tmp_path / "there")
    call = {
        "vision": lambda: build_vision(replace(tiny.MODEL.vision, family="clip", weights=str(path))),
        "language": lambda: build_language(Language(family="causal", weights=str(path))),
        "bert": lambda: load_bert(tiny.alignment(), path),
    }[field]
    said = refused(call)
    assert READ[name][1] in said
    assert said.endswith(f"It goes to {goes}.")


def test_the_file_of_an_adapter(tmp_path, capsys):
    """By the names of its tensors, in either format."""
    weights = {"base_model.model.q_proj.lora_A.weight": torch.ones(2, 4)}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    torch.save(weights, tmp_path / "adapter_model.bin")
    for name in ("adapter_model.safetensors", "adapter_model.bin"):
        assert main(["inspect", str(tmp_path / name)]) == 0
        assert "the weights of a PEFT adapter" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_the_dtype_of_a_configuration_and_of_the_files(tmp_path, capsys, key):
    """`auto` is no dtype: the files tell."""
    half = {"model.norm.weight": torch.ones(4, dtype=torch.bfloat16)}
    path = folder(config__json=LLAMA | {key: "auto"}, model__safetensors=half)(tmp_path / "there")
    assert main(["inspect", str(path)]) == 0
    assert "config.json says auto; the files are bfloat16" in capsys.readouterr().out
    path = folder(config__json=LLAMA | {key: "bfloat16"}, model__safetensors=half)(tmp_path / "other")
    assert main(["inspect", str(path)]) == 0
    assert "config.json says" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "files", [{"config__json": {"a": 1}, "model__safetensors": TENSOR}, {"model__safetensors": TENSOR}]
)
def test_what_nothing_tells(tmp_path, capsys, files):
    """The formats are listed; a reader may know it all the same."""
    path = folder(**files)(tmp_path / "there")
    for command in (["inspect", str(path)], ["import", str(path), "--out", str(tmp_path / "out")]):
        assert main(command) == 2
        assert "Known are bundle, lavis, hf-blip2" in capsys.readouterr().err
    require(path, "bert")


def test_nothing_is_there(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
    assert "is not there" in capsys.readouterr().err
