"""What a person probably meant by lines that are not YAML. Guesses: they are made after the parser gave up."""

import re
from collections.abc import Iterator, Sequence

PAIRS = {"{": "}", "[": "]"}
_HIDDEN = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|(?:^|\s)#.*")
_KEY = r"^\s*(?:- +)?([A-Za-z_]\w*)"
WRONG = {  # in a line without comments and quoted texts
    "([：，｛｝［］（）“”‘’])": "{} is Chinese punctuation, which YAML takes for text; write the plain sign",
    "\t": "there is a tab; put spaces in its place",
    _KEY + r":([^\s:/\\].*)": "a blank is missing after the colon; write `{}: {}`",
    _KEY + r" *= *(\S.*)": "a colon is wanted where = stands; write `{}: {}`",
    r"^\s*-([^\s\-.\d].*)": "a blank is missing after the dash; write `- {}`",
    _KEY + r"\s*$": "a colon is missing; write `{}:`",
    "(\"|(?<!')'(?!'))": "a quotation mark {} has no partner in this line; close it",
    r"[{\[].*;": "entries within braces are divided by commas, not by semicolons",
    r"\{[^{},]*: [^{},\[]*\s\w+: ": "a comma is missing between two entries within the braces",
}


def explain(text: str, problem: str, line: int, context: int | None) -> tuple[int, str]:
    """(line, what is wrong there and what to write instead).

    `problem`: the parser's words; `line`, `context`: where it stood, and where what it was reading began, from 0.
    """
    lines = text.splitlines() or [""]
    line = min(line, len(lines) - 1)
    before = next((n for n in range(line - 1, -1, -1) if _bare(lines[n]).strip()), None)
    for number in dict.fromkeys(n for n in (context, before, line) if n is not None):
        for said in _of_line(lines[number]):
            return number, said
    if context is not None and (unpaired := next(_brackets(lines[context : line + 1]), None)):
        return context, unpaired
    indented = None if before is None else _indentation(lines, before, line)
    return line, indented or next(_of_parser(problem, lines[line]), problem)


def key_with_value(key: str, names: Sequence[str]) -> str | None:
    """`steps: 100` where a key such as "steps:100", "steps=100" or "steps 100" begins with one of `names`."""
    found = re.fullmatch(r"(\w+)\s*[:=\s]\s*(\S.*)", key)
    return f"{found[1]}: {found[2]}" if found and found[1] in names else None


def _bare(line: str) -> str:
    """Without comments, and with quoted texts empty."""
    return _HIDDEN.sub(lambda found: "''" if found[0][0] in "'\"" else "", line)


def _of_line(line: str) -> Iterator[str]:
    """What is wrong with a line whatever stands around it."""
    bare = _bare(line)
    for pattern, said in WRONG.items():
        if found := re.search(pattern, bare):
            yield said.format(*(text.strip() for text in found.groups()))
    if any(bare.count(close) > bare.count(opening) for opening, close in PAIRS.items()):
        yield from _brackets([line])


def _brackets(lines: Sequence[str]) -> Iterator[str]:
    """Braces and brackets without a partner."""
    opened: list[str] = []
    for letter in "".join(map(_bare, lines)):
        if letter in PAIRS:
            opened.append(letter)
        elif letter in PAIRS.values() and not opened:
            yield f"a {letter} closes nothing; remove it, or open it before"
        elif letter in PAIRS.values() and PAIRS[last := opened.pop()] != letter:
            yield f"{last} is closed by {letter}; write {PAIRS[last]}"
    for last in reversed(opened):
        yield f"a {last} is not closed; add {PAIRS[last]} where it ends"


def _of_parser(problem: str, line: str) -> Iterator[str]:
    if found := re.search(r"character '(.)' that cannot start", problem):
        yield f"a value cannot begin with {found[1]}; put it in quotes"
    if "unknown escape" in problem:
        yield "in double quotes a backslash begins a code; use single quotes"
    if "undefined alias" in problem:
        yield "* in front of a value refers to another place of the file; put the value in quotes"
    if "mapping values" in problem and re.search(r": .*\S: ", _bare(line)):
        yield "a second colon; put the value in quotes, or each key on its own line"


def _indentation(lines: Sequence[str], before: int, line: int) -> str | None:
    """That a line begins in a column which is not that of the line before, which opens nothing."""
    above, here = (len(text) - len(text.lstrip()) for text in (lines[before], lines[line]))
    if above == here or _bare(lines[before]).rstrip().endswith(":"):
        return None
    blanks = f"{here} blank{'s' * (here != 1)}"
    return f"it begins after {blanks} and line {before + 1} after {above}; one section's lines begin in one column"
