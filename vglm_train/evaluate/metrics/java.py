"""The two parts of pycocoevalcap that start a Java program: the Penn Treebank tokenizer and METEOR 1.5."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class NoJava(Exception):  # noqa: N818  (the name says what is missing)
    """There is no Java, or the program did not answer. The message is a clause that says which."""


def tokenize(texts: Sequence[str]) -> list[str]:
    """Lower-case words without punctuation, joined by spaces, by Stanford's PTBTokenizer. Raises NoJava."""
    _require_java()
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    try:  # it writes a file into its own folder, which may be read-only
        with _without_lines("PTBTokenizer "):
            words = PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in enumerate(texts)})
    except (OSError, ValueError) as error:
        raise NoJava(f"the PTB tokenizer did not run ({error})") from error
    if len(words) != len(texts):
        raise NoJava("the PTB tokenizer gave no answer (its message is above)")
    return [words[n][0] for n in range(len(texts))]


def meteor(references: Sequence[Sequence[str]], outputs: Sequence[str]) -> float:
    """METEOR 1.5 of tokenized English, in per cent. Raises NoJava."""
    _require_java()
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    try:
        score, _ = scorer.compute_score(
            {n: [_fields(text) for text in texts] for n, texts in enumerate(references)},
            {n: [_fields(text)] for n, text in enumerate(outputs)},
        )
    except (OSError, ValueError) as error:
        if scorer.lock.locked():
            scorer.lock.release()  # its __del__ would wait for the lock for ever
        raise NoJava("METEOR's program gave no answer; it asks for 2 GB of memory") from error
    percent: float = 100 * score
    return percent


@contextmanager
def _without_lines(beginning: str) -> Iterator[None]:
    """What is written to stderr meanwhile comes at the end, without the lines that begin so.

    The library gives its program our own stderr, to which the program writes how fast it was.
    """
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        own = os.dup(2)
        try:
            os.dup2(kept.fileno(), 2)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)
            kept.seek(0)
            lines = [line for line in kept if not line.startswith(beginning.encode())]
            os.write(2, b"".join(lines))


def _require_java() -> None:
    if shutil.which("java") is None:
        raise NoJava("there is no `java` in PATH (Debian: apt install default-jre-headless)")


def _fields(text: str) -> str:
    """The text without three bars, which end a text for METEOR's program."""
    return " ".join(text.replace("|||", " ").split())
