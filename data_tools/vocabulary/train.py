"""Learning one WordPiece vocabulary from captions: what `vocabulary` runs."""

from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from data_tools.common.text import captions
from vglm_train.errors import UserError
from vglm_train.files import replace_file
from vglm_train.progress import style

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMALLEST = 100
LETTERS = 0.75  # of the size at most: single characters; the rest is for pieces
TOGETHER = 1000  # captions cut into words in one call

Words = dict[str, Counter[str]]  # language -> word -> how often


def _reader(vocabulary: dict[str, int]) -> Any:
    """A tokenizer that reads text as BERT does."""
    tokenizer: Any = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, handle_chinese_chars=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def count_words(records: Path, split: str | None) -> tuple[Words, Counter[str]]:
    """How often each language has each word, and how many captions. UserError when the split has none."""
    words: Words = {}
    total: Counter[str] = Counter()
    waiting: dict[str, list[str]] = {}
    reader = _reader({})

    def count(language: str) -> None:
        text = reader.normalizer.normalize_str("\n".join(waiting.pop(language)))
        words.setdefault(language, Counter()).update(word for word, _ in reader.pre_tokenizer.pre_tokenize_str(text))

    for language, text in captions(records, split):
        total[language] += 1
        waiting.setdefault(language, []).append(text)
        if len(waiting[language]) == TOGETHER:
            count(language)
    for language in list(waiting):
        count(language)
    if not total:
        raise UserError(f"{records}: no captions of split {split!r} to learn from; give --split, or --all-splits")
    return words, total


def _characters(words: Words, most: int) -> tuple[list[str], list[str]]:
    """The commonest characters, in order, and those of them that stand inside words too; `most` of both together."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for counted in words.values():
        for word, times in counted.items():
            for letter in word:
                counts[letter] += times
            inside.update(word[1:])
    ranked = sorted(counts, key=lambda letter: (-counts[letter], letter))[:most]
    kept = sorted(ranked[: most - len(inside.intersection(ranked))])
    return kept, [letter for letter in kept if letter in inside]


def train(records: Path, size: int, split: str | None, words: Words) -> dict[str, int]:
    """Learn at most `size` pieces from the captions whose `words` were counted -> piece: id.

    The trainer numbers characters inside words in the order of a hash table, and breaks ties by number. They go
    to it as reserved pieces, so that the numbers, and with them the result, are always the same.
    """
    if size < SMALLEST:
        raise UserError(f"--size {size}: too small to be a vocabulary; give at least {SMALLEST}")
    kept, inside = _characters(words, int(LETTERS * size))
    trainer: Any = WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIAL, *(f"##{letter}" for letter in inside)],
        initial_alphabet=kept,
        limit_alphabet=len(kept),
        show_progress=style() == "bar",
    )
    tokenizer = _reader({})
    tokenizer.train_from_iterator((text for _, text in captions(records, split)), trainer)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary


def measure(vocabulary: dict[str, int], words: Words) -> dict[str, tuple[int, int]]:
    """By language: tokens, and how many of these are [UNK]."""
    model, found = WordPiece(vocabulary, unk_token="[UNK]"), {}
    for language, counted in sorted(words.items()):
        tokens = unknown = 0
        for word, times in counted.items():
            pieces = [token.value for token in model.tokenize(word)]
            tokens += times * len(pieces)
            unknown += times * pieces.count("[UNK]")
        found[language] = (tokens, unknown)
    return found


def write(vocabulary: dict[str, int], out: Path) -> None:
    """vocab.txt, one piece a line in order of id; whole or absent."""
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    assert sorted(vocabulary.values()) == list(range(len(pieces))), "ids are the line numbers"
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(out) as file:
        file.writelines(piece.encode("utf-8") + b"\n" for piece in pieces)
