"""A name that no picture can have costs its row alone, in pack_shards and convert alike; a failing drive stops them."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from made_pictures import encoded, tiff
from PIL import Image

from data_tools.common.image_bytes import prepare, read_file
from data_tools.convert import __main__ as convert
from data_tools.pack_shards.__main__ import pack
from data_tools.pack_shards.write import PackOptions
from vglm_train.data.tables import image_paths
from vglm_train.errors import UserError
from vglm_train.image import ImageError, open_image

BAD = {
    "NUL": "images/nul\0.png",
    "a name of 300 letters": "images/" + "x" * 300 + ".png",
    "a path of 5000 letters": "images/" + "deep/" * 1000 + "1.png",
    "a folder": "images",
    "a file as a folder": "0.png/1.png",
    "a link to itself": "loop.png",
    "a broken link": "broken.png",
    "no such file": "none.png",
    "no letters": "",
    "a lone surrogate": "\ud800.png",
}


@pytest.fixture
def rows(photos: Path) -> list[dict]:
    """A good one, and one of each kind of BAD."""
    (photos / "images").mkdir(exist_ok=True)
    for name, target in (("loop.png", "loop.png"), ("broken.png", "nowhere.png")):
        (photos / name).unlink(missing_ok=True)
        (photos / name).symlink_to(target)
    return [{"image": name, "captions": {"en": ["a"]}} for name in ("0.png", *BAD.values())]


def test_pack_shards_leaves_out_the_row(photos: Path, tmp_path: Path, rows: list[dict]) -> None:
    records = photos / "r.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = pack(records, tmp_path / "out", PackOptions(None, 100, None))
    assert manifest.samples == 1
    assert manifest.extra["skipped"] == {"missing image": len(BAD)}
    messages = [json.loads(line)["message"] for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert all(f"line {number}: " in message for number, message in enumerate(messages, 2))
    assert all("\0" not in message and len(message) < 500 for message in messages)


def test_convert_leaves_out_the_row(photos: Path, tmp_path: Path, rows: list[dict]) -> None:
    source = photos / "c.jsonl"
    source.write_text("".join(json.dumps({"image": row["image"], "caption": "a"}) + "\n" for row in rows))
    args = convert.parse([str(source), "--out", str(tmp_path / "r.jsonl")])
    report = convert.convert(*convert.open_source(args), convert.target(args))
    assert report.records == 1
    assert report.bad == {image_paths.NOT_THERE: 2, image_paths.DEAD_LINK: 2, image_paths.FOLDER: 1,
                          image_paths.NO_NAME: 4, "the row names no picture": 1}  # fmt: skip


@pytest.mark.parametrize(("number", "lost"), [
    (errno.EACCES, False), (errno.EPERM, False), (errno.EIO, True), (errno.ESTALE, True), (errno.ENOTCONN, True),
    (errno.ETIMEDOUT, True), (errno.EMFILE, True),
])  # fmt: skip
def test_a_forbidden_file_is_missing_and_a_lost_drive_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, lost: bool
) -> None:
    def fail(self: Path) -> bytes:
        raise OSError(number, "why", str(self))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(UserError if lost else ImageError, match=r"a\.png: .*why") as caught:
        read_file(tmp_path / "a.png")
    if isinstance(caught.value, ImageError):
        assert caught.value.cause == "missing image"


COLOUR = Image.linear_gradient("L").resize((30, 20)).convert("RGB")


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_what_becomes_png_is_decoded_to_the_same(kind: str, mode: str) -> None:
    data = encoded(COLOUR.convert("RGB" if (kind, mode) == ("PPM", "P") else mode), kind)
    made = prepare(data)
    assert made.extension == "png"
    assert open_image(made.data).tobytes() == open_image(data).tobytes()


def test_deep_values_that_become_png_are_decoded_to_the_same() -> None:
    for values in (np.arange(60.0, dtype="f4").reshape(6, 10) - 9, np.arange(600, 660, dtype="u2").reshape(6, 10)):
        made = prepare(tiff(values))
        assert open_image(made.data).tobytes() == open_image(tiff(values)).tobytes()
        assert len(made.notes) == 1
