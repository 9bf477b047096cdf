"""Pictures of strangers: what Pillow would pay dearly for is refused by its bytes, in little memory and time."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from made_dicom import inflating, make_dicom, many_elements
from made_pictures import chunk, encoded, png, tiff
from PIL import Image

from vglm_train.image import FORMATS, ImageError, ImageLimits, check_image, open_image

LIMITS = ImageLimits()
RED = Image.new("RGB", (8, 6), "red")


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def overlapping_tags(number: int, size: int) -> bytes:
    """TIFF or EXIF whose `number` tags all name the same `size` bytes."""
    entries = b"".join(struct.pack("<HHII", 1000 + tag, 7, size, 8) for tag in range(number))
    start = 8 + size
    return b"II*\0" + struct.pack("<I", start) + bytes(size) + struct.pack("<H", number) + entries + bytes(4)


def jpeg(*segments: bytes) -> bytes:
    """A red JPEG with these segments before its own."""
    return b"\xff\xd8" + b"".join(segments) + encoded(RED, "JPEG")[2:]


def gif(*blocks: bytes) -> bytes:
    """A red GIF with these blocks before its frame."""
    whole = encoded(Image.new("L", (2, 2)), "GIF")
    start = whole.index(b",")
    return whole[:start] + b"".join(blocks) + whole[start:]


def wide_webp() -> bytes:
    data = bytearray(encoded(RED, "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 6), "blue")]))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xfe\x3f\0\xfe\x3f\0"
    return bytes(data)


def many_passes() -> bytes:
    """A progressive JPEG whose last pass comes 200 times."""
    data = encoded(Image.effect_noise((64, 64), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 200 + data[-2:]


def animation(kind: str, frames: int) -> bytes:
    pictures = [Image.new("L", (4, 4), number * 80 % 251) for number in range(frames)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:])


def tagged_avif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "words"
    data = encoded(RED, "AVIF", exif=exif.tobytes())
    start = data.index(b"MM\0*" if b"MM\0*" in data else b"II*\0")
    order = ">" if data[start : start + 1] == b"M" else "<"
    entry = start + 8 + 2
    return data[: entry + 4] + struct.pack(order + "I", 2**31) + data[entry + 8 :]


def paged_tiff(pages: int) -> bytes:
    """Directories without tags, one after the other."""
    chain = b"".join(struct.pack("<HI", 0, 8 + 6 * (number + 1)) for number in range(pages))
    return b"II*\0" + struct.pack("<I", 8) + chain


def tiled_tiff() -> bytes:
    return tiff(np.zeros((4, 4), np.uint8), t322=50_000, t323=50_000)


BOMBS: dict[str, Callable[[], bytes]] = {
    "100,000 x 100,000 PNG": lambda: png(100_000, 100_000, 8, 2, b""),
    "a long PNG": lambda: png(70_000, 1, 8, 0, bytes(70_001)),
    "PNG of a million chunks": lambda: png(1, 1, 8, 0, b"\0\0", chunk(b"teSt", b"") * 1_000_000),
    "APNG of 10,000 frames": lambda: png(1, 1, 8, 0, b"\0\0", chunk(b"acTL", struct.pack(">II", 10_000, 0))),
    "GIF of 10,000 frames": lambda: gif(b",\0\0\0\0\x02\0\x02\0\0\x02\x02\x84\x51\0" * 10_000),
    "WebP of 10,000 frames": lambda: riff(webp_canvas(4, 4) + (b"ANMF" + struct.pack("<I", 16) + bytes(16)) * 10_000),
    "TIFF of 10,000 pages": lambda: paged_tiff(10_000),
    "GIF of a million comments": lambda: gif(b"!\xfe" + b"\x01c" * 1_000_000 + b"\0"),
    "GIF in blocks of one byte": lambda: gif(b",\0\0\0\0\x02\0\x02\0\0\x02" + b"\x01\0" * 1_000_000 + b"\0"),
    "GIF with junk": lambda: gif(b"j" * 1_000_000),
    "JPEG of a million segments": lambda: jpeg(segment(0xFE, b"") * 1_000_000),
    "JPEG with junk": lambda: jpeg(segment(0xFE, b"") + bytes(1_000_000)),
    "JPEG of many EXIF parts": lambda: jpeg(segment(0xE1, b"Exif\0\0ab") * 100_000),
    "JPEG with overlapping EXIF": lambda: jpeg(segment(0xE1, b"Exif\0\0" + overlapping_tags(2500, 30_000))),
    "JPEG with overlapping EXIF in parts": lambda: jpeg(
        segment(0xE1, b"Exif\0\0" + overlapping_tags(4900, 60_000)[:60_000]),
        segment(0xE1, b"Exif\0\0" + overlapping_tags(4900, 60_000)[60_000:]),
    ),
    "JPEG with an overlapping index": lambda: jpeg(segment(0xE2, b"MPF\0" + overlapping_tags(2500, 30_000))),
    "JPEG with marks of EXIF": lambda: jpeg(segment(0xE1, b"Exif\0\0" * 10_000)),
    "JPEG of many passes": many_passes,
    "WebP with a wide canvas": wide_webp,
    "TIFF with overlapping tags": lambda: overlapping_tags(60_000, 1_000_000),
    "TIFF with a wide tile": tiled_tiff,
    "AVIF with large tags": tagged_avif,
    "DICOM that inflates": inflating,
    "DICOM of many elements": many_elements,
    "DICOM of 60,000 x 60,000": lambda: make_dicom(np.zeros((2, 2), np.uint8), {"Rows": 60_000, "Columns": 60_000}),
    "DICOM of 10,000 frames": lambda: make_dicom(np.zeros((10_000, 1, 1), np.uint8), {"NumberOfFrames": 10_000}),
}


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def webp_canvas(width: int, height: int) -> bytes:
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sides


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_cost_much_is_refused(name):
    with pytest.raises(ImageError) as caught:
        check_image(BOMBS[name](), LIMITS)
    assert caught.value.cause == "bomb"


def test_refusing_takes_little_memory_and_time():
    """All of them in a process that may have 400 MB more than it began with, and 20 s of a core."""
    script = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
import test_image_limits, psutil
made = {{name: make() for name, make in test_image_limits.BOMBS.items()}}
used = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
seconds = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime)
resource.setrlimit(resource.RLIMIT_CPU, (seconds + 20,) * 2)
for name, data in made.items():
    try:
        test_image_limits.check_image(data, test_image_limits.LIMITS)
    except test_image_limits.ImageError as error:
        assert error.cause == "bomb", (name, error)
print("refused")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("PPM", "DICOM")])
def test_pictures_of_every_format_pass(name):
    header = check_image(encoded(RED, name), LIMITS)
    assert header == (name, 8, 6)


def test_animations_and_unusual_files_pass():
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        check_image(animation(kind, 20), LIMITS)
    for options in (
        {"progressive": True},
        {"exif": tagged()},
        {"comment": b"words" * 1000},
        {"icc_profile": b"x" * 200_000},
    ):
        check_image(encoded(RED, "JPEG", **options), LIMITS)
    for options in ({"exif": tagged()}, {"lossless": True}):
        check_image(encoded(RED, "WEBP", **options), LIMITS)
    for kind in ("L", "1", "RGB"):
        check_image(encoded(RED.convert(kind), "PPM"), LIMITS)
    check_image(encoded(RED, "MPO", save_all=True, append_images=[RED]), LIMITS)
    check_image(encoded(RED, "TIFF", big_tiff=True), LIMITS)


def tagged() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words of a camera" * 20
    return exif.tobytes()


def test_photos_pass(shared):
    photos = sorted((shared / "data/flickr/images").glob("*.jpg"))[:50]
    assert photos
    for photo in photos:
        check_image(photo.read_bytes(), LIMITS)


def test_each_limit_is_kept():
    data = encoded(RED, "PNG")
    check_image(data, ImageLimits(bytes=len(data), pixels=48, side=8))
    for limits in (ImageLimits(bytes=len(data) - 1), ImageLimits(pixels=47), ImageLimits(side=7)):
        with pytest.raises(ImageError, match="bomb"):
            check_image(data, limits)
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        data = animation(kind, 3)
        check_image(data, ImageLimits(frames=3))
        with pytest.raises(ImageError, match="more than 2 frames"):
            check_image(data, ImageLimits(frames=2))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"%PDF-1.7 \xff\xd8\xff", "PDF"),
        (b"<!doctype html><img src=x onerror=alert(1)>", "HTML"),
        (b"PK\x03\x04 a zip", "zip"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"MM*\0\0\0\0\x08", "no known kind"),
        (b"", "empty"),
        (b"P3 1 1 255 1 2 3 ", "rare kind"),
        (b"P5 #" + b"c" * 100_000 + b"\n1 1 255 x", "rare kind"),
        (b"P6 1 1 100 abc", "rare kind"),
        (encoded(RED, "JPEG")[:20], "cut short"),
    ],
)
def test_what_is_no_picture_is_told(data, what):
    with pytest.raises(ImageError, match=what) as caught:
        check_image(data, LIMITS)
    assert caught.value.cause == "undecodable"


def test_polyglots_are_pictures_and_nothing_else():
    """What follows a picture, or is hidden in it, is never looked at."""
    script, archive = b"<script>alert(1)</script>", b"PK\x03\x04" + b"\xff\xda" * 500
    for data in (
        encoded(RED, "GIF") + script,
        encoded(RED, "JPEG") + archive,
        jpeg(segment(0xFE, script)),
        encoded(RED, "PNG") + archive,
    ):
        assert check_image(data, LIMITS)[1:] == (8, 6)
        assert open_image(data).size == (8, 6)


def test_overlapping_tags_of_exif_cost_training_nothing():
    """A PNG's EXIF may be packed text; such a picture is read as if it had none."""
    bomb = overlapping_tags(2500, 30_000)
    text = b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n{len(bomb)}\n{bomb.hex()}".encode())
    for chunks in (chunk(b"zTXt", text), chunk(b"eXIf", bomb)):
        data = png(1, 1, 8, 0, b"\0\x80", chunks)
        assert open_image(data).getpixel((0, 0)) == (128, 128, 128)
    assert Image.open(io.BytesIO(encoded(RED, "PNG", exif=tagged()))).getexif()[0x0112] == 6
    assert open_image(encoded(RED, "PNG", exif=tagged())).size == (6, 8)
