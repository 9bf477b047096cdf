"""One WordPiece vocabulary for all languages of a records file.

    python -m data_tools.vocabulary records.jsonl --size 8000 --out vocabulary/vocab.txt

Captions are read as BERT reads text (lower case, accents off, each Chinese character a word); pieces are learned from
them. [PAD] [UNK] [CLS] [SEP] [MASK] come first, then single characters, then pieces; the same captions always give the
same file. It is what `model.text.tokenizer` takes. With little room the rarest characters are left out; the share of
[UNK] by language is printed.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from data_tools import _files
from vglm_train.data.record import RecordError, parse
from vglm_train.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMALLEST = 100
LETTERS = 0.75  # of the size at most: single characters, so that pieces have room too
TOGETHER = 1000  # captions cut into words in one call

Words = dict[str, Counter[str]]  # language -> word -> how often


def captions(records: Path, split: str | None) -> Iterator[tuple[str, str]]:
    """(language, caption) of every record of the split; a record that cannot be read is a UserError with its line."""
    if not records.is_file():
        raise UserError(f"{records}: no such file; make it with python -m data_tools.convert")
    with open(records, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = parse(line)
            except RecordError as error:
                raise UserError(f"{records}: line {number}: {error}; run python -m data_tools.convert again") from None
            if split in (None, record.split):
                for language, texts in record.captions.items():
                    yield from ((language, text) for text in texts)


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

    The trainer numbers characters inside words in the order of a hash table, and breaks ties by number. They are
    given to it as reserved pieces, so that the numbers, and with them the result, are always the same.
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
        show_progress=sys.stderr.isatty(),
    )
    tokenizer = _reader({})
    tokenizer.train_from_iterator((text for _, text in captions(records, split)), trainer)
    return tokenizer.get_vocab()


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
    with _files.replacing(out) as file:
        file.writelines(piece.encode("utf-8") + b"\n" for piece in pieces)


def main() -> int:
    parser = _files.parser("data_tools.vocabulary", __doc__)
    parser.add_argument("records", type=Path, help="records file of data_tools.convert")
    parser.add_argument("--out", required=True, type=Path, help="vocab.txt to write")
    parser.add_argument("--size", type=_files.at_least_one, default=8000, help="pieces at most (default: 8000)")
    parser.add_argument("--split", default="train", help="learn from records of this split (default: train)")
    parser.add_argument("--all-splits", action="store_true", help="learn from every record")
    args = parser.parse_args()
    out = _files.output(args.out, [args.records])
    split = None if args.all_splits else args.split
    words, total = count_words(args.records, split)
    vocabulary = train(args.records, args.size, split, words)
    write(vocabulary, out)
    print(f"{args.out}: {len(vocabulary)} pieces")
    for language, (tokens, unknown) in measure(vocabulary, words).items():
        share = f"{100 * unknown / tokens:.3f} % [UNK]"
        print(f"{language}: {total[language]} captions, {tokens / total[language]:.1f} tokens each, {share}")
    return 0


if __name__ == "__main__":
    _files.command(main)
