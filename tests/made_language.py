"""The smallest language models of each family, in folders laid out as published ones; their words are made_shards's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from prompt.made_tokenizers import words_folder
from torch import nn
from transformers import OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

from data_tools.chatglm_tokenizer.train import train_ice_text
from data_tools.small_language.train import save_language
from vglm_train.config.language import Language
from vglm_train.model.language import build_language
from vglm_train.prompt.chatglm import build_chatglm

NUMBERS = [str(number) for number in range(100)]
WORDS = ["a", "photo", "▁photo", "▁number", *"第张照片", "▁ ", *NUMBERS, *(f"▁{number}" for number in NUMBERS)]
SHAPE = {"layers": 2, "width": 32, "heads": 2, "mlp_width": 64, "positions": 64}
OWN = {"vocab_size": 256, "pad_token_id": 1, "eos_token_id": 3, "bos_token_id": 2}
STYLES = {
    "chatglm": {"style": "visualglm"},
    "causal": {"style": "blip2", "questions": {"en": "a photo", "zh": ""}, "asked": "{}"},
    "seq2seq": {"style": "blip2", "questions": {"en": "", "zh": ""}, "prefix_split": True},
}
PROMPT = {"max_prompt": 40, "max_answer": 12}


def sections(folder: Path, family: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """Write the folder; the sections model.language and prompt of a run that uses it. `words`: further ones it has."""
    torch.manual_seed(0)
    language = _chatglm(folder, words) if family == "chatglm" else _hugging_face(folder, family, words)
    return {"language": {"family": family, "weights": str(folder), **language}, "prompt": PROMPT | STYLES[family]}


def spread(model: nn.Module) -> None:
    """As these are initialised, a picture makes no difference."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)


def _chatglm(folder: Path, words: Sequence[str]) -> dict[str, Any]:
    folder.mkdir(parents=True)
    file = folder.with_name(f"{folder.name}.model")
    sentences = [text for n in NUMBERS for text in (f"a photo number {n}", f"photo {n}", f"第{n}张照片")]
    sentences += len(NUMBERS) * list(words)
    shape = {"dtype": "fp32", "vocabulary": train_ice_text(sentences, file, 400), **SHAPE}
    config = Language(tokenizer=str(file), **shape)
    model = build_language(config, build_chatglm(file).sop_id)
    spread(model)
    save_language(model, config, file, folder)
    return shape


def _hugging_face(folder: Path, family: str, words: Sequence[str]) -> dict[str, Any]:
    model: Any
    if family == "causal":
        shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64}
        model = OPTForCausalLM(OPTConfig(**shape, **OWN, max_position_embeddings=64))
        spread(model)
    else:
        shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        model = T5ForConditionalGeneration(T5Config(**shape, **OWN, decoder_start_token_id=1))
    model.save_pretrained(folder)
    words_folder(folder, [*WORDS, *words], **({"front": "</s>"} if family == "causal" else {"behind": "</s>"}))
    return {"dtype": "fp32"}
