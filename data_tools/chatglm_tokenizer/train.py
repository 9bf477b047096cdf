"""A SentencePiece model with ChatGLM-6B's special tokens, learned from captions: what `chatglm_tokenizer` runs."""

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sentencepiece import SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

from vglm_train.errors import UserError
from vglm_train.files import replace_file
from vglm_train.prompt.chatglm import BLANKS, NEWLINE, SPECIAL, TAB

BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
END = len(SPECIAL) + 1 + len(BLANKS) + len(BYTES)  # pieces behind the text's: 344
FRAME = "<img></img>问：答：Q:A:？?，,。."  # what prompts are made of must not fall apart into bytes
CONTROL, DEFINED, BYTE = 3, 4, 6  # SentencePiece's kinds of piece
COVERAGE = 0.9995  # share of the characters that are pieces; the rarest are written as bytes


def train_ice_text(sentences: Iterable[str], out: Path, size: int) -> int:
    """Learn from the sentences, write the file (whole or absent) and return how many pieces it has, at most `size`.

    UserError where there is nothing to learn from or `size` has no room for the characters.
    """
    if size <= END:
        raise UserError(f"{size} pieces are too few: {END} are ChatGLM's special tokens, blanks and bytes; give more")
    lines = list(_lines(sentences))
    if not lines:
        raise UserError("no sentences to learn pieces from")
    pieces = _finished(_trained(lines, size - END))
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(out) as file:
        file.write(pieces.SerializeToString())
    return len(pieces.pieces)


def _lines(sentences: Iterable[str]) -> Iterator[str]:
    for sentence in sentences:
        yield from (text for line in sentence.splitlines() if (text := re.sub(r"\s+", " ", line).strip()))


def _trained(lines: list[str], size: int) -> bytes:
    """SentencePiece's own training: unigram pieces with the first five as ChatGLM has them."""
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=COVERAGE,
            required_chars=FRAME,
            max_sentence_length=max(len(line.encode("utf-8")) for line in lines) + 1,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            user_defined_symbols=[NEWLINE],
            num_threads=1,  # sums of several threads would differ from run to run
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].rpartition("] ")[2].partition(". ")[0]
        raise UserError(f"{size + END} pieces: no vocabulary could be learned: {reason}; give more") from error
    return model.getvalue()


def _finished(trained: bytes) -> ModelProto:
    """With ChatGLM's tokens behind the text's pieces."""
    model = ModelProto()
    model.ParseFromString(trained)
    for kind, names in ((CONTROL, SPECIAL), (DEFINED, (TAB, *BLANKS)), (BYTE, BYTES)):
        for name in names:
            model.pieces.add(piece=name, score=0.0, type=kind)
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(model.pieces)
    return model
