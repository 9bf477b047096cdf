"""libjpeg-turbo and torch make the pixels that Pillow makes, to two levels, and refuse what it refuses."""

import hashlib
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_pictures import deep_png, encoded
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vglm_train.config.data import Image as Augmentation
from vglm_train.data.sample import sample_pixels
from vglm_train.image import FORMATS, ImageError, crop_pixels, eval_pixels, open_image, random_crop, whole_pixels
from vglm_train.image.decode import decode
from vglm_train.image.part import Part

MOST = 2  # levels between two ways to resize: each rounds twice, and torch's weights have 16 bits
RATIO = (0.5, 1.0)


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def black_and_white(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Where bicubic overshoots most."""
    return (noise(width, height, seed) > 127).astype(np.uint8) * 255


def gradients(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    across = np.add.outer(np.arange(height), np.arange(width))[..., None]
    return (across * np.array([1, 2, 3]) % 256).astype(np.uint8)


def smooth(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """As photos are: near pixels are alike, with grain."""
    coarse = Image.fromarray(noise(width // 9 + 2, height // 9 + 2, seed)).resize((width, height), 3)
    grain = np.random.default_rng(seed).normal(0, 4, (height, width, 1))
    return (np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)


def text(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    image = Image.new("RGB", (width, height), "white")
    for line in range(0, height, 14):
        ImageDraw.Draw(image).text((3, line), f"{line} findings: no effusion " * 8, fill="black")
    return np.array(image)


def apart(one: torch.Tensor, other: torch.Tensor) -> int:
    assert one.shape == other.shape
    assert one.dtype == other.dtype == torch.uint8
    return int((one.int() - other.int()).abs().max())


@pytest.mark.parametrize("make", [noise, black_and_white, gradients, smooth, text])
@pytest.mark.parametrize("size", [(341, 256), (500, 375), (97, 301), (64, 64), (300, 31), (7, 5), (1, 40)])
@pytest.mark.parametrize("side", [32, 224])
def test_crops_at_full_size(make, size: tuple[int, int], side: int) -> None:
    """Of files without loss; shrunk and enlarged, at odd places."""
    data = encoded(Image.fromarray(make(*size)), "PNG")
    for seed in range(3):
        one, other = random.Random(seed), random.Random(seed)
        old, new = crop_pixels(data, side, RATIO, True, one), crop_pixels(data, side, RATIO, True, other, "turbo")
        assert apart(new, old) <= MOST
        assert one.getstate() == other.getstate()


@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "DICOM"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_format_and_turn(kind: str, mode: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(Image.fromarray(smooth(75, 50)).convert(mode), kind, exif=exif)
    assert apart(whole_pixels(data, 32, "turbo"), whole_pixels(data, 32)) <= MOST
    for seed in range(3):
        old, new = (crop_pixels(data, 32, RATIO, True, random.Random(seed), name) for name in ("pillow", "turbo"))
        assert apart(new, old) <= MOST


JPEGS: dict[str, dict] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "coarse": {"quality": 10},
    "restarts": {"restart_marker_blocks": 3},
    "own tables": {"optimize": True},
    "profile": {"icc_profile": b"\0" * 4000},
    "comment": {"comment": b"x" * 300},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_kinds_of_jpeg(kind: str, mode: str) -> None:
    data = encoded(Image.fromarray(smooth(190, 121)).convert(mode), "JPEG", **JPEGS[kind])
    assert apart(whole_pixels(data, 64, "turbo"), whole_pixels(data, 64)) <= MOST


def test_jpeg_of_rgb_and_of_several_pictures() -> None:
    image = Image.fromarray(smooth(90, 70))
    several = io.BytesIO()
    image.save(several, "MPO", save_all=True, append_images=[Image.new("RGB", (90, 70))])
    for data in (encoded(image, "JPEG", keep_rgb=True), several.getvalue()):
        assert apart(whole_pixels(data, 64, "turbo"), whole_pixels(data, 64)) <= MOST


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_of_16_bits(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (60, 80, channels)).astype(np.uint16)
    data = deep_png(values if channels > 1 else values[..., 0])
    assert apart(whole_pixels(data, 32, "turbo"), whole_pixels(data, 32)) <= MOST


def test_grey_is_what_colour_makes_of_it() -> None:
    grey = Image.fromarray(smooth(300, 200)).convert("L")
    for kind in ("PNG", "JPEG"):
        data = encoded(grey, kind)
        coloured = eval_pixels(open_image(data), 96, "turbo")
        assert torch.equal(whole_pixels(data, 96, "turbo"), coloured)


def test_a_picture_of_the_size_stays_as_it_is() -> None:
    picture = noise(64, 64)
    made = eval_pixels(Image.fromarray(picture), 64, "turbo")
    assert np.array_equal(made.permute(1, 2, 0).numpy(), picture)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_crops_of_large_jpegs_are_the_same_place(turn: int, mode: str) -> None:
    """Decoded at 1/2 to 1/8, edges are rounded to whole pixels of that: up to half a pixel of the result."""
    exif = Image.Exif()
    exif[0x0112] = turn
    picture = Image.fromarray(noise(9, 7)).resize((1203, 905), Image.Resampling.BICUBIC).convert(mode)
    data = encoded(picture, "JPEG", quality=95, exif=exif)
    for seed, side in ((0, 300), (1, 200), (2, 100), (3, 48)):
        old, new = (crop_pixels(data, side, RATIO, True, random.Random(seed), name).float() for name in (None, "turbo"))
        steps = [old.diff(dim=axis).abs() for axis in (1, 2)]
        moved = (new - old).abs()
        assert float(moved.max()) <= max(float(step.max()) for step in steps) + 6  # JPEG's own filter
        assert float(moved.mean()) <= sum(float(step.mean()) for step in steps) / 2 + 1


@pytest.mark.parametrize(
    ("width", "height", "side"), [(1333, 1000, 224), (2001, 1501, 97), (903, 677, 200), (640, 480, 32)]
)
@pytest.mark.parametrize("turn", [1, 3, 8])
def test_large_jpegs_are_decoded_as_small_as_pillow_would(width: int, height: int, side: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(Image.fromarray(smooth(width, height)), "JPEG", exif=exif)
    for seed in range(3):
        part = Part(side, lambda w, h, seed=seed: random_crop(w, h, RATIO, random.Random(seed)))
        small, _ = decode(data, part.limit)
        assert small.size != part.whole
        expected = eval_pixels(small.crop(part.rounded(*small.size)), side)
        assert apart(crop_pixels(data, side, RATIO, False, random.Random(seed), "turbo"), expected) <= MOST


def test_evaluation_decodes_at_full_size() -> None:
    data = encoded(Image.fromarray(smooth(1600, 1200)), "JPEG", quality=95)
    assert apart(whole_pixels(data, 64, "turbo"), whole_pixels(data, 64)) <= MOST


def outcome(data: bytes, decoder) -> torch.Tensor | tuple[str, str]:
    try:
        return whole_pixels(data, 32, decoder)
    except ImageError as error:
        return error.cause, str(error)


def same_outcome(data: bytes) -> bool:
    """Whether both can use the picture; the words and pixels are compared."""
    old, new = outcome(data, None), outcome(data, "turbo")
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        assert apart(new, old) <= MOST
        return True
    assert old == new
    return False


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_damage_is_what_pillow_calls_damage(options: dict, mode: str) -> None:
    """Cut anywhere, bytes changed, bytes lost, an end without its marker, bytes after it."""
    whole = encoded(Image.fromarray(smooth(90, 70)).convert(mode), "JPEG", **options)
    rng = random.Random(1)
    cut = [same_outcome(whole[: rng.randrange(len(whole))]) for _ in range(60)]
    assert cut.count(False) > 50
    usable = []
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(2, len(changed))] = rng.randrange(256)
        usable.append(same_outcome(bytes(changed)))
        start = rng.randrange(2, len(whole))
        usable.append(same_outcome(whole[:start] + whole[start + rng.randint(1, 40) :]))
    assert 50 < sum(usable) < 300
    assert same_outcome(whole + bytes(1000))
    assert same_outcome(whole + whole)
    for end in (whole[:-2], whole[:-1], whole[:-2] + bytes(8)):
        same_outcome(end)


def test_photos(shared: Path) -> None:
    """300 photos: at most two levels, wherever nothing is decoded smaller."""
    worst = 0
    for number, path in enumerate(sorted((shared / "data/flickr/images").glob("*.jpg"))[:300]):
        data = path.read_bytes()
        old, new = (crop_pixels(data, 224, RATIO, True, random.Random(number), name) for name in (None, "turbo"))
        if min(Image.open(path).size) < 2 * 224:
            worst = max(worst, apart(new, old))
        worst = max(worst, apart(whole_pixels(data, 224, "turbo"), whole_pixels(data, 224)))
    assert 0 < worst <= MOST


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("pictures", [1, 2])
def test_bytes_of_a_pixel_lie_side_by_side(mode: str, pictures: int) -> None:
    """As torch's kernel writes them, and as batches of equal layout are joined without a copy that turns them."""
    data = encoded(Image.fromarray(smooth(90, 70)).convert(mode), "JPEG")
    for seed in range(4):  # mirrored and not; all decoded at full size
        made = sample_pixels([data] * pictures, 48, Augmentation(decoder="turbo"), random.Random(seed))
        assert made.stride() == (3 * 48 * 48, 1, 3 * 48, 3)
        assert torch.cat([made, made]).stride() == made.stride()
        planes = sample_pixels([data] * pictures, 48, Augmentation(decoder="pillow"), random.Random(seed))
        assert apart(made, planes) <= MOST


def digest() -> str:
    """Of crops of pictures of several kinds."""
    found = hashlib.sha256()
    for number, make in enumerate((noise, black_and_white, gradients, smooth, text)):
        for size in ((341, 256), (97, 301), (9, 7)):
            for mode in ("RGB", "L"):
                image = Image.fromarray(make(*size)).convert(mode)
                for kind in ("PNG", "JPEG"):
                    rng = random.Random(number)
                    found.update(crop_pixels(encoded(image, kind), 64, RATIO, True, rng, "turbo").numpy().tobytes())
    return found.hexdigest()


def test_a_processor_without_vector_instructions_makes_the_same() -> None:
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "JSIMD_FORCENONE": "1"}
    code = "import test_resize; print(test_resize.digest())"
    said = subprocess.run(
        [sys.executable, "-c", code], env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == digest()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(1, 40), (40, 1), (1, 1), (2, 60)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_thin_pictures_that_are_turned(mode: str, width: int, height: int, turn: int) -> None:
    """An axis of length 1 can have any stride, which torch would believe."""
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(Image.fromarray(noise(width, height)).convert(mode), "JPEG", exif=exif)
    found, wanted = (whole_pixels(data, 16, decoder).int() for decoder in ("turbo", "pillow"))
    assert (found - wanted).abs().max() <= MOST
    assert torch.equal(whole_pixels(data, 16, "turbo").int(), found)
