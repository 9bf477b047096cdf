"""The tables of what stage two tells, and what the demo promises of them."""

from collections.abc import Iterator

from examples.demo.probe_captions import CHANCE, Telling, Told
from examples.demo.probe_pairs import Share
from examples.demo.results import NAMES

LEAST_COLOUR = 90.0  # per cent, of the colour of the thing it is said of
GOAL = 60.0  # of shapes and places
TITLES = {"right": "its picture", "shuffled": "another picture", "none": "no picture"}


def told_tables(telling: Telling) -> Iterator[str]:
    """Captions by attribute and answers by kind of question, with 95 % intervals, then examples; line by line."""
    yield f"Greedy captions of {telling.pictures} held-out pictures: per cent right, [95 % interval]"
    yield from _table(telling.captions, {name: f"{chance:.1f}" for name, chance in CHANCE.items()})
    yield ""
    yield "One question about each picture; stage two was never shown one: per cent right, [95 % interval]"
    yield from _table(telling.answers, {})
    yield ""
    for language, true, said, asked, answered in telling.examples:
        yield f"{NAMES[language]}: {said}   (true: {true})"
        yield f"         {asked}  {answered}"


def untold(telling: Telling) -> list[str]:
    """What should hold of captions and does not, in words."""
    broken = []
    for language, attributes in telling.captions.items():
        for name, shares in attributes.items():
            share, (low, _) = shares["right"].percent, shares["right"].interval()
            if name.startswith("colour") and share < LEAST_COLOUR:
                broken.append(f"{language} captions: {name} is right in {share:.1f} %, below {LEAST_COLOUR}")
            elif low <= CHANCE[name] or (name != "everything" and share < GOAL):
                broken.append(f"{language} captions: {name} is right in {share:.1f} %, below {GOAL} or near chance")
    return broken


def told_json(telling: Telling) -> dict:
    """Everything, to be read by programs."""
    return {"captions": _plain(telling.captions), "answers": _plain(telling.answers), "chance": CHANCE}


def _table(told: Told, chance: dict[str, str]) -> Iterator[str]:
    yield f"{'':27}" + "".join(f"{TITLES[seen]:>22}" for seen in TITLES) + (f"{'chance':>10}" if chance else "")
    for language, rows in told.items():
        for name, shares in rows.items():
            cells = "".join(f"{_cell(shares[seen]):>22}" for seen in TITLES)
            yield f"{NAMES[language]}, {name:18}{cells}{chance.get(name, ''):>10}"


def _cell(share: Share) -> str:
    low, high = share.interval()
    return f"{share.percent:.1f} [{low:.1f}, {high:.1f}]"


def _plain(told: Told) -> dict:
    return {
        language: {
            name: {seen: [share.right, share.total, *share.interval()] for seen, share in shares.items()}
            for name, shares in rows.items()
        }
        for language, rows in told.items()
    }
