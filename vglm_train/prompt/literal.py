"""Text that people type never becomes a token that controls a model, whatever it says."""

import re
from typing import Any

_MARK = re.compile(r"<\S+>|\[\S+\]|\{\S+\}")


def control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of transformers' `tokenizer` that no text may have.

    These are its begin, end, padding, separator, class and mask, and what was added to it in brackets, such as
    <|endoftext|>, <ImageHere> and [DEC]. Added punctuation and runs of spaces are text. So is the unknown token, unless
    it is one of these.
    """
    named = ("bos_token", "eos_token", "pad_token", "sep_token", "cls_token", "mask_token")
    marks = {str(token) for name in named if (token := getattr(tokenizer, name)) is not None}
    marks |= {str(token) for token in tokenizer.get_added_vocab() if _MARK.fullmatch(token)}
    marks |= {token for token in tokenizer.all_special_tokens if _MARK.fullmatch(token)}
    if tokenizer.unk_token is not None and tokenizer.unk_token not in {getattr(tokenizer, name) for name in named}:
        marks -= {tokenizer.unk_token}
    return frozenset(tokenizer.convert_tokens_to_ids(mark) for mark in marks)


def encode_literally(backend: Any, text: str, control: frozenset[int]) -> list[int]:
    """Ids of a text by the tokenizers library, without special tokens and without those of `control`.

    `backend.encode_special_tokens` keeps special tokens out of text where they were added to a vocabulary, but not
    where they are pieces of it, as in T5's. Such a piece is split by a space before its last letter: "</s >".
    """
    encoding = backend.encode(text, add_special_tokens=False)
    ids: list[int] = encoding.ids
    if control.isdisjoint(ids):
        return ids
    for token, (start, end) in reversed(list(zip(ids, encoding.offsets, strict=True))):
        if token in control and end - start > 1:
            text = f"{text[: end - 1]} {text[end - 1 :]}"
    ids = backend.encode(text, add_special_tokens=False).ids
    return [token for token in ids if token not in control]
