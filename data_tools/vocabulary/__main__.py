"""One WordPiece vocabulary for all languages of a records file.

    vglm data vocabulary records.jsonl --size 8000 --out vocabulary/vocab.txt

Captions are read as BERT reads text (lower case, accents off, each Chinese character a word); pieces are learned from
them. [PAD] [UNK] [CLS] [SEP] [MASK] come first, then single characters, then pieces; the same captions always give the
same file. It is what `model.text.tokenizer` takes. A small --size leaves out the rarest characters; the share of
[UNK] by language is printed.
"""

from collections.abc import Sequence
from pathlib import Path

from data_tools.common import cli
from data_tools.vocabulary.train import count_words, measure, train, write


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.vocabulary", __doc__)
    parser.add_argument("records", type=Path, help="records file of vglm data convert")
    parser.add_argument("--out", required=True, type=Path, help="vocab.txt to write")
    parser.add_argument("--size", type=cli.at_least_one, default=8000, help="pieces at most (default: 8000)")
    parser.add_argument("--split", default="train", help="learn from records of this split (default: train)")
    parser.add_argument("--all-splits", action="store_true", help="learn from every record")
    args = parser.parse_args(argv)
    out = cli.output(args.out, [args.records])
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
    cli.command(main)
