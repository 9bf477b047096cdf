"""What a file is, told from its first bytes: for messages about files that are something else than their name says.

The only place that knows how formats begin. Who wanted a table or weights has advice of its own, by `name`.
"""

import re
from typing import NamedTuple

LOOKED_AT = 1024  # bytes from the start that tell


class FileKind(NamedTuple):
    """`name`: for a program. `what` it is, with its article. `advice`: what to do where a picture was meant, empty
    where that depends."""

    name: str
    what: str
    advice: str
    picture: str | None = None  # Pillow's name of the format, where it is a picture that is read here
    known: bool = True  # a format was recognised


AGAIN = "copy or fetch the file again"
_AS_PNG = "save it as PNG or JPEG first"
_UNPACK = "decompress it first"
_FRAME = "take a frame of it and save that as JPEG or PNG"

_EMPTY = FileKind("empty", "an empty file (0 bytes)", AGAIN)
_ZEROS = FileKind("zeros", "a file of zero bytes alone, as an unfinished copy leaves it", AGAIN, known=False)
_TEXT = FileKind("text", "text", "look into it; a server's error message often stands in place of a file", known=False)

_BOX = rb".{4}ftyp"  # how MP4 begins, and every format that is kept in its boxes
_KINDS: tuple[tuple[bytes, FileKind], ...] = (
    (rb".{128}DICM|\x02\0[\0-\x20]\0(UL|OB|UI)|\x08\0[\0-\x20]\0([CU][IS]|[\x04-\x20]\0\0\0)", FileKind(
        "dicom", "DICOM", "", "DICOM")),
    (rb"\xff\xd8\xff", FileKind("jpeg", "a JPEG picture", "", "JPEG")),
    (rb"\x89PNG\r\n\x1a\n", FileKind("png", "a PNG picture", "", "PNG")),
    (rb"GIF8[79]a", FileKind("gif", "a GIF picture", "", "GIF")),
    (rb"RIFF.{4}WEBP", FileKind("webp", "a WebP picture", "", "WEBP")),
    (rb"II[*+]\0|MM\0[*+]", FileKind("tiff", "a TIFF picture", "", "TIFF")),
    (rb"BM.{4}\0\0\0\0", FileKind("bmp", "a BMP picture", "", "BMP")),
    (_BOX + rb"avi[fs]", FileKind("avif", "an AVIF picture", "", "AVIF")),
    (rb"P[1-7fF][ \t\r\n#]", FileKind("ppm", "a PPM picture", "", "PPM")),
    (_BOX + rb"(hei[a-z]|hev[a-z]|mif1|msf1)", FileKind("heic", "a HEIC picture", _AS_PNG)),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", FileKind("jpeg2000", "a JPEG 2000 picture", _AS_PNG)),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", FileKind("jpegxl", "a JPEG XL picture", _AS_PNG)),
    (rb"8BPS", FileKind("photoshop", "a Photoshop document", _AS_PNG)),
    (rb"\0\0[\x01\x02]\0[^\0]\0", FileKind("icon", "an icon", _AS_PNG)),
    (rb"v/1\x01", FileKind("openexr", "an OpenEXR picture", _AS_PNG)),
    (rb".{344}(n\+1|ni1)\0", FileKind("nifti", "a NIfTI volume", "export slices of it as PNG first")),
    (rb"%PDF|%!PS|\xc5\xd0\xd3\xc6", FileKind("pdf", "a PDF or PostScript document", _AS_PNG)),
    (rb"\x1f[\x8b\x9d]", FileKind("gzip", "gzip data", f"{_UNPACK} (gzip -d)")),
    (rb"BZh[1-9]", FileKind("bzip2", "bzip2 data", f"{_UNPACK} (bzip2 -d)")),
    (rb"\xfd7zXZ\0", FileKind("xz", "xz data", f"{_UNPACK} (xz -d)")),
    (rb"\x28\xb5\x2f\xfd", FileKind("zstd", "zstd data", f"{_UNPACK} (zstd -d)")),
    (rb"\x04\x22\x4d\x18", FileKind("lz4", "lz4 data", f"{_UNPACK} (lz4 -d)")),
    (rb"PK\x03\x04|PK\x05\x06", FileKind("zip", "a zip archive", "unpack it first (unzip)")),
    (rb"7z\xbc\xaf\x27\x1c|Rar!", FileKind("archive", "a 7z or RAR archive", "unpack it first")),
    (rb".{257}ustar", FileKind("tar", "a tar archive", "unpack it first (tar xf)")),
    (_BOX, FileKind("video", "a video (MP4 or MOV)", _FRAME)),
    (rb"RIFF.{4}AVI |\x1aE\xdf\xa3|\0\0\x01[\xba\xb3]|FLV\x01|OggS", FileKind("video", "a video", _FRAME)),
    (rb"\x93NUMPY", FileKind("numpy", "a NumPy array", _AS_PNG)),
    (rb"\x89HDF\r\n", FileKind("hdf5", "an HDF5 file", _AS_PNG)),
    (rb"PAR1", FileKind("parquet", "a Parquet file", "convert reads it: vglm data convert")),
    (rb"ARROW1", FileKind("arrow", "an Arrow file", "")),
    (rb"\xd0\xcf\x11\xe0", FileKind("office", "a document or workbook of Microsoft Office", _AS_PNG)),
    (rb"SQLite format 3\0", FileKind("sqlite", "an SQLite data base", "")),
    (rb"GGUF", FileKind("gguf", "a GGUF file, llama.cpp's", "")),
    (rb"\x80[\x02-\x05]", FileKind("pickle", "a pickle", "")),
    (rb"version https://git-lfs", FileKind(
        "lfs", "a Git LFS pointer in place of the file", "fetch the file itself (git lfs pull)")),
    (rb"(?i)<!doctype html|<html|<head|<\?xml[^>]*>\s*<!doctype html", FileKind(
        "html", "a web page (HTML)", f"a page, often an error or a login, came in place of the file: {AGAIN}")),
    (rb"(?i)<svg|<\?xml.*<svg", FileKind("svg", "an SVG drawing", _AS_PNG)),
    (rb"<\?xml|<[A-Za-z]\w*>", FileKind("xml", "an XML document", f"often a server's error message: {AGAIN}")),
    (rb"/9j/|iVBORw0KGgo|R0lGOD|UklGR|data:image/", FileKind(
        "base64", "a picture as base64 text", "decode it to a file first")),
    (rb'\{\s*["}]|\[\s*[\[{"\d\]]', FileKind("json", "JSON", f"often a server's error message: {AGAIN}")),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern, re.DOTALL), kind) for pattern, kind in _KINDS)
_MARK = b"\xef\xbb\xbf"


def kind_of(data: bytes) -> FileKind:
    """What `data`, a file from its start, is. Of a long file its first LOOKED_AT bytes are enough."""
    head = data[:LOOKED_AT]
    if not head:
        return _EMPTY
    if not head.strip(b"\0"):
        return _ZEROS
    words = head.removeprefix(_MARK).lstrip()
    for pattern, kind in _COMPILED:
        if pattern.match(head) or pattern.match(words):
            return kind
    if (text := _text(head)) is not None:
        return _TEXT._replace(what=f"text, {text[:40]!r}")
    return FileKind("unknown", f"of no known kind (it begins with {head[:8].hex(' ')})", "", known=False)


def _text(head: bytes) -> str | None:
    """The words of a text; None where it is none. A character that is cut at the end does not count."""
    for end in range(len(head), max(0, len(head) - 4), -1):
        try:
            text = head[:end].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return " ".join(text.split()) if all(letter.isprintable() or letter in "\t\r\n\f" for letter in text) else None
    return None
