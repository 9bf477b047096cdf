"""What is read of a common JPEG's header is what Pillow reads; whatever Pillow may see otherwise is left to it."""

import random

import numpy as np
import pytest
from made_pictures import encoded
from PIL import Image

from vglm_train.image.decode import MAX_PIXELS, header_of, orientation, reading
from vglm_train.image.errors import ImageError
from vglm_train.image.jpeg_header import JpegHeader, common_header

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8))
FRAME = b"\xff\xc0\x00\x11\x08"  # its marker, length and bits; then height and width


def of_pillow(data: bytes) -> JpegHeader | None:
    """None where Pillow refuses it."""
    try:
        with reading(data):
            image = header_of(data)
            return JpegHeader(image.mode, *image.size, orientation(image))
    except ImageError:
        return None


def with_part(data: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one part more, behind its first two bytes."""
    return data[:2] + bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2) + body + data[2:]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 0},
        {"optimize": True},
        {"restart_marker_blocks": 3},
        {"comment": b"x"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_common_ones(options: dict, mode: str) -> None:
    data = encoded(PICTURE.convert(mode), "JPEG", **options)
    assert common_header(data) == JpegHeader(mode, 61, 37, 1) == of_pillow(data)


def test_pillow_is_asked_about_the_rest() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(PICTURE, "JPEG")
    assert common_header(encoded(PICTURE, "JPEG", exif=exif)) is None
    assert common_header(encoded(PICTURE, "JPEG", icc_profile=b"p" * 200)) is None
    assert common_header(encoded(PICTURE.convert("CMYK"), "JPEG")) is None
    assert common_header(with_part(plain, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<xml/>")) is None
    assert common_header(with_part(plain, 0xE0, b"JFIF\0")) is None  # Pillow refuses it
    assert common_header(plain[:2] + b"\xff" + plain[2:]) is None  # a byte that fills
    assert common_header(b"\xd9\xd8" + plain[2:]) is None  # no JPEG
    assert common_header(with_part(plain, 0xFE, b"a comment")) == common_header(plain)


@pytest.mark.parametrize("sides", [(0, 61), (37, 0), (65_500, MAX_PIXELS // 65_500 + 1)])
def test_sides_that_are_refused(sides: tuple[int, int]) -> None:
    data = encoded(PICTURE, "JPEG")
    place = data.index(FRAME) + len(FRAME)
    height, width = sides
    data = data[:place] + height.to_bytes(2) + width.to_bytes(2) + data[place + 4 :]
    assert common_header(data) is None is of_pillow(data)


@pytest.mark.parametrize(
    "kind", [{}, {"progressive": True}, {"restart_marker_blocks": 3, "comment": b"\xff\xe1"}], ids=str
)
def test_damaged_headers(kind: dict) -> None:
    """Bytes changed, lost and doubled, and cuts anywhere: an answer is Pillow's."""
    whole = encoded(PICTURE, "JPEG", **kind)
    rng, end, answers = random.Random(3), whole.index(b"\xff\xda") + 20, 0
    for number in range(4000):
        data = bytearray(whole)
        start = rng.randrange(2, end)
        match number % 4:
            case 0 | 1:
                data[start] = rng.choice((0, 1, 2, 3, 8, 17, 0xC0, 0xC4, 0xDB, 0xE0, 0xFE, 0xFF, rng.randrange(256)))
            case 2:
                del data[start : start + rng.randint(1, 30)]
            case _:
                data[start:start] = data[start : start + rng.randint(1, 30)]
        if number % 9 == 0:
            del data[rng.randrange(2, end) :]
        found = common_header(bytes(data))
        answers += found is not None
        assert found is None or found == of_pillow(bytes(data))
    assert answers > 500
