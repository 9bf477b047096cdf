"""`vglm findings`: what a table of findings reads in texts, and how well it reads labelled sentences."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vglm_train.command import program, run_command
from vglm_train.evaluate.findings import quality
from vglm_train.evaluate.findings.label import label
from vglm_train.evaluate.findings.measure import POSITIVE, measure, read_sentences
from vglm_train.evaluate.findings.table import SHIPPED, FindingsTable, read_table

NO_SIDE = "no side is read"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a table or sentences that cannot be read."""
    parser = argparse.ArgumentParser(
        prog=program("vglm_train.evaluate.findings"),
        description="Try a table of findings: give texts to see what it reads in them; without any, it is measured on "
        "labelled sentences.",
        allow_abbrev=False,
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help='a sentence or report, such as "No effusion."')
    parser.add_argument(
        "--table", type=Path, default=SHIPPED, help=f"the table (default: the shipped one, {SHIPPED.name})"
    )
    parser.add_argument(
        "--sentences", type=Path, help="your own labelled sentences, as sentences_own.yaml beside the shipped table"
    )
    args = parser.parse_args(argv)

    def work() -> int:
        table = read_table(args.table)
        print("\n".join(_texts(args.texts, table) if args.texts else _measured(args.table, table, args.sentences)))
        return 0

    return run_command(work)


def _texts(texts: Sequence[str], table: FindingsTable) -> Iterator[str]:
    unsided = _unsided(table)
    for text in texts:
        yield text
        read = label(text, table)
        for name, (state, side) in read.items():
            shown = NO_SIDE if name in unsided and state in POSITIVE else side or ""
            yield f"  {name:28}{state:11}{shown}".rstrip()
        if not read:
            yield "  nothing"


def _measured(path: Path, table: FindingsTable, sentences: Path | None) -> Iterator[str]:
    yield f"{path}: {len(table.findings)} findings"
    if unsided := _unsided(table):
        yield f"No left or right is read of {', '.join(unsided)}: the table says `side: no`."
    yield from quality.lines(table)
    if sentences is not None:
        for language, reading in measure(table, read_sentences(sentences)).items():
            yield quality.in_words(language, f"of {sentences}", reading)


def _unsided(table: FindingsTable) -> list[str]:
    return [finding.name for finding in table.findings if not finding.sided]


if __name__ == "__main__":
    sys.exit(main())
