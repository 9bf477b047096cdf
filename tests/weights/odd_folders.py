"""Files and folders that people give for weights, as they are found on disks; those that are read here, too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 4665764\n"
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}
TENSOR = {"model.norm.weight": torch.ones(4)}


class Odd(NamedTuple):
    """make: writes it and returns its path. words: what it is and what to do. broken: it is not whole."""

    make: Callable[[Path], Path]
    words: tuple[str, ...]
    broken: bool = False


def folder(**files: Any) -> Callable[[Path], Path]:
    """A maker of a folder of files: dictionaries become JSON, those of tensors safetensors, bytes as they are."""

    def make(path: Path) -> Path:
        path.mkdir()
        for name, content in files.items():
            file = path / name.replace("__", ".").replace("_S_", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                file.write_bytes(content)
            elif isinstance(content, str):
                file.write_text(content)
            elif any(isinstance(value, torch.Tensor) for value in content.values()):
                save_file(content, file)
            else:
                file.write_text(json.dumps(content))
        return path

    return make


def single(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.mkdir()
        (path / name).write_bytes(content)
        return path / name

    return make


def cut(path: Path) -> Path:
    """A file of which the download stopped."""
    path.mkdir()
    save_file({"x": torch.ones(100)}, path / "whole.safetensors")
    content = (path / "whole.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[:200])
    return path / "model.safetensors"


def saved(path: Path) -> Path:
    """A whole folder in the older format."""
    folder(config__json=LLAMA)(path)
    torch.save({"model.norm.weight": torch.ones(4)}, path / "pytorch_model.bin")
    return path


WHOLE = {"config__json": LLAMA, "model__safetensors": TENSOR}
INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
SNAPSHOT = {"snapshots_S_abc_S_config__json": LLAMA, "refs_S_main": "abc"}
ODD = {
    "mae": Odd(folder(config__json={"model_type": "vit_mae", "hidden_size": 8, "patch_size": 14, "image_size": 518},
                      model__safetensors=TENSOR),
               ("an image encoder that is not built here (vit_mae)", "It hides most patches at random")),
    "regnet": Odd(folder(config__json={"model_type": "regnet", "architectures": ["RegNetModel"], "num_channels": 3},
                         model__safetensors=TENSOR),
                  ("an image encoder that is not built here (regnet)", "none of those that were tried")),
    "siglip2": Odd(folder(config__json={"model_type": "siglip2", "vision_config": {}, "text_config": {},
                                        "logit_scale_init_value": 1.0}, model__safetensors=TENSOR),
                   ("an image encoder that is not built here (siglip2)", "take a release of a fixed size")),
    "peft": Odd(folder(adapter_config__json={"peft_type": "LORA", "r": 8, "base_model_name_or_path": "meta/llama"},
                       adapter_model__safetensors={"base_model.model.q.lora_A.weight": torch.ones(1)}),
                ("a PEFT adapter (LORA, rank 8) of meta/llama", "Merge it into its base")),
    "peft file": Odd(single("adapter_model.safetensors", b""), ("an empty file",), True),
    "tokenizer": Odd(folder(tokenizer__json={"a": 1}, tokenizer_config__json={"a": 1}),
                     ("a tokenizer without weights", "model.language.tokenizer")),
    "sentence-transformers": Odd(folder(modules__json="[]", **WHOLE), ("a sentence-transformers model",)),
    "diffusers": Odd(folder(model_index__json={"_class_name": "X"}), ("a diffusers pipeline",)),
    "gguf folder": Odd(folder(**{"llama-q4__gguf": b"GGUF\x03"}), ("a folder with a GGUF file", "in safetensors")),
    "gguf": Odd(single("llama.gguf", b"GGUF\x03" + bytes(100)), ("a GGUF file", "in safetensors")),
    "gguf under another name": Odd(single("llama.bin", b"GGUF\x03" + bytes(100)), ("a GGUF file",)),
    "gptq": Odd(folder(config__json=LLAMA | {"quantization_config": {"quant_method": "gptq", "bits": 4}},
                       model__safetensors=TENSOR),
                ("a Hugging Face language model (llama), quantised by its publisher (gptq)", "bf16 or fp16 release")),
    "older gptq": Odd(folder(quantize_config__json={"bits": 4}, **WHOLE), ("its publisher (GPTQ or AWQ)",)),
    "awq": Odd(folder(config__json=LLAMA | {"quantization_config": {"quant_method": "awq"}}), ("publisher (awq)",)),
    "bitsandbytes": Odd(folder(config__json=LLAMA | {"quantization_config": {"quant_method": "bitsandbytes"}}),
                        ("publisher (bitsandbytes)",)),
    "onnx": Odd(folder(config__json=LLAMA, **{"onnx_S_model__onnx": b"x"}), ("an ONNX graph (model.onnx)",)),
    "tensorflow": Odd(folder(config__json=LLAMA, tf_model__h5=b"\x89HDF"), ("weights of TensorFlow (tf_model.h5)",)),
    "flax": Odd(folder(config__json=LLAMA, flax_model__msgpack=b"x"), ("weights of Flax",)),
    "missing part": Odd(
        folder(config__json=LLAMA, model__safetensors__index__json=INDEX,
               **{"model-00001-of-00002__safetensors": TENSOR}),
        ("a Hugging Face language model (llama), but lacks model-00002-of-00002.safetensors", "Complete the download"),
        True,
    ),
    "config only": Odd(folder(config__json=LLAMA), ("the config.json of a Hugging Face language model (llama)",
                                                    "Complete the download"), True),
    "resnet": Odd(folder(config__json={"model_type": "resnet"}), ("a model of another kind (resnet)",)),
    "config.json is broken": Odd(folder(config__json="{", model__safetensors=TENSOR), ("not a JSON object",), True),
    "empty file": Odd(single("model.safetensors", b""), ("an empty file", "Download it again"), True),
    "file of zeros": Odd(single("model.safetensors", bytes(4096)), ("a file of zeros",), True),
    "text": Odd(single("vocab.txt", b"[PAD]\n[UNK]\n"), ("text, '[PAD] [UNK]'", "Weights are expected here")),
    "picture": Odd(single("model.bin", b"\xff\xd8\xff\xe0"), ("a JPEG picture", "Weights are expected here")),
    "server's error": Odd(single("model.safetensors", b"<?xml version='1.0'?><Error/>"), ("an XML document",), True),
    "pointer": Odd(single("model.safetensors", POINTER.encode()),
                   ("a Git LFS pointer, not the file itself", "git lfs pull"), True),
    "folder of pointers": Odd(folder(config__json=LLAMA, model__safetensors=POINTER),
                              ("model.safetensors is a Git LFS pointer", "git lfs pull"), True),
    "pointer to a torch file": Odd(single("pytorch_model.bin", POINTER.encode()), ("a Git LFS pointer",), True),
    "web page": Odd(single("model.safetensors", b"<!DOCTYPE html><html>Sign in"), ("a web page",), True),
    "cut": Odd(cut, ("cut short: 200 of", "Complete the download"), True),
    "no safetensors": Odd(single("model.safetensors", b"abcdefghijkl"), ("no safetensors file",), True),
    "unfinished": Odd(folder(config__json=LLAMA, **{"model__safetensors__incomplete": b"x"}),
                      ("a download that was not finished (model.safetensors.incomplete)", "Complete"), True),
    "unfinished by the hub's client": Odd(
        folder(config__json=LLAMA, **{".cache_S_huggingface_S_download_S_x__incomplete": b"x"}),
        ("a download that was not finished",), True),
    "part": Odd(single("model.safetensors.part", b"x"), ("a download that was not finished",), True),
    "hub cache": Odd(folder(**SNAPSHOT), ("a cache of the hub's", "snapshots/abc")),
    "run": Odd(folder(config__yaml="a: 1", **{"bundle_S_bundle__json": {"version": 2}}),
               ("the folder of a run", "Give its bundle")),
    "our adapter": Odd(folder(adapter__json={"version": 1}, adapter__safetensors=TENSOR),
                       ("an adapter of this project", "--adapter")),
    "open_clip": Odd(folder(open_clip_config__json={"model_cfg": {}}, open_clip_pytorch_model__bin=b"PK"),
                     ("a model in OpenCLIP's own layout",)),
    "timm": Odd(folder(config__json={"architecture": "vit_base", "pretrained_cfg": {}}, model__safetensors=TENSOR),
                ("a timm model (vit_base)",)),
    "publisher's own": Odd(folder(params__json={"dim": 1}, **{"consolidated__00__pth": b"PK"}), ("own layout",)),
    "whisper": Odd(folder(config__json={"model_type": "whisper", "num_mel_bins": 80, "d_model": 8}),
                   ("a model of sounds (whisper)",)),
    "llava": Odd(folder(config__json={"model_type": "llava", "vision_config": {}, "text_config": {}}),
                 ("a model that reads pictures itself (llava)", "language model inside it")),
    "roberta": Odd(folder(config__json={"model_type": "roberta", "architectures": ["RobertaForMaskedLM"],
                                        "hidden_size": 8}, model__safetensors=TENSOR),
                   ("an encoder of texts (roberta)",)),
    "empty folder": Odd(folder(), ("an empty folder",), True),
    "pictures": Odd(folder(a__jpg=b"x"), ("a folder without weights",), True),
    "zip": Odd(single("model.zip", b"PK\x03\x04"), ("a zip archive", "Unpack it")),
}  # fmt: skip
READ = {
    "hf-language": (folder(**WHOLE), "a Hugging Face language model (llama)"),
    "hf-language in .bin": (saved, "a Hugging Face language model (llama)"),
    "clip": (folder(config__json={"model_type": "clip_vision_model", "hidden_size": 8, "patch_size": 8},
                    model__safetensors=TENSOR), "Hugging Face CLIP"),
    "siglip": (folder(config__json={"model_type": "siglip", "vision_config": {}, "text_config": {}},
                      model__safetensors=TENSOR), "Hugging Face SigLIP"),
    "hf-vision dinov2": (folder(config__json={"model_type": "dinov2", "hidden_size": 8, "patch_size": 14,
                                              "image_size": 518}, model__safetensors=TENSOR),
                         "a Hugging Face image encoder (DINOv2, as RAD-DINO is)"),
    "hf-vision vit": (folder(config__json={"model_type": "vit", "architectures": ["ViTModel"], "hidden_size": 8,
                                           "num_channels": 3}, model__safetensors=TENSOR),
                      "a Hugging Face image encoder (ViT)"),
    "hf-vision in a whole": (folder(config__json={"model_type": "chinese_clip", "vision_config": {}, "text_config": {},
                                                  "projection_dim": 4}, model__safetensors=TENSOR),
                             "a Hugging Face image encoder (Chinese-CLIP)"),
    "bert": (folder(config__json={"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 8},
                    model__safetensors=TENSOR), "Hugging Face BERT"),
}  # fmt: skip
