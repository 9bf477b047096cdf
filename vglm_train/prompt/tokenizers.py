"""Tokenizers of language models: ChatGLM's own, and any fast one of transformers from a local folder."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.folders import recover
from vglm_train.prompt.chatglm import build_chatglm, whole_characters
from vglm_train.prompt.literal import control_ids, encode_literally
from vglm_train.prompt.qformer_text import words_by_id
from vglm_train.weights.identify import require

logger = logging.getLogger("vglm_train")

_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "sentencepiece.bpe.model")


class Tokenizer(Protocol):
    """What a template needs of a tokenizer. `vocabulary` is one more than the largest id."""

    vocabulary: int
    pad_id: int
    end_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""

    def find(self, token: str) -> int | None:
        """Id of a token by its name; None if there is none."""

    def words(self) -> list[str]:
        """Every token by its id; "" where an id has none."""

    def save(self, folder: Path) -> None:
        """Write a folder that `build_tokenizer` reads back."""


class HfTokenizer:
    """A fast tokenizer of transformers.

    `prefix_ids` and `suffix_ids` are the ids that it puts around a text: OPT's </s>, LLaMA's <s>; T5's </s>. Text is
    literal: "</s>" in a question is those four characters. Without a padding token the end token pads; masks hide it.
    """

    def __init__(self, tokenizer: Any) -> None:  # Any: transformers types most results as unions
        self.tokenizer = tokenizer
        self.vocabulary: int = max(tokenizer.get_vocab().values()) + 1
        self.end_id: int = tokenizer.eos_token_id
        self.pad_id: int = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.prefix_ids, self.suffix_ids = self._ids_around()
        self._literal()

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return encode_literally(self.tokenizer.backend_tokenizer, whole_characters(text), self.control_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without special tokens; ids beyond the vocabulary are left out."""
        known = [int(i) for i in ids if 0 <= int(i) < self.vocabulary]
        text: str = self.tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def find(self, token: str) -> int | None:
        """Id of a token by its name; None if there is none."""
        number: int | None = self.tokenizer.get_vocab().get(token)
        return number

    def words(self) -> list[str]:
        """Every token by its id; "" where an id has none."""
        return words_by_id(self.tokenizer.get_vocab())

    def add_special(self, token: str) -> int:
        """Add a special token at the end of the vocabulary; returns its id."""
        self.tokenizer.add_tokens([token], special_tokens=True)
        self.vocabulary = max(self.vocabulary, self.tokenizer.convert_tokens_to_ids(token) + 1)
        self._literal()
        number: int = self.tokenizer.convert_tokens_to_ids(token)
        return number

    def save(self, folder: Path) -> None:
        """Write a tokenizer folder."""
        self.tokenizer.save_pretrained(folder)

    def _ids_around(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        text, whole = (list(self.tokenizer("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
        for start in range(len(whole) - len(text) + 1):
            if whole[start : start + len(text)] == text:
                return whole[:start], whole[start + len(text) :]
        return [], []

    def _literal(self) -> None:
        """Make "</s>" in a text those letters. Calling the tokenizer itself undoes this, so it comes last."""
        self.tokenizer.backend_tokenizer.encode_special_tokens = True
        self.control_ids = control_ids(self.tokenizer)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._literal()  # a tokenizer does not pickle this setting


def build_tokenizer(config: Language, folder: Path | None = None) -> Tokenizer:
    """The language model's tokenizer: the saved one in `folder`, or the configured one.

    UserError if there is none, or it cannot be loaded.
    """
    path = folder or Path(config.tokenizer or config.weights or "")
    recover(path)
    if not path.exists():
        field = "tokenizer" if config.tokenizer else "weights"
        raise UserError(f"model.language.{field}: no such file or folder: {path}")
    try:
        return build_chatglm(path) if config.family == "chatglm" else _from_folder(path)
    except UserError:
        if folder is None and config.tokenizer is None:  # what the weights are may say more
            require(path, "language")
        raise


def check_tokenizer(tokenizer: Tokenizer, vocabulary: int, name: str) -> None:
    """UserError if an id of the tokenizer is beyond the `vocabulary` of the model `name`, its number of embeddings."""
    if tokenizer.vocabulary > vocabulary:
        raise UserError(
            f"the tokenizer does not belong to {name}: its largest id is {tokenizer.vocabulary - 1}, but the model's "
            f"vocabulary has {vocabulary} ids. Set model.language.tokenizer to the one that came with the weights."
        )


def _from_folder(folder: Path) -> HfTokenizer:
    from transformers import AutoTokenizer  # a second to import, which talking to ChatGLM does without

    if not folder.is_dir() or not any((folder / name).is_file() for name in _FILES):
        raise UserError(
            f"{folder}: no tokenizer here; model.language.tokenizer needs a folder with tokenizer.json (or "
            "tokenizer.model, spiece.model, vocab.json with merges.txt) and tokenizer_config.json"
        )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds here
        raise UserError(f"{folder}: the tokenizer cannot be loaded: {_first_line(error)}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError(f"{folder}: {type(tokenizer).__name__} has no fast form; a tokenizer.json is needed")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{folder}: the tokenizer has no end token, so no answer would end; name one as eos_token in "
            "tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        logger.info("%s: no padding token; %s pads", folder, tokenizer.eos_token)
    return HfTokenizer(tokenizer)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
