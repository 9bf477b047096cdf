"""Questions about the plain-coloured pictures of speakers.py, with what is true."""

from dataclasses import replace

import torch
from speakers import COLOURS, PAINTS

from vglm_train.data.questions import Asked
from vglm_train.prompt.dialogue import Dialogue


def asked(number: int, question: str, *answers: str, kind: str = "open", **changes) -> Asked:
    """About picture `number`."""
    pixels = torch.tensor(PAINTS[number], dtype=torch.uint8)[:, None, None].expand(3, 16, 16).clone()[None]
    language = "zh" if any("\u4e00" <= c <= "\u9fff" for c in question) else "en"
    item = Asked(
        f"{number:03d}", 100 + number, None, pixels, Dialogue(question, None, language=language), kind, answers
    )
    return replace(item, **changes)


def colour_questions() -> list[Asked]:
    """Each picture's colour, and whether it is red."""
    found = []
    for number, colour in enumerate(COLOURS):
        found.append(asked(number, "a plain wall of", colour, type="colour"))
        found.append(asked(number, "a red wall", "yes" if number == 0 else "no", kind="closed", type="is it red"))
    return found


def reports() -> list[Asked]:
    return [asked(n, "picture", f"a {colour} wall", kind="report") for n, colour in enumerate(COLOURS)]
