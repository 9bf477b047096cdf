"""The pictures of a request, as bytes."""

import base64
import binascii

from vglm_train.errors import UserError


def picture_bytes(source: str, where: str) -> bytes:
    """A data: URL or plain base64 -> the bytes of a picture file.

    where: what holds it, for messages. UserError for any other address: the server opens no files and fetches nothing.
    """
    head, comma, text = source.partition(",")
    if not comma:
        text = head
        if ":" in head:
            raise _refused(where, head.partition(":")[0])
    elif not head.lower().startswith("data:"):
        raise _refused(where, head.partition(":")[0])
    else:
        kind, *marks = head[len("data:") :].lower().split(";")
        if not kind.startswith("image/") or "base64" not in marks:
            raise UserError(f"{where}: a data: URL must begin with data:image/TYPE;base64, and hold a picture.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{where}: is no base64; encode the picture file's bytes.") from None


def _refused(where: str, scheme: str) -> UserError:
    if scheme.lower() in ("http", "https"):
        return UserError(
            f"{where}: this server fetches no pictures; send the picture itself, as a data: URL in base64."
        )
    return UserError(f"{where}: must be a data: URL that holds the picture in base64, and no other address.")
