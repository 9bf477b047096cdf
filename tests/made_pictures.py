"""Picture files that Pillow does not write: deep PNG and TIFF with the tags that a test wants."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TIFF_FORMS = {"u": 1, "i": 2, "f": 3}  # SampleFormat by numpy's kind


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, chunks: bytes = b"") -> bytes:
    """`rows`: as stored, a filter's number before each; `chunks`: further ones before the data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def deep_png(values: NDArray, chunks: bytes = b"") -> bytes:
    """16-bit values [h,w], or [h,w,2], [h,w,3], [h,w,4]; a row's filter is Sub, which looks at the pixel before."""
    values = values.reshape(*values.shape[:2], -1).astype(">u2")
    height, width, channels = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    raw = np.frombuffer(values.tobytes(), np.uint8).reshape(height, -1)
    before = np.pad(raw, ((0, 0), (2 * channels, 0)))[:, : raw.shape[1]]
    rows = np.pad(raw - before, ((0, 0), (1, 0)), constant_values=1)
    return png(width, height, 16, colour, rows.astype(np.uint8).tobytes(), chunks)


def tiff(values: NDArray, order: str = "<", planes: int = 1, deflate: bool = False, **tags: int) -> bytes:
    """One strip [h,w] or [h,w,3], or one for each plane; `tags`: further ones by t and their number, as t262=0."""
    height, width, *channels = values.shape
    count = channels[0] if channels else 1
    bits = values.dtype.itemsize * 8
    stored = np.moveaxis(values, -1, 0) if channels and planes == 2 else values
    parts = list(stored) if channels and planes == 2 else [stored]
    strips = [np.ascontiguousarray(part).astype(values.dtype.newbyteorder(order)).tobytes() for part in parts]
    strips = [zlib.compress(strip) for strip in strips] if deflate else strips
    starts = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    data = b"".join(strips)
    entries: dict[int, tuple[str, list[int]]] = {
        256: ("H", [width]), 257: ("H", [height]), 258: ("H", [bits] * count), 259: ("H", [8 if deflate else 1]),
        262: ("H", [2 if count > 1 else 1]), 273: ("L", starts), 277: ("H", [count]), 278: ("H", [height]),
        279: ("L", [len(strip) for strip in strips]), 284: ("H", [planes]),
        339: ("H", [TIFF_FORMS[values.dtype.kind]] * count),
    }  # fmt: skip
    entries |= {int(name[1:]): ("H", [value] * count if name == "t258" else [value]) for name, value in tags.items()}
    start = 8 + len(data) + len(data) % 2
    directory, extra = struct.pack(order + "H", len(entries)), b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, (form, numbers) in sorted(entries.items()):
        content = struct.pack(f"{order}{len(numbers)}{form}", *numbers)
        if len(content) > 4:
            content, extra = struct.pack(order + "L", after + len(extra)), extra + content
        directory += struct.pack(order + "HHL", tag, {"H": 3, "L": 4}[form], len(numbers)) + content.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "L", start)
    return head + data.ljust(start - 8, b"\0") + directory + bytes(4) + extra
