"""Which values of a grey DICOM become black and white."""

from dataclasses import dataclass
from typing import Literal

# centre and width in Hounsfield units, as radiology sets them for computed tomography
PRESETS: dict[str, tuple[float, float]] = {
    "lung": (-600, 1500),
    "soft": (40, 400),
    "bone": (400, 1800),
    "brain": (40, 80),
}
FORMS = f"file, file:N, full, {', '.join(PRESETS)}, CENTRE/WIDTH"


@dataclass(frozen=True, slots=True)
class Window:
    """`kind`: "file": what the file says, its VOI LUT or its window `number` (from 0); "full": smallest to largest
    value; "hounsfield": `centre` and `width` of tomography; "values": these of any picture. `name`: as people write it.
    """

    name: str = "file"
    kind: Literal["file", "full", "hounsfield", "values"] = "file"
    centre: float = 0.0
    width: float = 0.0
    number: int = 0


FILE = Window()


def parse_window(text: str) -> Window:
    """One of FORMS. ValueError where it is none."""
    if text == "full":
        return Window("full", "full")
    if text in PRESETS:
        return Window(text, "hounsfield", *PRESETS[text])
    head, _, tail = text.partition(":")
    if head == "file" and (not tail or (tail.isdecimal() and int(tail) > 0)):
        return Window(text, "file", number=int(tail or 1) - 1)
    centre, slash, width = text.partition("/")
    try:
        if slash and float(width) >= 1 and abs(float(centre)) < float("inf") > float(width):
            return Window(text, "values", float(centre), float(width))
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no window: give one of {FORMS}, for instance 40/400")
