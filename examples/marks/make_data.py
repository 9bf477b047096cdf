"""A small made domain for fine-tuning: grey pictures like chest X-rays, in which a bright mark decides the answer.

    python -m examples.marks.make_data --out data/marks

Each picture is of another made patient and has one small bright square, in the left or the right field; the question is
where. Half of the answers are yes, so whoever does not look is right in 50 %. Everything else (fields, ribs, grain,
brightness) is drawn without regard to the answer. train.json and test.json are in VisualGLM's layout: img, prompt,
label, and beside them patient. A model that learns from pictures at all can learn this one; it shows that a fine-tuning
works, not how well it would do on real X-rays.
"""

import sys
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_tools.common import cli
from vglm_train.errors import UserError
from vglm_train.files import write_json
from vglm_train.folders import make_folder

PICTURE = 128  # pixels a side
QUESTION = "Is the mark on the left?"
ANSWERS = {"left": "yes", "right": "no"}
FIELDS = {"left": (0.30, 0.52), "right": (0.70, 0.52)}  # centres, in units of the picture
MADE = {"train.json", "test.json", "images"}


def draw_picture(side: str, rng: Random) -> Image.Image:
    """A picture, RGB, with the mark on `side` (left or right of the picture)."""
    size = PICTURE
    picture = Image.new("L", (size, size), rng.randint(95, 120))
    pen = ImageDraw.Draw(picture)
    dark = rng.randint(40, 60)
    for centre in FIELDS.values():
        x, y = ((place + rng.uniform(-0.02, 0.02)) * size for place in centre)
        wide, high = rng.uniform(0.15, 0.17) * size, rng.uniform(0.28, 0.32) * size
        pen.ellipse((x - wide, y - high, x + wide, y + high), fill=dark)
    for rib in range(5):
        y = (0.28 + 0.12 * rib + rng.uniform(-0.01, 0.01)) * size
        pen.arc((0.08 * size, y, 0.92 * size, y + 0.2 * size), 200, 340, fill=dark + 25, width=2)
    picture = picture.filter(ImageFilter.GaussianBlur(1.5))
    _mark(ImageDraw.Draw(picture), side, rng)
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, 6, (size, size))
    pixels = np.clip(np.asarray(picture, dtype=np.float64) + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def _mark(pen: ImageDraw.ImageDraw, side: str, rng: Random) -> None:
    x, y = ((place + rng.uniform(-0.06, 0.06)) * PICTURE for place in FIELDS[side])
    half = rng.uniform(0.055, 0.075) * PICTURE
    pen.rectangle((x - half, y - half, x + half, y + half), fill=rng.randint(225, 250))


def write_data(folder: Path, train: int, test: int, seed: int) -> None:
    """Write images/, train.json and test.json with so many rows each, half of them yes.

    The same seed gives the same files; rows of one table are in no order. UserError where `folder` holds anything else.
    """
    if folder.is_file() or (folder.exists() and {path.name for path in folder.iterdir()} - MADE):
        raise UserError(f"--out {folder}: a file, or a folder that holds something else; give a new one")
    make_folder(f"--out {folder}", folder)
    (folder / "images").mkdir(exist_ok=True)
    first = 0
    for name, count in (("train", train), ("test", test)):
        rng = Random(f"marks {seed} {name}")
        sides = [("left", "right")[number % 2] for number in range(count)]
        rng.shuffle(sides)
        rows = [_row(folder, number, side, rng) for number, side in enumerate(sides, first)]
        write_json(folder / f"{name}.json", rows)
        first += count


def _row(folder: Path, number: int, side: str, rng: Random) -> dict[str, str]:
    image = f"images/{number:05d}.png"
    draw_picture(side, rng).save(folder / image)
    return {"img": image, "prompt": QUESTION, "label": ANSWERS[side], "patient": f"p{number:05d}"}


def main() -> int:
    parser = cli.parser("examples.marks.make_data", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=cli.at_least_one, default=400, help="rows of train.json (default 400)")
    parser.add_argument("--test", type=cli.at_least_one, default=200, help="rows of test.json (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    given = parser.parse_args(sys.argv[1:])
    write_data(given.out, given.train, given.test, given.seed)
    print(f"{given.out}: train.json {given.train} rows, test.json {given.test} rows, a picture each")
    return 0


if __name__ == "__main__":
    cli.command(main)
