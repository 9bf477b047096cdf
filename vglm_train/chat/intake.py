"""Pictures as strangers send them: as a data: URL or as base64, within limits that hold before anything is decoded.

What a picture is, its bytes tell. A type that is declared beside them must say the same.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field

from vglm_train.config.validation import positive
from vglm_train.errors import UserError
from vglm_train.file_kind import kind_of
from vglm_train.image import FORMATS, ImageError, ImageLimits, check_image

TYPES = {f"image/{suffix}": name for name, suffixes in FORMATS.items() for suffix in suffixes} | {
    "image/pjpeg": "JPEG",
    "image/x-png": "PNG",
    "image/x-ms-bmp": "BMP",
    "image/x-portable-anymap": "PPM",
    "image/x-portable-pixmap": "PPM",
    "image/x-portable-graymap": "PPM",
    "image/x-portable-bitmap": "PPM",
    "application/dicom": "DICOM",
}

_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.IGNORECASE)


class TooLarge(UserError):  # noqa: N818
    """More than a limit allows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Intake:
    """Takes pictures within `image`, at most `pictures` of them in a conversation."""

    image: ImageLimits = field(default_factory=ImageLimits)
    pictures: int = 16

    def __post_init__(self) -> None:
        positive(self, "pictures")
        positive(self.image, "bytes", "pixels", "side", "frames")

    def check_count(self, number: int) -> None:
        """TooLarge if a conversation has more pictures than it may."""
        if number > self.pictures:
            raise TooLarge(f"{number} pictures; a conversation may have {self.pictures}. Send fewer.")

    def check(self, data: bytes, name: str = "the picture") -> bytes:
        """The same bytes if they may be decoded. TooLarge or UserError that names the picture."""
        try:
            check_image(data, self.image)
        except ImageError as error:
            kind = TooLarge if error.cause == "bomb" else UserError
            raise kind(f"{name}: cannot be taken ({error.reason}).") from error
        return data

    def read_base64(self, text: str, name: str = "the picture") -> bytes:
        """Bytes of a picture. Lines may be broken. TooLarge or UserError that names the picture."""
        text = "".join(text.split())
        if len(text) * 3 // 4 > self.image.bytes + 2:
            raise TooLarge(f"{name}: cannot be taken (more than {self.image.bytes:,} bytes): store it smaller.")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise UserError(f"{name}: is no base64; encode the picture file's bytes.") from None
        return self.check(data, name)

    def read_data_url(self, url: str, name: str = "the picture") -> bytes:
        """Bytes of the picture in data:image/TYPE;base64,... TooLarge or UserError that names the picture."""
        head = _DATA_URL.match(url)
        if head is None or head[2].lower().split(";")[-1] != "base64":
            raise UserError(f"{name}: a data: URL must begin with data:image/TYPE;base64, and hold a picture.")
        declared = head[1].strip().lower()
        if declared not in TYPES:
            raise UserError(
                f"{name}: {declared[:40] or 'no type'!r} is declared; what is read is {', '.join(FORMATS)}."
            )
        data = self.read_base64(url[head.end() :], name)
        kind = kind_of(data)
        if kind.picture != TYPES[declared]:
            raise UserError(f"{name}: {declared} is declared, but it is {kind.what}; declare what it is.")
        return data
