"""ChatGLM-6B's tokenizer over its SentencePiece file `ice_text.model`.

The released file holds, in this order: <unk> <s> </s> <pad> <n> and the text pieces up to 129999, [MASK] [gMASK]
[sMASK] <unused_0> <sop> <eop> <ENC> <dBLOCK>, <|tab|>, <|blank_2|> to <|blank_80|>, and the 256 bytes: 130344 pieces.
Ids are those of the file: [gMASK] is 130001 and <pad> 3. The first release (vocabulary 150528) had 20000 image tokens
before them, which `num_image_tokens` in tokenizer_config.json says.

Source: THUDM/chatglm-6b, tokenization_chatglm.py and tokenizer_config.json.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]  # made when it is imported

from vglm_train.errors import UserError

FILE = "ice_text.model"
CONFIG = "tokenizer_config.json"
LONGEST_BLANK = 80
SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
RELEASED_SOP = {130528: 130004, 150528: 150004}  # vocabulary of the released weights -> id of <sop>
NEWLINE, TAB = "<n>", "<|tab|>"
BLANKS = tuple(f"<|blank_{n}|>" for n in range(2, LONGEST_BLANK + 1))

_NEEDED = ("<pad>", "[gMASK]", "<sop>", "<eop>", NEWLINE, TAB, *BLANKS)
_BLANK_RUN = re.compile(f" {{2,{LONGEST_BLANK}}}")
_BLANK_TOKEN = re.compile(r"<\|blank_(\d+)\|>")


class ChatGLMTokenizer:
    """Text <-> ids. Every text begins with SentencePiece's space, as in ChatGLM's training.

    Text is literal: "<sop>" in a question is those five characters. Only "<n>", "<|tab|>" and "<|blank_2|>" are read as
    the tokens. Newlines, tabs and runs of spaces have tokens, so decoding restores them. Other characters may change,
    depending on the file: the released one makes full-width punctuation half-width.
    UserError if the file is not ChatGLM's.
    """

    def __init__(self, path: Path, image_tokens: int = 0) -> None:
        try:
            model = path.read_bytes()
            self._pieces = _processor(model)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); model.language.tokenizer needs {FILE}"
            ) from error
        except RuntimeError:
            raise UserError(f"{path}: {_why_no_model(model)}. Download ChatGLM-6B's {FILE} again") from None
        missing = [piece for piece in _NEEDED if self._find(piece) is None]
        if missing:
            names = f"{', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}"
            raise UserError(f"{path}: a SentencePiece file, but not ChatGLM's {FILE}: it lacks the pieces {names}")
        self._model, self._offset = model, image_tokens
        self.vocabulary = image_tokens + self._pieces.get_piece_size()
        self.pad_id, self.gmask_id, self.sop_id, self.end_id = (
            self._id(piece) for piece in ("<pad>", "[gMASK]", "<sop>", "<eop>")
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        text = text.replace("\n", NEWLINE).replace("\t", TAB)
        text = _BLANK_RUN.sub(lambda run: f"<|blank_{len(run[0])}|>", text)
        return [self._offset + piece for piece in self._pieces.encode(whole_characters(text))]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens, image tokens and ids beyond the vocabulary are left out."""
        pieces = (int(i) - self._offset for i in ids if self._offset <= int(i) < self.vocabulary)
        text = self._pieces.decode([piece for piece in pieces if not self._is_special(piece)])
        text = text.replace(NEWLINE, "\n").replace(TAB, "\t")
        return _BLANK_TOKEN.sub(lambda token: " " * int(token[1]), text)

    def find(self, token: str) -> int | None:
        """Id of a piece by its name; None if there is none."""
        piece = self._find(token)
        return None if piece is None else self._offset + piece

    def words(self) -> list[str]:
        """Every piece by its id; "" for image tokens."""
        return [""] * self._offset + [self._pieces.id_to_piece(n) for n in range(self._pieces.get_piece_size())]

    def save(self, folder: Path) -> None:
        """Write the file, and the number of image tokens before it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(self._model)
        config = {"tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": self._offset}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    def _is_special(self, piece: int) -> bool:
        return self._pieces.is_control(piece) or piece + self._offset == self.pad_id

    def _find(self, token: str) -> int | None:
        piece = self._pieces.piece_to_id(token)
        return None if piece == self._pieces.unk_id() else piece

    def _id(self, token: str) -> int:
        return self._offset + self._pieces.piece_to_id(token)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_pieces"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pieces = _processor(self._model)


def _processor(model: bytes) -> SentencePieceProcessor:
    """Over a file's bytes. Special pieces that the file counts as text become control pieces, so text cannot have them.

    RuntimeError for what is no model.
    """
    pieces = SentencePieceProcessor()
    pieces.load_from_serialized_proto(model)
    names = [name for name in (*SPECIAL, "<s>", "</s>", "<pad>") if pieces.piece_to_id(name) in pieces.encode(name)]
    if not set(names) - {pieces.id_to_piece(pieces.unk_id())}:
        return pieces
    changed = ModelProto.FromString(model)
    for piece in changed.pieces:
        if piece.piece in names:
            piece.type = ModelProto.SentencePiece.CONTROL
    return SentencePieceProcessor(model_proto=changed.SerializeToString())


def whole_characters(text: str) -> str:
    """The text with ? for halves of surrogate pairs, which JSON may hold and tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def build_chatglm(path: Path) -> ChatGLMTokenizer:
    """From `ice_text.model` or the folder that holds it; UserError if there is none."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        reason = f"no {FILE} there" if path.is_dir() else "no such file"
        raise UserError(
            f"{path}: {reason}. Set model.language.tokenizer to ChatGLM-6B's {FILE} (SAT folders hold no tokenizer)"
        )
    return ChatGLMTokenizer(file, _image_tokens(file.parent / CONFIG))


def _image_tokens(config: Path) -> int:
    if not config.is_file():
        return 0
    try:
        count = json.loads(config.read_text("utf-8")).get("num_image_tokens", 0)
    except (ValueError, AttributeError):
        raise UserError(f"{config}: not a JSON object; delete it or download it again") from None
    if not isinstance(count, int) or count < 0:
        raise UserError(f"{config}: num_image_tokens must be a whole number from 0, found {count!r}")
    return count


def _why_no_model(content: bytes) -> str:
    if content.startswith(b"version https://git-lfs"):
        return "only a Git LFS pointer, not the file itself"
    return "not a SentencePiece model" if content else "empty"
