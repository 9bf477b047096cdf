"""Every kind of picture opens with the right colours, and crops fall where BLIP-2's do."""

import io
import random
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from made_pictures import encoded, png
from PIL import Image, ImageOps

from vglm_train.image import (
    FORMATS,
    MAX_PIXELS,
    ImageError,
    crop_pixels,
    eval_pixels,
    open_image,
    random_crop,
    read_header,
    train_pixels,
)

OF_PILLOW = [name for name in FORMATS if name != "DICOM"]
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


def quarters(size: int = 64) -> Image.Image:
    """Red, green above blue, yellow."""
    image = Image.new("RGB", (size, size))
    half = size // 2
    for place, colour in (((0, 0), RED), ((half, 0), GREEN), ((0, half), BLUE), ((half, half), YELLOW)):
        image.paste(colour, (*place, place[0] + half, place[1] + half))
    return image


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Colours at the middle of the four quarters, rounded to 0 or 255."""
    w, h = image.size
    places = [(w // 4, h // 4), (3 * w // 4, h // 4), (w // 4, 3 * h // 4), (3 * w // 4, 3 * h // 4)]
    return [tuple(round(c / 255) * 255 for c in image.getpixel(place)) for place in places]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", OF_PILLOW)
def test_formats(kind: str) -> None:
    image = open_image(encoded(quarters(), kind))
    assert image.mode == "RGB"
    assert corners(image) == [RED, GREEN, BLUE, YELLOW]
    header = read_header(encoded(quarters().crop((0, 0, 64, 48)), kind))
    assert header == (kind, 64, 48)


@pytest.mark.parametrize("kind", ["ICO", "JPEG2000", "PCX", "TGA"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_image(encoded(quarters(), kind))
    assert caught.value.cause == "undecodable"


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey(mode: str) -> None:
    image = open_image(encoded(Image.new("L", (8, 8), 255).convert(mode), "PNG"))
    assert (image.mode, image.getpixel((3, 3))) == ("RGB", (255, 255, 255))
    assert open_image(encoded(Image.new("L", (8, 8), 77), "JPEG")).getpixel((3, 3)) == (77, 77, 77)


def test_grey_of_16_bits_is_scaled_not_cut() -> None:
    levels = np.array([[0, 100 * 257, 65535, 128]], dtype=np.uint16)  # 65535 = 255 * 257; 128 / 257 rounds to 0
    image = open_image(encoded(Image.fromarray(levels), "PNG"))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(0,) * 3, (100,) * 3, (255,) * 3, (0,) * 3]


def test_colour_of_16_bits() -> None:
    rows = b"\0" + struct.pack(">6H", 65535, 0, 25700, 0, 65535, 128)  # Pillow does not write it
    image = open_image(png(2, 1, bits=16, colour=2, rows=rows))
    assert image.getpixel((0, 0)) == (255, 0, 100)
    assert image.getpixel((1, 0)) == (0, 255, 0)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_is_white(kind: str) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((255, 0, 0, 128), (8, 0, 16, 16))
    opened = open_image(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert opened.getpixel((2, 2)) == (255, 255, 255)
    assert opened.getpixel((12, 2)) == (255, 127, 127)


def test_grey_with_transparency() -> None:
    image = Image.new("LA", (4, 4), (0, 0))
    image.putpixel((1, 1), (9, 255))
    opened = open_image(encoded(image, "PNG"))
    assert (opened.getpixel((0, 0)), opened.getpixel((1, 1))) == ((255,) * 3, (9,) * 3)


def test_palette_with_and_without_transparency() -> None:
    image = quarters().quantize(4)
    assert corners(open_image(encoded(image, "PNG"))) == [RED, GREEN, BLUE, YELLOW]
    clear = image.getpixel((0, 0))
    assert corners(open_image(encoded(image, "PNG", transparency=clear)))[0] == (255, 255, 255)


CMYK = [((0, 255, 255, 0), RED), ((255, 0, 255, 0), GREEN), ((0, 0, 0, 255), (0,) * 3), ((0, 0, 0, 0), (255,) * 3)]


@pytest.mark.parametrize(("inks", "colour"), CMYK)
def test_cmyk(inks: tuple[int, ...], colour: tuple[int, ...]) -> None:
    data = encoded(Image.new("CMYK", (16, 16), inks), "JPEG", quality=95)
    assert b"Adobe" in data
    assert open_image(data).getpixel((8, 8)) == pytest.approx(colour, abs=3)


@pytest.mark.parametrize(("inks", "colour"), CMYK)
def test_cmyk_as_photoshop_writes_it(inks: tuple[int, ...], colour: tuple[int, ...]) -> None:
    """YCCK: the colour inks turned like RGB to YCbCr, and K, stored inverted; Adobe's marker says transform 2."""
    turned = Image.new("RGB", (1, 1), inks[:3]).convert("YCbCr").getpixel((0, 0))
    stored = (*turned, 255 - inks[3])  # type: ignore[misc]
    data = encoded(Image.new("CMYK", (16, 16), tuple(255 - v for v in stored)), "JPEG", quality=95)
    marker = data.index(b"Adobe") + 11
    assert data[marker] == 0
    data = data[:marker] + b"\x02" + data[marker + 1 :]
    assert open_image(data).getpixel((8, 8)) == pytest.approx(colour, abs=5)


def test_exif_turn_spelled_out() -> None:
    """Orientation 6: the camera was turned; what is stored at the left belongs at the top."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(encoded(quarters().crop((0, 0, 64, 48)), "JPEG", exif=exif, quality=95, subsampling=0))
    assert image.size == (48, 64)
    assert corners(image) == [BLUE, RED, YELLOW, GREEN]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_as_pillow_does(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(quarters().crop((0, 0, 64, 40)), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(open_image(data)), np.asarray(expected))
    assert read_header(data)[1:] == expected.size == ((40, 64) if orientation >= 5 else (64, 40))


def test_damaged_exif_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(quarters(), "JPEG", exif=exif)
    start = data.index(b"Exif\0\0") + 6
    assert open_image(data[:start] + b"II*\0\xff\xff\xff\x7f" + data[start + 8 :]).mode == "RGB"


@pytest.mark.parametrize("kind", OF_PILLOW)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_cut_short_is_an_error(kind: str, kept: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(ImageError) as caught:
        open_image(data[: int(len(data) * kept)])
    assert caught.value.cause == "undecodable"
    assert "object at" not in str(caught.value)
    assert "empty file" in str(caught.value) if kept == 0 else kind.lower() in str(caught.value).lower()


def test_bomb_is_known_by_its_header() -> None:
    side = int(MAX_PIXELS**0.5) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # ours is the only word on it
        for size in ((side, side), (4 * side, 4 * side)):
            with pytest.raises(ImageError) as caught:
                open_image(png(*size, bits=1, colour=0, rows=b""))
            assert caught.value.cause == "bomb"


def test_large_jpeg_is_decoded_smaller_but_never_too_small() -> None:
    data = encoded(quarters(1600).resize((2400, 1600)), "JPEG")
    assert open_image(data).size == (2400, 1600)
    assert open_image(data, 366).size == (600, 400)
    assert open_image(data, 401).size == (1200, 800)
    assert open_image(data, 1601).size == (2400, 1600)
    assert corners(open_image(data, 366)) == [RED, GREEN, BLUE, YELLOW]


def test_decoding_smaller_hardly_moves_a_pixel(shared) -> None:
    """Half-size decoding against full decoding, both then resized, on a real photo enlarged to 1,400 pixels."""
    photo = open_image((shared / "data/flickr/images/1001773457_577c3a7d70.jpg").read_bytes())
    large = encoded(photo.resize((1870, 1404), Image.Resampling.LANCZOS), "JPEG", quality=92)
    full, scaled = (eval_pixels(open_image(large, least), 224).float() for least in (None, 366))
    assert open_image(large, 366).size == (935, 702) or open_image(large, 366).size == (468, 351)
    assert (full - scaled).abs().mean() < 1.0


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 100), (1, 700), (3, 2)])
def test_crops_are_within_their_limits(size: tuple[int, int]) -> None:
    width, height = size
    rng = random.Random(1)
    boxes = [random_crop(width, height, (0.5, 1.0), rng) for _ in range(500)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    if min(size) >= 480:
        shares = [(r - l) * (b - t) / (width * height) for l, t, r, b in boxes]  # noqa: E741
        ratios = [(r - l) / (b - t) for l, t, r, b in boxes]  # noqa: E741
        assert 0.495 < min(shares) < 0.52
        assert 0.9 < max(shares) <= 1.0
        assert 0.745 < min(ratios) < 0.85
        assert max(ratios) < 1.34
        assert len({box[:2] for box in boxes}) > 400


def test_crop_of_a_narrow_picture_is_the_middle_at_the_nearest_ratio() -> None:
    assert random_crop(1000, 100, (0.5, 1.0), random.Random(0)) == (433, 0, 566, 100)
    assert random_crop(100, 1000, (0.5, 1.0), random.Random(0)) == (0, 433, 100, 566)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", OF_PILLOW)
def test_pixels_of_a_small_picture_are_those_of_its_crop(kind: str, orientation: int) -> None:
    """At full size nothing changes, turned ones included."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo, kind, exif=exif)
    for seed in range(20):
        expected = train_pixels(open_image(data), 64, (0.5, 1.0), True, random.Random(seed))
        assert torch.equal(crop_pixels(data, 64, (0.5, 1.0), True, random.Random(seed)), expected)


@pytest.mark.parametrize(("width", "turn"), [(700, 1), (1500, 1), (2600, 6), (4100, 1)])
def test_pixels_of_a_large_photo_decoded_small(shared: Path, width: int, turn: int) -> None:
    """Photos enlarged with grain, over many crops: within 2 of 255 levels on average, 99 % of values within 12."""
    photo = Image.open(sorted((shared / "data/flickr/images").glob("*.jpg"))[3]).convert("RGB")
    height = width * photo.height // photo.width
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 1))
    photo = photo.resize((width, height), Image.Resampling.BICUBIC)
    photo = Image.fromarray((np.asarray(photo) + grain).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(photo, "JPEG", quality=92, exif=exif)
    whole = open_image(data)
    for seed in range(4):
        full = train_pixels(whole, 224, (0.5, 1.0), True, random.Random(seed)).float()
        small = crop_pixels(data, 224, (0.5, 1.0), True, random.Random(seed)).float()
        difference = (full - small).abs()
        assert difference.mean() < 2
        assert difference.quantile(0.99) < 12


def test_train_pixels_are_the_crop_resized() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    pixels = train_pixels(photo, 32, (0.5, 1.0), False, random.Random(5))
    box = random_crop(120, 90, (0.5, 1.0), random.Random(5))
    expected = np.asarray(photo.crop(box).resize((32, 32), Image.Resampling.BICUBIC))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 32, 32))
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)


def test_a_crop_of_all_is_the_whole_picture() -> None:
    rng = random.Random(1)
    before = rng.getstate()
    assert random_crop(300, 100, (1.0, 1.0), rng) == (0, 0, 300, 100)
    assert rng.getstate() == before


def test_flip_is_half_the_time_and_an_option() -> None:
    image = quarters()
    left = [train_pixels(image, 8, (1.0, 1.0), True, random.Random(n))[:, 0, 0].tolist() for n in range(400)]
    assert sum(colour == list(GREEN) for colour in left) == pytest.approx(200, abs=40)
    for n in range(50):
        assert train_pixels(image, 8, (1.0, 1.0), False, random.Random(n))[:, 0, 0].tolist() == list(RED)


def test_eval_pixels_squeeze_the_whole_picture() -> None:
    pixels = eval_pixels(quarters().resize((128, 64)), 16)
    assert pixels.shape == (3, 16, 16)
    assert [pixels[:, y, x].tolist() for y, x in ((2, 2), (2, 13), (13, 2), (13, 13))] == [
        list(c) for c in (RED, GREEN, BLUE, YELLOW)
    ]
