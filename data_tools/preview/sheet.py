"""Pictures beside their texts, drawn with Pillow into one sheet."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vglm_train.errors import UserError

SAMPLE = "狗"
FAMILIES = ("NotoSansCJK", "NotoSansSC", "SourceHanSans", "NotoSerifCJK", "wqy", "PingFang", "Hiragino", "msyh",
            "simhei", "simsun", "DroidSansFallback", "uming", "ukai", "ArialUnicode", "Arial Unicode")  # fmt: skip
SIZE = 15  # of the text, pixels
LINE = 20
MARGIN = 12
TEXT_WIDTH = 460
SHOWN = 8  # letters that are named
SMALLEST = 160  # a smaller picture is drawn enlarged, each pixel a square
UNKNOWN = "\U0010fffd"  # no font has it: it is drawn as the box for a missing letter

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture and the lines beside it; a line is wrapped where it is too long."""

    picture: Image.Image
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Face:
    """A font."""

    font: Font
    name: str

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The letters of the texts that the font would draw as boxes."""
        box = bytes(self.font.getmask(UNKNOWN))
        letters = sorted({letter for text in texts for letter in text if not letter.isspace()})
        return [letter for letter in letters if bytes(self.font.getmask(letter)) == box]


def _folders() -> list[Path]:
    home = Path.home()
    known = ["/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "/System/Library/Fonts"]
    windows = Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"
    return [*map(Path, known), home / ".local/share/fonts", home / ".fonts", home / "Library/Fonts", windows]


def _candidates() -> Iterator[Path]:
    files = [path for folder in _folders() if folder.is_dir() for path in sorted(folder.rglob("*.[to]t[fc]"))]
    for family in FAMILIES:
        yield from (path for path in files if path.name.lower().startswith(family.lower()))


def find_face(chosen: Path | None) -> Face:
    """The font of `--font`, else one of this machine with Chinese, else Pillow's own, which has none."""
    if chosen is not None:
        try:
            font = ImageFont.truetype(chosen, SIZE)
        except OSError as error:
            raise UserError(f"--font {chosen}: cannot be read as a font: {error}") from None
        return Face(font, str(chosen))
    for path in _candidates():
        try:
            face = Face(ImageFont.truetype(path, SIZE), str(path))
        except OSError:
            continue
        if not face.missing(SAMPLE):
            return face
    return Face(ImageFont.load_default(SIZE), "Pillow's own font")


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines no wider than `width` pixels, cut at blanks where there are any, else between letters."""
    lines: list[str] = []
    while text:
        end = _fitting(text, font, width)
        if end < len(text) and (blank := text.rfind(" ", 1, end + 1)) > 0:
            end = blank
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return lines


def _fitting(text: str, font: Font, width: int) -> int:
    """How many letters from the start fit, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def draw_sheet(cells: Sequence[Cell], face: Face, columns: int) -> Image.Image:
    """All cells on one white sheet, row by row."""
    enlarged = [enlarge(cell.picture) for cell in cells]
    texts = [_wrapped(cell.lines, face) for cell in cells]
    side = max((picture.width for picture in enlarged), default=SMALLEST)
    heights = [max(picture.height, LINE * len(lines)) for picture, lines in zip(enlarged, texts)]
    rows = [max(heights[start : start + columns]) + MARGIN for start in range(0, len(cells), columns)]
    width = columns * (side + TEXT_WIDTH + 2 * MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, sum(rows) + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (picture, lines) in enumerate(zip(enlarged, texts)):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * (side + TEXT_WIDTH + 2 * MARGIN), MARGIN + sum(rows[:row])
        sheet.paste(picture, (left, top))
        for row_of_text, line in enumerate(lines):
            pen.text((left + side + MARGIN, top + LINE * row_of_text), line, fill="black", font=face.font)
    return sheet


def _wrapped(lines: Sequence[str], face: Face) -> list[str]:
    return [part for line in lines for part in wrap(line, face.font, TEXT_WIDTH)]


def enlarge(picture: Image.Image) -> Image.Image:
    """A small picture with each of its pixels a square."""
    factor = max(1, -(-SMALLEST // max(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def advice(face: Face, missing: Sequence[str]) -> str:
    """What to do about letters that the font lacks."""
    install = "brew install font-noto-sans-cjk-sc" if sys.platform == "darwin" else "apt-get install fonts-noto-cjk"
    letters = " ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more letters" if len(missing) > SHOWN else "")
    return f"{face.name} cannot draw {letters}: {install}, or --font FILE"
