"""How a picture looks: a perceptual hash to find candidates, and a thumbnail to tell whether two are one picture.

The hash is pHash of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): the 8 x 8
lowest frequencies of a 32 x 32 DCT, each above or below their median. Two thumbnails are compared after the second is
moved and stretched onto the first (Gauss-Newton on intensities, Lucas and Kanade 1981), by the correlation of their
gradients: pictures of one kind, X-rays for instance, agree in brightness but not in edges.

n pictures, s = 48 the thumbnail's side, c = 8 the side of its colours.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE, COLOURS = 48, 8
DECODED = 128  # pixels: the shorter side that a large JPEG keeps when it is decoded for this
STEPS = 8  # of the alignment
FARTHEST = 0.05  # of the side, that an alignment may move; it may stretch by STRETCH
STRETCH = 0.08
FLAT = 2.0  # grey levels: a thumbnail that varies less has no edges to compare
HOPELESS = 0.6  # agreement after alignment one way, below which the other way is not tried
SAME_FLAT = 8.0  # grey levels between two flat ones that count as one
ROUGH = 0.6  # rough agreement below which a candidate is not aligned
COLOUR = 32.0  # levels of Cb or Cr that one point of two equal pictures may differ by
THUMBNAIL = np.dtype([("grey", "u1", (SIDE, SIDE)), ("colours", "u1", (2, COLOURS, COLOURS))])
_WAVES = 32

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating]


class ImageHash(NamedTuple):
    """Of one picture."""

    hash: int  # 64 bits
    grey: Bytes  # [s,s]
    colours: Bytes  # [2,c,c] Cb, Cr


def image_hash(picture: Image.Image) -> ImageHash:
    """Hash and thumbnail of an RGB picture of any size, squeezed into a square."""
    luma, *chroma = picture.convert("YCbCr").split()
    grey = _shrunk(luma, SIDE)
    waves = np.cos(np.pi / _WAVES * (np.arange(_WAVES)[None] + 0.5) * np.arange(8)[:, None])  # DCT-II, lowest 8
    low = (waves @ _shrunk(luma, _WAVES).astype(np.float64) @ waves.T).ravel()
    bits = low > np.median(low[1:])  # the first is the mean brightness
    number = int.from_bytes(np.packbits(bits).tobytes())
    return ImageHash(number, grey, np.stack([_shrunk(plane, COLOURS) for plane in chroma]))


def _shrunk(plane: Image.Image, side: int) -> Bytes:
    return np.asarray(plane.resize((side, side), Image.Resampling.LANCZOS))


def agreement(first: Bytes, second: Bytes, enough: float = 1.0) -> Floats:
    """Grey thumbnails [n,s,s] twice -> [n] from -1 to 1, how well their edges agree, as they are or after alignment.

    Where `enough` is reached before the last attempt, the rest is spared; so it is where the first shows no hope.
    """
    a, b = first.astype(np.float32), second.astype(np.float32)
    found = _cosine(_gradients(a), _gradients(b))
    for still, moving, hope in ((a, b, -1.0), (b, a, HOPELESS)):
        rest = np.flatnonzero((found < enough) & (found >= hope))
        if len(rest):
            found[rest] = np.maximum(found[rest], _aligned(still[rest], moving[rest]))
    flat = np.stack([part.std(axis=(1, 2)) < FLAT for part in (a, b)])
    same = np.abs(a.mean(axis=(1, 2)) - b.mean(axis=(1, 2))) <= SAME_FLAT
    return np.where(flat.all(0), np.where(same, 1.0, 0.0), np.where(flat.any(0), 0.0, found))


def rough_agreement(first: Bytes, second: Bytes) -> Floats:
    """The same without alignment and by intensities: cheap, and never far below 0.8 for one picture."""
    a, b = first.reshape(len(first), -1).astype(np.float32), second.reshape(len(second), -1).astype(np.float32)
    return _cosine(a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True))


def colour_distance(first: Bytes, second: Bytes) -> Floats:
    """Colours [n,2,c,c] twice -> [n], the largest difference of a point, in levels."""
    distance: Floats = np.abs(first.astype(np.float64) - second).max(axis=(1, 2, 3))
    return distance


def compare(first: NDArray[Any], second: NDArray[Any], enough: float) -> NDArray[np.float64]:
    """Thumbnails [n] twice -> [n] agreement, 0 where colours or a rough look already say no."""
    near = colour_distance(first["colours"], second["colours"]) <= COLOUR
    scores = np.zeros(len(first))
    rough = rough_agreement(first["grey"], second["grey"])
    flat = (first["grey"].std((1, 2)) < FLAT) | (second["grey"].std((1, 2)) < FLAT)
    rest = np.flatnonzero(near & ((rough >= ROUGH) | flat))
    if len(rest):
        scores[rest] = agreement(first["grey"][rest], second["grey"][rest], enough)
    return scores


def _aligned(target: Floats, moving: Floats) -> Floats:
    """[n,s,s] -> [n] the best agreement of gradients on the way to the best fit of `moving` onto `target`."""
    side = target.shape[-1]
    middle = (side - 1) / 2
    steps = np.arange(side, dtype=np.float32) - np.float32(middle)
    y, x = np.meshgrid(steps, steps, indexing="ij")
    fit: Floats = np.zeros((len(target), 4), np.float32)  # stretch and shift of x, then of y
    best: Floats = np.full(len(target), -1.0, np.float32)
    wanted = _centred(target)
    for _ in range(STEPS):
        columns = np.float32(middle) + x * (1 + fit[:, 0, None, None]) + fit[:, 1, None, None]
        rows = np.float32(middle) + y * (1 + fit[:, 2, None, None]) + fit[:, 3, None, None]
        sampled, right, down = _sampled(moving, rows, columns)
        best = np.maximum(best, _cosine(_gradients(target), _gradients(sampled)))
        now = _centred(sampled)
        gain = (wanted * now).sum((1, 2)) / ((now * now).sum((1, 2)) + 1e-9)
        rest = (wanted / np.maximum(gain, 0.2)[:, None, None] - now).reshape(len(target), -1)
        slopes = np.stack([right * x, right, down * y, down], axis=1).reshape(len(target), 4, -1)
        fit = fit + _step(slopes - slopes.mean(2, keepdims=True), rest)
        fit[:, ::2] = fit[:, ::2].clip(-STRETCH, STRETCH)
        fit[:, 1::2] = fit[:, 1::2].clip(-FARTHEST * side, FARTHEST * side)
    return best


def _step(slopes: Floats, rest: Floats) -> Floats:
    """Damped least squares: slopes [n,4,m], rest [n,m] -> [n,4]."""
    normal = slopes @ slopes.transpose(0, 2, 1)
    damping = 1e-3 * np.trace(normal, axis1=1, axis2=2)[:, None, None] / 4 + 1e-9
    return np.linalg.solve(normal + damping * np.eye(4, dtype=np.float32), slopes @ rest[..., None])[..., 0]


def _sampled(pictures: Floats, rows: Floats, columns: Floats) -> tuple[Floats, Floats, Floats]:
    """Bilinear values of [n,s,s] at [n,s,s] points, and their slopes to the right and down."""
    limit = np.float32(pictures.shape[-1] - 1.001)
    rows, columns = rows.clip(0, limit), columns.clip(0, limit)
    y, x = rows.astype(np.int32), columns.astype(np.int32)
    down, right = rows - y.astype(np.float32), columns - x.astype(np.float32)
    each = np.arange(len(pictures))[:, None, None]
    a, b, c, d = (pictures[each, y + i, x + j] for i in (0, 1) for j in (0, 1))
    above, below = a + (b - a) * right, c + (d - c) * right
    return above + (below - above) * down, (b - a) * (1 - down) + (d - c) * down, below - above


def _centred(pictures: Floats) -> Floats:
    centred: Floats = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    return centred


def _gradients(pictures: Floats) -> Floats:
    """[n,s,s] -> [n,m]: central differences, to the right and down."""
    right = pictures[:, 1:-1, 2:] - pictures[:, 1:-1, :-2]
    down = pictures[:, 2:, 1:-1] - pictures[:, :-2, 1:-1]
    return np.stack([right, down], axis=1).reshape(len(pictures), -1)


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """[n,m] twice -> [n]."""
    cosine: NDArray[Any] = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1) + 1e-9)
    return cosine
