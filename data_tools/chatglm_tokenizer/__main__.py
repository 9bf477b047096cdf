"""A SentencePiece file laid out like ChatGLM-6B's `ice_text.model`, for small ChatGLM models of one's own.

    vglm data chatglm_tokenizer records.jsonl --size 4000 --out ice_text.model

Pieces are learned from the captions of a records file (or, called from Python, from any sentences); the special
tokens, blanks and bytes stand at the end, in ChatGLM's order. The same captions always give the same file. Unlike the
released one it leaves every character as it is (that one makes full-width punctuation half-width). The file gives
`model.language.tokenizer`, its number of pieces `model.language.vocabulary`.
"""

from collections.abc import Sequence
from pathlib import Path

from data_tools.chatglm_tokenizer.train import train_ice_text
from data_tools.common import cli
from data_tools.common.text import captions


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.chatglm_tokenizer", __doc__)
    parser.add_argument("records", type=Path, help="records file of vglm data convert")
    parser.add_argument("--out", required=True, type=Path, help="file to write, for instance ice_text.model")
    parser.add_argument("--size", type=cli.at_least_one, default=8000, help="pieces at most (default: 8000)")
    parser.add_argument("--split", default="train", help="learn from records of this split (default: train)")
    parser.add_argument("--all-splits", action="store_true", help="learn from every record")
    args = parser.parse_args(argv)
    out = cli.output(args.out, [args.records])
    sentences = (text for _, text in captions(args.records, None if args.all_splits else args.split))
    print(f"{args.out}: {train_ice_text(sentences, out, args.size)} pieces")
    return 0


if __name__ == "__main__":
    cli.command(main)
