"""Stage two: the Q-Former's queries learn to be the input of a frozen language model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vglm_train.checkpoint.bundle.stage_one import bundle_vision, compare, init_from_bundle, is_bundle, load_text_side
from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.checkpoint.load.language import load_language
from vglm_train.checkpoint.load.pretrained import load_vision
from vglm_train.checkpoint.vocabulary import Vocabulary
from vglm_train.config.check import check_vocabulary
from vglm_train.config.run import Config
from vglm_train.config.validation import FieldError
from vglm_train.data.eval_captions import EvalItem
from vglm_train.data.processors import PromptProcessor
from vglm_train.distributed import Ranks
from vglm_train.engine.hooks import Evaluator
from vglm_train.errors import UserError
from vglm_train.evaluate.caption.evaluator import CaptionEvaluator
from vglm_train.evaluate.generator import Generator
from vglm_train.model.flops import Cost, generation_cost, image_tokens
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language
from vglm_train.objective.generation import GenerationObjective
from vglm_train.prompt.build import build_template
from vglm_train.prompt.chatglm import RELEASED_SOP
from vglm_train.prompt.dialogue import Dialogue
from vglm_train.prompt.qformer_text import QFormerTokenizer, build_text
from vglm_train.prompt.template import Encoded, Template
from vglm_train.prompt.tokenizers import Tokenizer, build_tokenizer, check_tokenizer
from vglm_train.stages.base import Stage, check_best


class Generate(Stage):
    def __init__(self, config: Config) -> None:
        assert config.model.language is not None
        self.config, self.language = config, config.model.language
        self.weights = {"lm": 1.0}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        tokenizer = build_tokenizer(self.language)
        if self.language.family == "chatglm":
            check_tokenizer(tokenizer, self.language.vocabulary, "model.language.vocabulary")
            self._check_sop(tokenizer)
        return tokenizer

    def _check_sop(self, tokenizer: Tokenizer) -> None:
        """FieldError where the tokenizer's <sop>, with which an answer begins, is not that of the weights.

        Only released vocabularies are known, by their size.
        """
        released, sop_id = RELEASED_SOP.get(self.language.vocabulary), tokenizer.find("<sop>")
        if self.language.weights and released not in (None, sop_id):
            reason = (
                f"<sop> is id {sop_id} in {self._tokenizer_path()}, but {released} in ChatGLM-6B's vocabulary of "
                f"{self.language.vocabulary}: it is not the tokenizer of these weights"
            )
            raise FieldError("model.language.tokenizer", "model.language.vocabulary", reason=reason)

    def _tokenizer_path(self) -> str:
        return str(self.language.tokenizer or self.language.weights)

    @cached_property
    def text(self) -> QFormerTokenizer | None:
        """The Q-Former's own tokenizer, if it reads the question."""
        if not self.config.model.qformer.reads_question:
            return None
        text = build_text(self.config.model.text, self.config.data.languages)
        check_vocabulary(self.config, text.vocabulary)
        return text

    @cached_property
    def template(self) -> Template:
        queries = self.config.model.qformer.queries
        template = build_template(self.config.prompt, self.language, self.tokenizer, queries, self.text)
        self._check_questions(template)
        return template

    def _check_questions(self, template: Template) -> None:
        """FieldError where a question is too long: the questions of all pictures must not be cut."""
        for language in self.config.data.languages:
            try:
                self._encode_question(template, language)
            except UserError as error:
                raise FieldError(f"prompt.questions.{language}", "prompt.max_prompt", reason=str(error)) from None

    def _encode_question(self, template: Template, language: str) -> Encoded:
        return template.encode_prompt(
            Dialogue(getattr(self.config.prompt.questions, language), None, language=language)
        )

    @cached_property
    def processor(self) -> PromptProcessor:
        return PromptProcessor(self.template, self.config.prompt.questions, self.config.data.languages)

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.vocabulary

    def vocabularies(self) -> dict[str, Vocabulary]:
        assert self.template  # it adds its tokens
        found = {"model.language.tokenizer": Vocabulary(self._tokenizer_path(), self.tokenizer.words())}
        if self.text is not None:
            found["model.text.tokenizer"] = Vocabulary(self.config.model.text.tokenizer, self.text.words())
        return found

    def absent_tokenizers(self) -> dict[str, str]:
        return {} if self._has_tokenizer() else {"model.language.tokenizer": self._tokenizer_path()}

    def tokenizer_line(self) -> str:
        assert self.template  # building it checks its rules
        return f"tokenizer: {self._tokenizer_path()}, {self.tokenizer.vocabulary:,} tokens"

    @property
    def evaluated_pictures(self) -> int | None:
        return self.config.prompt.max_images

    def _has_tokenizer(self) -> bool:
        """Whether the tokenizer is on this machine."""
        return Path(self._tokenizer_path()).exists()

    def notes(self, model: VisualLanguageModel) -> list[str]:
        weights = self.config.model.qformer.weights
        towers = {"image encoder": self._vision_weights(), "language model": self.language.weights}
        lines = [f"{tower}: {path or 'random weights'}" for tower, path in towers.items()]
        if weights is None:
            return [*lines, "model.qformer.weights: none, the Q-Former starts from random weights"]
        if is_bundle(weights):
            return [*lines, *compare(model, Path(weights)).lines(Path(weights))]
        return [*lines, f"model.qformer.weights: not checked, {weights} is not a bundle here"]

    def _vision_weights(self) -> str | None:
        """As configured, or those of the stage-one bundle; UserError where that one does not fit."""
        bundled = bundle_vision(self.config.model)
        return self.config.model.vision.weights or bundled

    def model(self) -> VisualLanguageModel:
        has_tokenizer = self._has_tokenizer()
        sop_id = getattr(self.tokenizer, "sop_id", None) if has_tokenizer else None
        words = None if self.text is None else self.text.vocabulary
        model = self.build(sop_id, words)
        if has_tokenizer:
            check_tokenizer(self.tokenizer, model.language.vocabulary, "model.language")
            self._check_positions(model.language.positions)
        return model

    def build(self, sop_id: int | None, words: int | None) -> VisualLanguageModel:
        """The bare model; see `build_visual_language`."""
        image = self.config.data.image
        return build_visual_language(self.config.model, image.mean, image.std, sop_id, words)

    def _check_positions(self, positions: int | None) -> None:
        """FieldError where the longest sequence of training, or of an evaluation during it, has too many positions."""
        if positions is None:
            return
        prompt, separate = self.config.prompt, self.template.separate_answer
        queries = self.config.model.qformer.queries * prompt.max_images
        before, question = queries + prompt.max_prompt, self._longest_question()
        longest = max(before, prompt.max_answer) if separate else before + prompt.max_answer
        if longest > positions:
            reason = (
                f"{prompt.max_prompt}, {queries} image tokens and prompt.max_answer {prompt.max_answer} make "
                f"sequences of {longest}; the language model has {positions} positions"
            )
            raise FieldError("prompt.max_prompt", "prompt.max_answer", reason=reason)
        new = self.config.evaluate.decoding.max_new
        longest = max(question, new + 1) if separate else question + new
        if (self.config.data.validation or self.config.data.holdout) and longest > positions:
            reason = (
                f"{new} tokens after {question} of picture and question make {longest}; the language model has "
                f"{positions} positions"
            )
            raise FieldError("evaluate.decoding.max_new", reason=reason)

    def _longest_question(self) -> int:
        """Tokens of picture and question."""
        return max(
            len(self._encode_question(self.template, language).input_ids) for language in self.config.data.languages
        )

    def load(self, model: VisualLanguageModel) -> None:
        weights = self.config.model.qformer.weights
        vision = replace(self.config.model.vision, weights=self._vision_weights())
        if vision.weights:
            load_vision(model.vision.encoder, vision)
        if weights:
            init_from_bundle(model, Path(weights))
        if self.config.model.qformer.text_weights:
            load_text_side(model, Path(self.config.model.qformer.text_weights))
        if self.language.weights:
            load_language(model.language, self.language)

    def objective(self, model: VisualLanguageModel, ranks: Ranks) -> GenerationObjective:
        return GenerationObjective(model)

    def generator(self, model: VisualLanguageModel, ranks: Ranks) -> Generator:
        """Answers in an evaluation."""
        autocast = self.config.engine.precision == "bf16"
        return Generator(model, self.template, self.config.prompt.questions, ranks.device, autocast)

    def evaluator(self, model: VisualLanguageModel, items: Sequence[EvalItem], ranks: Ranks) -> Evaluator:
        config, generator = self.config, self.generator(model, ranks)
        evaluator = CaptionEvaluator(
            generator, items, config.data.languages, config.evaluate.decoding, config.evaluate.table, ranks
        )
        check_best(config, evaluator.available_metrics())
        return evaluator

    def save(
        self, folder: Path, model: VisualLanguageModel, origin: Mapping[str, Any], read: Mapping[str, str] | None = None
    ) -> None:
        save_bundle(folder, self.config, model, self.tokenizer, origin, self.text, read)

    def cost(self, model: VisualLanguageModel) -> Cost:
        return generation_cost(self.config.model, model, self.encodes)

    def max_tokens(self) -> dict[str, int]:
        prompt, model = self.config.prompt, self.config.model
        visual = model.qformer.queries * prompt.max_images
        read = visual + prompt.max_prompt
        whole = read if self.language.family == "seq2seq" else read + prompt.max_answer
        return {
            "visual": visual,
            "sequence": whole,
            "answer": prompt.max_answer,
            "target": prompt.max_answer,
            "question": prompt.max_images * model.text.max_length,
        }

    def activations(self, model: VisualLanguageModel) -> float:
        """The queries' pass and image keys, and what backward keeps of frozen blocks: no input of a linear layer."""
        config, size, vision = self.config, self.config.model.qformer, self.config.model.vision
        low = 2 if config.engine.precision == "bf16" else 4
        crossings = -(-size.layers // size.cross_every)
        image = image_tokens(vision) * (crossings * 2 * size.width * low * 2 + vision.width * 8)
        queries = size.layers * size.queries * (8 * size.width + 3 * size.mlp_width) * low
        wide = self.language.dtype == "fp32"
        blocks = model.language.blocks()
        weights = (
            sum(p.numel() for p in blocks[0].parameters()) / model.language.embed_width
        )  # outputs of its linear layers
        tokens = max(self.max_tokens()["sequence"], self.max_tokens()["answer"])
        layer = weights * tokens * (4 if wide else 2)
        kept = layer + len(blocks) * model.language.embed_width * tokens * 2
        return image + queries + (kept if config.engine.recompute else len(blocks) * layer)
