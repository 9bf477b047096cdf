"""Picture bytes as they go into a shard."""

import io

from PIL import Image, ImageOps, UnidentifiedImageError

from vglm_train.image import ImageError, open_image

KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # bytes pass through untouched
REWRITTEN = {"BMP": "bmp", "TIFF": "tiff", "GIF": "gif", "PPM": "ppm"}  # become PNG, first frame
ORIENTATION = 0x0112  # EXIF tag; from 5 on a picture lies on its side
PNG_MODES = {"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"}


def extension(data: bytes) -> str | None:
    """The file extension of picture bytes, told from their content; none for an unknown format."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return {**KEPT, **REWRITTEN}.get(image.format or "")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _as_png(data: bytes) -> bytes:
    """The first frame, upright, as PNG; 16-bit greys keep their depth."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode not in PNG_MODES:
                image = image.convert("RGB")
            out = io.BytesIO()
            image.save(out, "PNG", exif=b"")
    except Image.DecompressionBombError:
        raise ImageError("bomb") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError("undecodable") from error
    return out.getvalue()


def decode(data: bytes, smallest: int | None = None) -> Image.Image:
    """An upright RGB picture of any format that `prepare` takes. `smallest` and ImageError as `open_image`."""
    return open_image(_as_png(data) if extension(data) in REWRITTEN.values() else data, smallest)


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height as seen, from the header alone. ImageError "undecodable" where there is none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except Image.DecompressionBombError:
        raise ImageError("bomb") from None
    except Exception as error:  # Pillow's readers raise nearly anything on hostile bytes
        raise ImageError("undecodable", f"{type(error).__name__}: {error}") from error


def _shrink(image: Image.Image, short_side: int, kind: str) -> tuple[str, bytes]:
    factor = short_side / min(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    out = io.BytesIO()
    small = image.resize(size, Image.Resampling.LANCZOS)
    if kind == "png":
        small.save(out, "PNG")
        return "png", out.getvalue()
    small.save(out, "JPEG", quality=95, subsampling=0)
    return "jpg", out.getvalue()


def prepare(data: bytes, short_side: int | None = None) -> tuple[str, bytes]:
    """(extension, bytes) of a picture for a shard, after decoding it in full to know that it can be.

    JPEG, PNG and WEBP bytes are returned untouched; BMP, TIFF, GIF and PPM become PNG. With `short_side`, a larger
    picture is shrunk to it (upright, RGB; PNG stays PNG, the others become JPEG 95). Raises ImageError with its cause.
    """
    kind = extension(data)
    if kind in REWRITTEN.values():
        kind, data = "png", _as_png(data)
    image = open_image(data)
    if kind is None:
        raise ImageError("undecodable")
    if short_side is not None and min(image.size) > short_side:
        return _shrink(image, short_side, kind)
    return kind, data
