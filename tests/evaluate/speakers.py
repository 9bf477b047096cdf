"""Small stage-two models of every family with their templates, and plain-coloured pictures with captions.

python speakers.py FOLDER: one rank of test_caption_evaluator.py, with torchrun's environment variables.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import tiny
import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from torch.nn import functional
from transformers import OPTConfig, PreTrainedTokenizerFast, T5Config

from data_tools.chatglm_tokenizer.train import train_ice_text
from vglm_train import distributed
from vglm_train.batch import PromptBatch
from vglm_train.config.language import Decoding, Language, Prompt
from vglm_train.data.eval_captions import EvalItem
from vglm_train.distributed import Ranks
from vglm_train.evaluate.caption.evaluator import CaptionEvaluator
from vglm_train.evaluate.generator import Generator
from vglm_train.model.language import build_language
from vglm_train.model.qformer.qformer import QFormer
from vglm_train.model.vision import build_vision
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.prompt.build import build_template
from vglm_train.prompt.dialogue import Dialogue
from vglm_train.prompt.tokenizers import build_tokenizer

COLOURS = {"red": "红", "green": "绿", "blue": "蓝", "white": "白", "black": "黑", "yellow": "黄"}
PAINTS = ((220, 20, 20), (20, 200, 20), (20, 20, 220), (240, 240, 240), (10, 10, 10), (230, 220, 20))
WORDS = ["a", "plain", "wall", "picture", "of", *COLOURS]
DECODING = Decoding(max_new=12)
LANGUAGES = ("en", "zh")


def items() -> list[EvalItem]:
    """A picture of each colour; the last one is described in English only."""
    made = []
    for number, ((english, chinese), paint) in enumerate(zip(COLOURS.items(), PAINTS)):
        pixels = torch.tensor(paint, dtype=torch.uint8)[:, None, None].expand(3, 16, 16).clone()
        captions = {"en": (f"a {english} wall", f"a plain wall, {english}"), "zh": (f"一面{chinese}色的墙",)}
        made.append(EvalItem(f"{number:03d}", 100 + number, pixels, captions))
    return [*made[:-1], replace(made[-1], captions={"en": made[-1].captions["en"]})]


def speaker(folder: Path, family: str = "chatglm", **prompt) -> Generator:
    """Random weights, the same at every call."""
    torch.manual_seed(0)
    language = _language(folder, family)
    prompt = Prompt(**{"style": "visualglm" if family == "chatglm" else "blip2", **prompt})
    config, tokenizer = replace(tiny.MODEL.qformer, vocabulary=None), build_tokenizer(language)
    sop = getattr(tokenizer, "sop_id", None)  # ChatGLM's; its place depends on how many pieces were learned
    model = VisualLanguageModel(
        build_vision(tiny.MODEL.vision), QFormer(config, tiny.MODEL.vision.width, None), build_language(language, sop),
        (0.5, 0.5, 0.5), (0.25, 0.25, 0.25),
    )  # fmt: skip
    for parameter in model.language.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.2)  # so that answers differ
    template = build_template(prompt, language, tokenizer, model.image_length)
    return Generator(model.eval(), template, prompt.questions, torch.device("cpu"))


def captioner(of: Generator, **changes) -> CaptionEvaluator:
    given = {"items": items(), "languages": LANGUAGES, "decoding": DECODING, "examples": 2, "ranks": Ranks()}
    return CaptionEvaluator(of, **{**given, **changes})


def teach(pupil: Generator, steps: int = 150) -> None:
    """Learn the pictures' first captions by heart, in the language model's weights too."""
    rows = [(item.pixels, text[0], lang) for item in items() for lang, text in item.captions.items()]
    encoded = [
        pupil.template.encode(Dialogue(getattr(pupil.questions, lang), text, (), lang)) for _, text, lang in rows
    ]
    batch = PromptBatch(
        pixels=torch.stack([pixels for pixels, _, _ in rows]), valid=torch.ones(len(rows), dtype=torch.bool),
        **pupil.template.collate(encoded),
    )  # fmt: skip
    model = pupil.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        logits, targets = model.score(batch)
        functional.cross_entropy(logits, targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def _language(folder: Path, family: str) -> Language:
    if family == "chatglm":
        sentences = [text for item in items() for texts in item.captions.values() for text in texts]
        file = folder / "ice_text.model"
        size = train_ice_text(sentences * 3, file, 420)
        shape = {"layers": 2, "width": 32, "heads": 2, "mlp_width": 64, "positions": 96}
        return Language(family="chatglm", tokenizer=str(file), dtype="fp32", vocabulary=size, **shape)
    shape = {"vocab_size": 64, "pad_token_id": 1, "eos_token_id": 3, "bos_token_id": 2}
    if family == "causal":
        config = OPTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, max_position_embeddings=96, **shape
        )
    else:
        config = T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=1, **shape)
    config.save_pretrained(folder)
    return Language(family=family, config=str(folder / "config.json"), tokenizer=str(_words(folder)), dtype="fp32")


def _words(folder: Path) -> Path:
    """A tokenizer of whole words and single Chinese characters."""
    names = ["<unk>", "<pad>", "<s>", "</s>", *WORDS, *COLOURS.values(), *"一面色的墙,"]
    backend = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\p{Han}|,"), "isolated")]
    )
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    made.save_pretrained(folder / "words")
    return folder / "words"


def _rank(folder: Path) -> None:
    ranks = distributed.start("gloo")
    try:
        result = captioner(speaker(folder / str(ranks.rank), "causal"), ranks=ranks, batch=2).measure()
        torch.save({"scores": result.scores, "made": repr(result.captions)}, folder / f"rank{ranks.rank}.pt")
    finally:
        distributed.stop()


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["DS_ACCELERATOR"] = "cpu"
    _rank(Path(sys.argv[1]))
