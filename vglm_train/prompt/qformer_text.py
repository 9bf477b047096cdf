"""The Q-Former's tokenizer: captions and questions to ids and back, with any BERT-like tokenizer."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vglm_train.config.model import Text
from vglm_train.errors import UserError
from vglm_train.prompt.dialogue import HAN, is_chinese
from vglm_train.prompt.literal import control_ids, encode_literally

if TYPE_CHECKING:  # a second to import, which talking to ChatGLM does without
    from transformers import PreTrainedTokenizerBase

DEC = "[DEC]"  # starts a caption to be generated (BLIP, BLIP-2)
LANGUAGE_TOKENS = {"en": "[EN]", "zh": "[ZH]"}
BLIP_WORDS = 50  # words that the blip processor keeps

_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_CJK = f"{HAN}\u3000-\u303f\uff00-\uffef"  # with punctuation and full-width forms
_BETWEEN_CJK = re.compile(f"(?<=[{_CJK}]) (?=[{_CJK}])")


def blip_text(caption: str) -> str:
    """LAVIS's blip_caption: lower case, . ! " ( ) * # : ; ~ become spaces, at most 50 words. English only."""
    return " ".join(re.sub(r"[.!\"()*#:;~]", " ", caption.lower()).split()[:BLIP_WORDS])


def words_by_id(vocabulary: Mapping[str, int]) -> list[str]:
    """Word -> id as a list; "" where an id has none."""
    words = [""] * (max(vocabulary.values(), default=-1) + 1)
    for word, number in vocabulary.items():
        words[number] = word
    return words


def plain_text(caption: str) -> str:
    """NFC, runs of spaces become one, all else is kept: for every language."""
    return " ".join(unicodedata.normalize("NFC", caption).split())


class QFormerTokenizer:
    """Caption -> [CLS] (language token) words [SEP], at most `max_length` ids.

    [DEC] is added to the vocabulary as the first new id, as in BLIP-2; then [EN] and [ZH] if `config.language_token`.
    """

    def __init__(self, tokenizer: Any, config: Text) -> None:  # Any: transformers types most results as unions
        self.tokenizer, self.config = tokenizer, config
        tokenizer.add_special_tokens({"bos_token": DEC})
        names = LANGUAGE_TOKENS if config.language_token else {}
        tokenizer.add_tokens(list(names.values()), special_tokens=True)
        self.vocabulary = len(tokenizer)
        self.pad_id, self.cls_id, self.sep_id = tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id
        self.dec_id: int = tokenizer.convert_tokens_to_ids(DEC)
        self.language_ids: dict[str, int] = {name: tokenizer.convert_tokens_to_ids(t) for name, t in names.items()}
        self._literal()

    def encode(self, caption: str, language: str) -> list[int]:
        """Ids of a caption. If they are too many, the last words are left out. UserError for Chinese with blip."""
        head = [self.cls_id, *([self.language_ids[language]] if self.language_ids else [])]
        words = encode_literally(self.tokenizer.backend_tokenizer, self.process(caption), self.control_ids)
        return [*head, *words[: self.config.max_length - len(head) - 1], self.sep_id]

    def process(self, caption: str) -> str:
        """The caption as the configured processor cleans it."""
        if self.config.processor == "plain":
            return plain_text(caption)
        if is_chinese(caption):
            raise UserError(
                f"caption {caption[:60]!r} is Chinese, but model.text.processor is blip, which is for English only: it "
                "splits at spaces, so a Chinese sentence is one word. Set model.text.processor to plain."
            )
        return blip_text(caption)

    def batch(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """n rows of ids -> ids [n,max_length] int64 with padding, mask [n,max_length] bool, True on tokens."""
        width = self.config.max_length
        padded = [[*tokens, *(self.pad_id,) * (width - len(tokens))] for tokens in rows]
        ids = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width)
        mask = torch.arange(width) < torch.tensor([len(tokens) for tokens in rows])[:, None]
        return ids, mask

    def words(self) -> list[str]:
        """Every word by its id, added tokens among them."""
        return words_by_id(self.tokenizer.get_vocab())

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without special tokens, and without spaces between Chinese characters."""
        return _BETWEEN_CJK.sub("", self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Write a tokenizer folder that `build_text` reads back to the same ids."""
        self.tokenizer.save_pretrained(folder)

    def _literal(self) -> None:
        """Make "[SEP]" in a caption those letters, not the token."""
        self.tokenizer.backend_tokenizer.encode_special_tokens = True
        self.control_ids = control_ids(self.tokenizer)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._literal()  # a tokenizer does not pickle this setting


def build_text(config: Text, languages: Sequence[str] = ()) -> QFormerTokenizer:
    """Load `config.tokenizer`: a vocab.txt, a tokenizer folder, or a Hugging Face name.

    UserError if there is none, it is not BERT-like, or one of `languages` has no language token.
    """
    unknown = [name for name in languages if name not in LANGUAGE_TOKENS]
    if config.language_token and unknown:
        raise UserError(
            f"model.text.language_token: no token for {unknown[0]!r}, only for {', '.join(LANGUAGE_TOKENS)}"
        )
    path = find_tokenizer(config.tokenizer)
    tokenizer = _from_vocabulary(path) if path.is_file() else _from_folder(path)
    _check(tokenizer, config.tokenizer)
    return QFormerTokenizer(tokenizer, config)


def find_tokenizer(name: str) -> Path:
    """The file or folder that model.text.tokenizer names. UserError where it is neither, nor to be had by its name."""
    path = Path(name)
    return path if path.is_file() or path.is_dir() else _download(name)


def _from_vocabulary(path: Path) -> "PreTrainedTokenizerBase":
    """From BERT's vocab.txt with one token a line. The tokenizer is cased if there are words with capitals."""
    from transformers import BertTokenizer

    try:
        tokens = path.read_text("utf-8").removesuffix("\n").split("\n")  # some tokens are line separators
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a vocabulary in UTF-8; model.text.tokenizer needs BERT's vocab.txt") from None
    vocabulary = {token: number for number, token in enumerate(tokens)}
    missing = [token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]
    if missing:
        raise UserError(
            f"{path}: not a BERT vocabulary, it lacks {', '.join(missing)}; model.text.tokenizer needs a vocab.txt "
            "with one token a line, a tokenizer folder or a Hugging Face name"
        )
    cased = any(re.match("[A-Z]", token) for token in vocabulary)
    options: dict[str, Any] = {} if "[MASK]" in vocabulary else {"mask_token": None}  # else it would be a new id
    return BertTokenizer(vocab=vocabulary, do_lower_case=not cased, **options)


def _from_folder(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    if (folder / "tokenizer_config.json").is_file() and any((folder / name).is_file() for name in _FILES[:2]):
        try:
            return AutoTokenizer.from_pretrained(str(folder))
        except Exception as error:  # transformers raises many kinds here
            raise UserError(f"{folder}: the tokenizer cannot be loaded: {_first_line(error)}") from error
    if (folder / "vocab.txt").is_file():
        return _from_vocabulary(folder / "vocab.txt")
    raise UserError(f"{folder}: no tokenizer here; it needs vocab.txt, or tokenizer.json with tokenizer_config.json")


def _download(name: str) -> Path:
    """The folder of a Hugging Face tokenizer, from the local cache if it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        try:
            return Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except HFValidationError:
        raise UserError(f"model.text.tokenizer: {name} is neither a file nor a folder") from None
    except Exception as error:
        raise UserError(
            f"model.text.tokenizer: {name} is no file or folder, and cannot be downloaded from Hugging Face "
            f"({_first_line(error)}). Give the path of its vocab.txt, or download it where there is a network."
        ) from error


def _check(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError(f"model.text.tokenizer: {name} is not BERT-like: {type(tokenizer).__name__} has no fast form")
    missing = [kind for kind in ("pad", "cls", "sep", "unk") if getattr(tokenizer, f"{kind}_token_id") is None]
    if missing:
        raise UserError(
            f"model.text.tokenizer: {name} is not BERT-like, it has no {', '.join(f'{kind} token' for kind in missing)}"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
