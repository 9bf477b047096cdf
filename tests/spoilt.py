"""Files of tables with random damage: wrong values, lost and cut lines, other bytes."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from made_layouts import Made

JUNK = (None, 3, -1.5, True, "", "x", [], {}, [None], {"a": []}, "9" * 30, float("nan"), ["<image>"] * 3)


def files_of(made: Made, folder: Path) -> list[Path]:
    """The files of a data set but its pictures."""
    kinds = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".token", ".tar")
    return sorted(path for path in folder.rglob("*") if path.suffix in kinds and "_stats" not in path.name)


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in list(pairs):
        yield value, key
        yield from nodes(held)


def spoil_values(path: Path, rng: random.Random) -> None:
    """Wrong types, missing keys, rows twice."""
    if path.suffix not in (".json", ".jsonl"):
        return spoil_lines(path, rng)
    text = path.read_text("utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    values = [json.loads(line) for line in lines]
    for _ in range(rng.randint(1, 4)):
        places = list(nodes(values))
        if not places:
            break
        container, key = rng.choice(places)
        if key in ("from", "role"):
            continue
        change = rng.random()
        if change < 0.6:
            container[key] = copy.deepcopy(rng.choice(JUNK))
        elif change < 0.8:
            del container[key]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
    path.write_text("\n".join(json.dumps(value, ensure_ascii=False) for value in values), "utf-8")


def spoil_lines(path: Path, rng: random.Random) -> None:
    """Lines lost, doubled, cut, joined, or in other bytes."""
    lines = path.read_bytes().split(b"\n")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        half = lines[at][: rng.randint(0, len(lines[at]))]
        junk = rng.choice([b'"', b"\xff\xfe", b"\0", b",", b"\t", b"|", b"}", b"[", b"\r", "“照".encode("gbk"), b""])
        lines[at : at + 1] = rng.choice([[], [lines[at]] * 2, [half], [half + junk + lines[at][len(half) :]], [junk]])
        lines = lines or [b""]
    path.write_bytes(b"\n".join(lines))


def spoil_bytes(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 3)):
        first = rng.randint(0, len(content))
        content[first : first + rng.randint(0, 40)] = rng.randbytes(rng.randint(0, 8))
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randint(0, len(content))])


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    each.__name__: each for each in (spoil_values, spoil_lines, spoil_bytes, cut, remove)
}
