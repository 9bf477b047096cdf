"""Values of more than 8 bits become levels by one rule, whatever the file, and the rule that was taken is told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pictures import chunk, deep_png, encoded, png, tiff
from numpy.typing import NDArray
from PIL import Image

from vglm_train.image import ImageError, examine_image, open_image
from vglm_train.image.levels import are_scaled_up, to_8_bits

RAMP = np.linspace(0, 1, 60).reshape(6, 10)


def ramp(largest: int, kind: str = "u2") -> NDArray:
    return np.round(RAMP * largest).astype(kind)


def levels(data: bytes) -> NDArray[np.uint8]:
    """Of the red channel, which of a grey picture is all there is."""
    return np.asarray(open_image(data))[..., 0]


def note(data: bytes) -> str:
    (found,) = examine_image(data).notes
    return found


def grey_as_colour(values: NDArray) -> NDArray:
    return np.repeat(values[..., None], 3, axis=-1)


WRITERS = {
    "PNG": deep_png,
    "TIFF": tiff,
    "TIFF, big-endian": lambda values: tiff(values, ">"),
    "TIFF, signed": lambda values: tiff(values.astype("i2" if values.max() < 2**15 else "i4")),
    "TIFF, 32 bits": lambda values: tiff(values.astype("u4")),
}


@pytest.mark.parametrize(("largest", "bits"), [(255, 8), (256, 10), (1023, 10), (4095, 12), (16383, 14), (65535, 16)])
@pytest.mark.parametrize("writer", WRITERS)
def test_integers_end_at_the_smallest_number_of_bits(writer: str, largest: int, bits: int) -> None:
    data = WRITERS[writer](ramp(largest))
    expected = np.floor(ramp(largest) * 255.0 / (2**bits - 1) + 0.5)
    assert np.array_equal(levels(data), expected)
    assert note(data).endswith(f"values, range found {bits} bits")


@pytest.mark.parametrize("largest", [4095, 16383])
@pytest.mark.parametrize("write", [deep_png, tiff, lambda v: tiff(v, ">"), lambda v: tiff(v, deflate=True)])
def test_colours_of_16_bits_that_hold_fewer(write, largest: int) -> None:
    colours = np.stack([ramp(largest), ramp(largest)[::-1], ramp(largest // 2)], axis=-1)
    data = write(colours)
    assert np.array_equal(np.asarray(open_image(data)), np.floor(colours * 255.0 / largest + 0.5))
    assert note(data) == f"16-bit values, range found {largest.bit_length()} bits"


def test_colours_of_all_16_bits_are_cut_as_ever() -> None:
    colours = grey_as_colour(ramp(65535))
    for data in (deep_png(colours), tiff(colours), tiff(colours, deflate=True)):
        assert np.array_equal(np.asarray(open_image(data)), colours >> 8)
        assert note(data) == "16-bit values, range found 16 bits"


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("fourth", [0, 2])
def test_a_fourth_value_of_16_bits_in_a_tiff(order: str, deflate: bool, fourth: int) -> None:
    """Nothing that is shown, or what is opaque."""
    values = np.concatenate([grey_as_colour(ramp(4095)), np.full((6, 10, 1), 65535, "u2")], axis=-1)
    found = levels(tiff(values, order, deflate=deflate, t338=fourth))
    assert np.array_equal(found, np.floor(ramp(4095) * 255.0 / 4095 + 0.5))


def test_colours_that_are_stored_apart() -> None:
    colours = np.stack([ramp(255, "u1"), ramp(200, "u1"), ramp(9, "u1")], axis=-1)
    for deflate in (False, True):
        assert np.array_equal(np.asarray(open_image(tiff(colours, planes=2, deflate=deflate))), colours)
    deep = np.stack([ramp(65535), ramp(40000), ramp(30000)], axis=-1)
    assert np.array_equal(np.asarray(open_image(tiff(deep, planes=2, deflate=True))), deep >> 8)


@pytest.mark.parametrize("opaque", [65535, 4095])
def test_deep_colours_with_transparency(opaque: int) -> None:
    clear = np.full((6, 10), opaque, "u2")
    clear[0] = 0
    expected = np.floor(ramp(4095) * 255.0 / 4095 + 0.5)
    expected[0] = 255
    colour = np.concatenate([grey_as_colour(ramp(4095)), clear[..., None]], axis=-1)
    assert np.array_equal(levels(deep_png(colour)), expected)
    assert np.array_equal(levels(deep_png(np.stack([ramp(4095), clear], axis=-1))), expected)


def test_floats_from_0_to_1() -> None:
    values = RAMP.astype("f4")
    for data in (tiff(values), tiff(values, ">"), encoded(Image.fromarray(values), "TIFF")):
        assert np.array_equal(levels(data), np.floor(RAMP.astype("f4") * 255.0 + 0.5))
        assert note(data) == "float values, range found 0 to 1"
    assert levels(tiff(np.full((4, 4), 0.5, "f4"))).tolist() == [[128] * 4] * 4


OTHERS = [RAMP.astype("f4") * 20 - 3, RAMP.astype("f4") * 255, ramp(4000, "i2") - 1024, ramp(10**6, "i4")]


@pytest.mark.parametrize("values", [*OTHERS, (RAMP * 4e9).astype("u4")])
def test_other_ranges_go_from_the_smallest_to_the_largest(values: NDArray) -> None:
    data = tiff(values)
    found = levels(data)
    assert (found.min(), found.max()) == (0, 255)
    assert np.abs(found - RAMP * 255).max() <= 0.6
    assert note(data).endswith("values, range found smallest to largest value")


def test_one_value_alone() -> None:
    assert not levels(tiff(np.full((4, 4), 7, "f4"))).any()
    assert not levels(tiff(np.full((4, 4), -7, "i2"))).any()
    assert not levels(deep_png(np.zeros((4, 4), "u2"))).any()
    assert levels(deep_png(np.full((4, 4), 4095, "u2"))).tolist() == [[255] * 4] * 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    values = RAMP.astype("f4")
    values[2, 3] = value
    with pytest.raises(ImageError, match="NaN or infinite") as caught:
        open_image(tiff(values))
    assert caught.value.cause == "undecodable"


def test_white_stored_as_zero() -> None:
    assert np.array_equal(levels(tiff(ramp(4095), t262=0)), 255 - levels(tiff(ramp(4095))))
    assert np.array_equal(levels(tiff(RAMP.astype("f4"), t262=0)), 255 - levels(tiff(RAMP.astype("f4"))))


def test_bits_that_a_tiff_gives() -> None:
    """Two values of 12 bits in three bytes; the largest would fit 10."""
    values = ramp(1000)
    pairs = values.reshape(6, 5, 2).astype("u4")
    packed = pairs[..., 0] << 12 | pairs[..., 1]
    stored = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1).reshape(6, 15).astype("u1")
    data = tiff(stored, t256=10, t258=12)
    assert np.array_equal(levels(data), np.floor(values * 255.0 / 4095 + 0.5))
    assert note(data) == "12-bit values, range as the file says 12 bits"


def test_bits_that_a_png_gives() -> None:
    """By the standard they are spread over 16; what is not, is taken as it is where it fits."""
    said = chunk(b"sBIT", b"\x0c")
    dark = ramp(1000)
    assert np.array_equal(levels(deep_png(dark, said)), np.floor(dark * 255.0 / 4095 + 0.5))
    assert note(deep_png(dark, said)) == "16-bit values, range as the file says 12 bits"
    for spread in (dark << 4, dark << 4 | dark >> 8):
        assert np.array_equal(levels(deep_png(spread, said)), np.floor(spread * 255.0 / 65535 + 0.5))
        assert note(deep_png(spread, said)) == "16-bit values, range as the file says 16 bits"
        assert np.array_equal(np.asarray(open_image(deep_png(grey_as_colour(spread), said)))[..., 0], spread >> 8)
    assert note(deep_png(ramp(9999), said)) == "16-bit values, range found 14 bits"
    assert note(deep_png(dark, chunk(b"sBIT", b"\x10"))).endswith("as the file says 16 bits")


def test_transparent_values_of_deep_grey() -> None:
    values = ramp(4095)
    data = deep_png(values, chunk(b"tRNS", int(values[0, 0]).to_bytes(2)))
    assert levels(data)[0, 0] == 255
    assert np.array_equal(levels(data)[1:], levels(deep_png(values))[1:])


def test_netpbm_gives_its_largest_value() -> None:
    assert levels(b"P5 2 1 4095\n" + bytes([0x07, 0xFF, 0, 0])).tolist() == [[127, 0]]
    assert levels(b"P5 1 1 65535\n" + bytes([0x0F, 0xFF])).tolist() == [[16]]


@pytest.mark.parametrize(("data", "said"), [
    (tiff(RAMP.astype("f8")), "floats of 64 bits"),
    (tiff(ramp(4095), ">", t262=0), "integers of 16 bits, with white as 0"),
    (tiff(grey_as_colour(RAMP).astype("f4")), "floats of 32 bits"),
    (tiff(grey_as_colour(ramp(4095)), planes=2), "16 bits a colour, each apart"),
    (tiff(grey_as_colour(ramp(4095)), planes=2, deflate=True), "16 bits a colour that hold small values"),
])  # fmt: skip
def test_what_cannot_be_read_right_is_left_out_and_named(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said) as caught:
        open_image(data)
    assert caught.value.cause == "undecodable"


def test_pictures_of_8_bits_have_no_note() -> None:
    assert examine_image(encoded(Image.new("L", (4, 4), 3), "PNG")).notes == ()
    assert examine_image(png(1, 1, 1, 0, b"\0\x80")).notes == ()


@settings(deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20))
def test_levels_keep_the_order(values: list[int]) -> None:
    array = np.array(values, np.int32)
    found, _ = to_8_bits(array)
    order = np.argsort(array, kind="stable")
    assert (np.diff(found[order].astype(int)) >= 0).all()


@given(st.integers(8, 16), st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=9))
def test_what_is_spread_over_16_bits_is_known(bits: int, values: list[int]) -> None:
    few = np.array(values, np.uint16) >> (16 - bits)
    spread = few << (16 - bits)
    assert are_scaled_up(spread, bits)
    assert are_scaled_up(spread | few >> (2 * bits - 16), bits)


def test_what_is_not_spread_is_known() -> None:
    assert not are_scaled_up(np.array([0, 1, 4095], np.uint16), 12)
    assert not are_scaled_up(np.array([0x1231, 0x1230], np.uint16), 12), "each alone would be"
