"""What the two kinds of Hugging Face language models share: building, recompute, lengths.

The architectures are those of transformers.

b rows, s tokens, m targets, d width of the head's input, e embedding width, v vocabulary.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.model.language.base import LanguageModel
from vglm_train.model.language.fp16_gradients import embedding_dtype
from vglm_train.model.language.hf.build import build, compute_tables, configuration, read_config, source_of
from vglm_train.model.language.hf.forms import fuse, use_short
from vglm_train.model.language.packed import keep_weights

# what transformers raises for numbers of a config.json that do not fit each other
UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class HuggingFaceLanguage(LanguageModel):
    """A frozen transformers model, `self.model`. Its weights have the names of the published files."""

    def __init__(self, config: Language, classes: Any) -> None:
        """`classes` is transformers' table of a kind of model: configuration class -> model class."""
        super().__init__()
        self.dtype = DTYPES[config.dtype]
        self._recomputed = False
        self._compiled: dict[type[nn.Module], Callable[..., Any]] = {}  # forward of each kind of block
        content = read_config(config)
        source, seq2seq = source_of(config), config.family == "seq2seq"
        shape = configuration(content, source)
        if type(shape) not in classes or shape.is_encoder_decoder != seq2seq:
            raise UserError(
                f"{source}: model_type {shape.model_type} is not of the family {config.family}; "
                "set model.language.family to the one it is (chatglm, causal or seq2seq), or take another model."
            )
        if "text_config" in shape.sub_configs:
            raise UserError(f"{source}: {shape.model_type} reads pictures itself; give the language model inside it.")
        try:
            self.model = build(classes[type(shape)], shape, self.dtype, filled=config.weights is None)
        except UNFIT as error:
            raise UserError(f"{source}: transformers cannot build this {shape.model_type}: {error}") from error
        if reason := self._unfit():
            raise UserError(f"{source}: {shape.model_type} {reason}; take another model.")
        fuse(self.model)
        use_short(self.model)
        self._untie(content)
        self.requires_grad_(False).train(False)
        self.embed_width: int = self.embeddings.weight.shape[1]
        self.vocabulary: int = self.embeddings.weight.shape[0]
        self.positions: int | None = getattr(shape, "max_position_embeddings", None) or None
        self.pad_id = first_id(getattr(shape, "pad_token_id", None), getattr(shape, "eos_token_id", None), 0)

    @property
    def embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def embed(self, input_ids: Tensor) -> Tensor:
        embeds: Tensor = self.embeddings(input_ids).to(embedding_dtype(self.dtype))
        return embeds

    def attentions(self) -> Sequence[tuple[nn.Module, int, int]]:
        from vglm_train.model.language.hf.prefix import self_attention

        return [self_attention(block, self.model.config) for block in self.blocks()]

    def read_prefixes(self, length: int) -> None:
        from vglm_train.model.language.hf.prefix import use_prefixes

        use_prefixes(self.model)

    def recompute(self, on: bool) -> None:
        self._recomputed = on
        keep_weights(self, on)
        self._wrap_blocks()

    def compile_blocks(self) -> None:
        kinds = {type(block) for block in self.blocks()}
        # one function for all blocks of a kind: a shape compiles once and not once a block
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        self._compiled = {kind: _with_gradient(kind.forward, torch.compile(kind.forward)) for kind in kinds}
        self._wrap_blocks()

    def _wrap_blocks(self) -> None:
        for block in self.blocks():
            vars(block).pop("forward", None)
            if compiled := self._compiled.get(type(block)):
                block.forward = MethodType(compiled, block)
            if self._recomputed:
                forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=self.random)
                block.forward = forward

    def own_dtype(self) -> AbstractContextManager[Any]:
        """Within it, autocast is off: the frozen model runs in its own dtype."""
        return torch.autocast(self.embeddings.weight.device.type, enabled=False)

    def check_length(self, length: int) -> None:
        """Raises UserError where the model has no positions for `length` tokens."""
        if self.positions and self.positions < length:
            raise UserError(
                f"a sequence of {length} tokens, image and answer included, is longer than the {self.positions} "
                "positions of the language model: lower prompt.max_prompt, prompt.max_answer, or decoding's max_new."
            )

    def materialise(self, device: torch.device) -> None:
        """Give a model built on the meta device memory on `device`: empty weights, and tables computed again."""
        names: dict[int, list[str]] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        self.to_empty(device=device)
        for first, *others in names.values():  # what was tied stays tied
            for other in others:
                module, _, key = other.rpartition(".")
                setattr(self.get_submodule(module), key, self.get_parameter(first))
        if lost := compute_tables(self.model):
            raise UserError(
                f"{type(self.model).__name__} cannot be built on the meta device: transformers cannot compute "
                f"{', '.join(lost)} again. Build it on the device it runs on."
            )

    def _unfit(self) -> str | None:
        """Why a model that transformers can build cannot be used."""
        if self.model.get_output_embeddings() is None:
            return "has no language-model head of its own"
        if not self.model.config.is_encoder_decoder and any(
            getattr(module, "is_causal", True) is False for module in self.model.modules()
        ):
            return "is an encoder, whose tokens attend to later ones"
        try:
            self.blocks()
        except (StopIteration, AttributeError):
            return "is not a stack of blocks"
        return None

    def _untie(self, content: dict[str, Any]) -> None:
        """T5's configuration class forgets tie_word_embeddings=false, by which Flan-T5 has a head of its own."""
        head = self.model.get_output_embeddings()
        if content.get("tie_word_embeddings") is False and head.weight is self.embeddings.weight:
            head.weight = nn.Parameter(head.weight.detach().clone())


def _with_gradient(plain: Callable[..., Any], compiled: Callable[..., Any]) -> Callable[..., Any]:
    """`compiled` in training, `plain` without gradient: answers grow, and each length would compile anew."""

    def forward(block: nn.Module, *inputs: Any, **options: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else plain)(block, *inputs, **options)

    return forward


def first_id(*candidates: int | list[int] | None) -> int:
    """The first candidate that is not None; of a list its first id."""
    first = next(c for c in candidates if c is not None)
    return first[0] if isinstance(first, list) else first


def blocks_of(stack: nn.Module, number: int) -> Sequence[nn.Module]:
    """The list of `number` blocks in a stack."""
    lists = (list(module) for module in stack.modules() if isinstance(module, nn.ModuleList))
    return next(blocks for blocks in lists if len(blocks) == number)
