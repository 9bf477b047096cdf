"""The picture in the README, from a finished demo: `python -m examples.demo.figure`.

Left the losses of stage one; in the middle what captions retrieve among the 400 held-out pictures; right a
conversation with the model of stage two. Draws with matplotlib, which needs a Chinese font.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from PIL import Image

import vglm_train
from examples.demo.scenes import LANGUAGES
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.evaluate.retrieval.evaluator import Embedder
from vglm_train.image import whole_pixels
from vglm_train.report.curves import fonts

SHOWN = 4  # pictures a caption
ASKED = ("Describe this image.", "描述这张图片。")  # what stage two was taught
LOSSES = {"train/loss_itc": "ITC", "train/loss_itm": "ITM", "train/loss_itg": "ITG"}


def held_out(work: Path) -> list[dict[str, Any]]:
    """The records of the test split."""
    lines = (work / "data" / "records.jsonl").read_text("utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == "test"]


@torch.no_grad()
def retrieved(work: Path, records: list[dict[str, Any]], wanted: list[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    """Of (language, record): the caption, and the records whose pictures ITC puts first, best first."""
    bundle = open_bundle(work / "run" / "bundle", torch.device("cpu"))
    embedder = Embedder(bundle.model, bundle.text, torch.device("cpu"))
    size, image = bundle.config.model.vision.image_size, bundle.config.data.image
    files = [(work / "data" / record["image"]).read_bytes() for record in records]
    _, images = embedder.images(torch.stack([whole_pixels(data, size, image.decoder, image) for data in files]))
    found = []
    for language, number in wanted:
        caption = records[number]["captions"][language][0]
        similarity = (images @ embedder.texts([caption], language)[2][0]).amax(1)
        found.append((caption, similarity.topk(SHOWN).indices.tolist()))
    return found


def conversation(work: Path, picture: Path, questions: tuple[str, ...]) -> list[tuple[str, str]]:
    """Questions about a picture and the model's greedy answers, each asked alone, as the demo's model learned."""
    with vglm_train.load(work / "run2" / "bundle", device="cpu") as model:
        return [(question, model.chat(picture, question, temperature=0)[0]) for question in questions]


def draw_losses(axes: Any, work: Path) -> None:
    rows = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    for name, label in LOSSES.items():
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points), label=label)
    axes.set(title="stage one: losses", xlabel="step", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw(work: Path, out: Path, numbers: list[int], about: int, questions: tuple[str, ...]) -> None:
    """Write the picture to `out`."""
    records = held_out(work)
    wanted = [(LANGUAGES[place % 2], number) for place, number in enumerate(numbers)]
    with mpl.rc_context({"font.family": fonts(), "font.size": 11}):
        figure = Figure(figsize=(14, 4.6), layout="constrained")
        parts: Any = figure.subfigures(1, 3, width_ratios=[1, 1.5, 1.1])
        left, middle, right = parts
        draw_losses(left.subplots(), work)
        grid = middle.subplots(len(wanted), SHOWN, squeeze=False)
        middle.suptitle("retrieval among 400 held-out pictures")
        for row, (caption, found), (_, number) in zip(grid, retrieved(work, records, wanted), wanted):
            row[0].set_title(caption, loc="left", fontsize=11)
            for axes, place in zip(row, found):
                axes.imshow(Image.open(work / "data" / records[place]["image"]))
                axes.set(xticks=[], yticks=[])
                for spine in axes.spines.values():
                    spine.set(color="tab:green" if place == number else "lightgrey", linewidth=3)
        picture = work / "data" / records[about]["image"]
        top, bottom = right.subfigures(2, 1, height_ratios=[1, 1.4])
        top.suptitle("chat")
        axes = top.subplots()
        axes.imshow(Image.open(picture))
        axes.set_axis_off()
        lines = [f"> {question}\n   {answer}" for question, answer in conversation(work, picture, questions)]
        bottom.text(0.08, 0.95, "\n".join(lines), va="top", fontsize=12, linespacing=1.5)
        figure.savefig(out, dpi=100, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.demo.figure", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo_run"), help="folder of a finished demo")
    parser.add_argument("--out", type=Path, default=Path("demo_run/figure.png"), help="PNG to write")
    parser.add_argument(
        "--captions", type=int, nargs="+", default=[3, 8, 15], help="held-out pictures whose captions ask"
    )
    parser.add_argument("--about", type=int, default=3, help="held-out picture that is talked about")
    parser.add_argument("--questions", nargs="+", default=list(ASKED), help="what is asked about it")
    args = parser.parse_args()
    draw(args.work, args.out, args.captions, args.about, tuple(args.questions))
    print(args.out)


if __name__ == "__main__":
    main()
