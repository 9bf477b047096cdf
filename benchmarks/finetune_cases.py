"""What `benchmarks.finetune` measures: ChatGLM-6B behind EVA ViT-g/14, and what of them trains."""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.stage2_cases import VISUALGLM, Case, configure
from data_tools.chatglm_tokenizer.train import train_ice_text
from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.run import Config
from vglm_train.config.tuning import RULES, Lora, Prefix, Rule, Tuning
from vglm_train.data.sampling.length_buckets import LengthBuckets
from vglm_train.data.sampling.shuffle import permutation
from vglm_train.errors import UserError
from vglm_train.model.flops import generation_cost
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.prompt.build import build_template
from vglm_train.prompt.chatglm import ChatGLMTokenizer, build_chatglm
from vglm_train.prompt.dialogue import Dialogue, EmptyAnswer
from vglm_train.prompt.template import Encoded

MICRO, PARTS = 16, 4  # rows that run at once on a table's lengths, and how many such make a step
PIECES = 4000  # of the tokenizer learned from a table, at most


@dataclass(frozen=True, slots=True)
class TunedModel:
    """What trains, rows of a step, and what is wanted of the first line measured."""

    tuning: Tuning
    rows: int
    recompute: tuple[bool, ...] = (False, True)
    least: float | None = None  # samples/s
    most: float | None = None  # GiB while stepping
    table: bool = False  # rows as long as a table's items

    def case(self, tiny: bool) -> Case:
        """320 tokens, 32 of them the image's."""
        return Case(VISUALGLM, "fp16", self.rows, 4 if tiny else 32, 12 if tiny else 256, True, "")

    def configure(self, tiny: bool) -> Config:
        with tempfile.TemporaryDirectory() as folder:
            config = configure(self.case(tiny), None, tiny, Path(folder))
        language = config.model.language
        assert language is not None
        if tiny:
            language = replace(language, vocabulary=PIECES)
        prompt = replace(config.prompt, max_prompt=64, max_answer=256)
        return replace(config, model=replace(config.model, language=language), prompt=prompt)


FROZEN = (Rule(match="*", train=False),)
LORA = Lora(rank=10, alpha=10.0, targets=("query_key_value", "dense"), layers=(0, 14))
TINY_LORA = replace(LORA, layers=(0, 1))
ADAPTER = Tuning(rules=FROZEN, lora=LORA)
CASES = {
    "lora": TunedModel(ADAPTER, 16, least=58.0),
    "lora-table": TunedModel(ADAPTER, MICRO * PARTS, (False,), least=135.0, table=True),
    "lora-4": TunedModel(ADAPTER, 4, most=24.0),
    "qlora-4": TunedModel(replace(ADAPTER, quantize="nf4"), 4, (True,), most=10.0),
    "prefix-4": TunedModel(Tuning(rules=FROZEN, prefix=Prefix(length=4)), 4),
    "qformer-lora-4": TunedModel(Tuning(rules=RULES, lora=LORA), 4),
}


def tuning_of(name: str, tiny: bool) -> Tuning:
    """The case's; a toy model has two blocks."""
    tuning = CASES[name].tuning
    return replace(tuning, lora=TINY_LORA) if tiny and tuning.lora else tuning


def step_flops(config: Config, model: VisualLanguageModel, batch: PromptBatch) -> float:
    """Forward of all, without padding and recomputation; backward of what trains and what is above it."""
    tokens = {
        "visual": batch.valid.shape[0] * model.image_length,
        "sequence": int(batch.attention_mask.sum()),
        "target": int(batch.labels.ne(IGNORED).sum()),
    }
    return generation_cost(config.model, model).of(0, tokens)


class Table:
    """Items of a table in VisualGLM's layout (a JSON list of img, prompt, label) as rows of ids."""

    def __init__(self, path: Path) -> None:
        try:
            self.items = [(item["prompt"], str(item["label"])) for item in json.loads(path.read_text("utf-8"))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"--table {path}: no JSON list of objects with prompt and label ({error!r})") from error
        self.tokenizer = _tokenizer([text for item in self.items for text in item])

    def rows(self, config: Config) -> list[Encoded]:
        """Prompt and answer as trained, answers cut at prompt.max_answer."""
        assert config.model.language is not None
        template = build_template(config.prompt, config.model.language, self.tokenizer, config.model.qformer.queries)
        rows = []
        for question, answer in self.items:
            try:
                rows.append(template.encode(Dialogue(question, answer)))
            except EmptyAnswer:
                continue
        return rows

    def steps(self, config: Config, rows: list[Encoded], window: int, device: torch.device) -> list[list[PromptBatch]]:
        """A pass: `PARTS` micro-batches a step, each padded to its own longest row; the last part of a window is left.

        window: as data.length_window; 0: in random order.
        """
        assert config.model.language is not None
        template = build_template(config.prompt, config.model.language, self.tokenizer, config.model.qformer.queries)
        order, size = permutation(len(rows), 0, "benchmark"), MICRO * PARTS
        number, image = len(rows) // size, config.model.vision.image_size
        number -= number % (window or 1)
        buckets = LengthBuckets(lambda index: len(rows[order[index]].input_ids), size, window or 1, 0)
        pixels = torch.randint(0, 256, (MICRO, 3, image, image), dtype=torch.uint8)
        shared: Tensor = pixels.to(device)
        made = []
        for step in range(number):
            indices = buckets.batch(step) if window else range(step * size, (step + 1) * size)
            chosen = [rows[order[index]] for index in indices]
            parts = [template.batch(chosen[first : first + MICRO], pixels) for first in range(0, size, MICRO)]
            made.append([replace(part.to(device), pixels=shared) for part in parts])
        return made


def _tokenizer(texts: list[str]) -> ChatGLMTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ice_text.model"
        train_ice_text(texts, path, PIECES)
        return build_chatglm(path)
