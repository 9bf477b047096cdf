"""Salted hashes in place of what says who and when, and which tags a file has.

The hash of a patient's number alone would not hide it: whoever tries all numbers finds it. So a salt of 32 random bytes
goes into it, which is made once for each user of a machine and lies in no folder that is passed on.
"""

import hashlib
import hmac
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vglm_train.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

LENGTH = 32  # bytes of a salt
_SHOWN = 16  # hexadecimal digits of a hash: 64 bits


class Salt:
    """What makes hashes that nobody else can make."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def hash(self, kind: str, value: str) -> str:
        """16 hexadecimal digits, the same for the same value of a kind."""
        return self._digest(kind, value).hex()[:_SHOWN]

    def uid(self, value: str) -> str:
        """A UID in place of another, of the form 2.25.N that DICOM gives to random ones."""
        return f"2.25.{int.from_bytes(self._digest('uid', value)[:16])}"

    def patient(self, dataset: "Dataset") -> str | None:
        """In place of the patient's number; None where the file has none."""
        number = str(dataset.get("PatientID") or "").strip()
        issuer = str(dataset.get("IssuerOfPatientID") or "").strip()
        return self.hash("patient", f"{issuer}\n{number}" if issuer else number) if number else None

    def _digest(self, kind: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{kind}\0{value}".encode("utf-8", "surrogateescape"), hashlib.sha256)


def default_salt() -> Path:
    """Where a user's salt lies."""
    folder = os.environ.get("XDG_CONFIG_HOME")
    return (Path(folder).expanduser() if folder else Path.home() / ".config") / "vglm_train" / "dicom_salt"


def open_salt(path: Path | None) -> Salt:
    """The salt of a file, which is made where it is not there; None: `default_salt`. UserError where it is no salt."""
    path = path or default_salt()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_salt(path)
        key = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the salt of patients' hashes cannot be read or made ({error.strerror})") from None
    if len(key) != LENGTH:
        raise UserError(f"{path}: a salt is {LENGTH} random bytes, and this has {len(key)}; name a file that is new")
    return Salt(key)


def _make_salt(path: Path) -> None:
    """Of several processes that make it at once, the first wins, and all read what it has made."""
    own = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(secrets.token_bytes(LENGTH))
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(own, path)
    finally:
        own.unlink(missing_ok=True)


def tags_of(dataset: "Dataset") -> Counter[str]:
    """How often each tag stands in a data set and its sequences, as "(0010,0010) PatientName"; values are not told."""
    return Counter(map(tag_name, _elements(dataset)))


def tag_name(tag: Any) -> str:
    """A private tag has no name of its own; its block is left out."""
    if tag.is_private:
        return f"({tag.group:04X},xx{tag.element & 0xFF:02X}) private"
    from pydicom.datadict import keyword_for_tag

    return f"({tag.group:04X},{tag.element:04X}) {keyword_for_tag(tag) or 'unknown'}"


def _elements(dataset: "Dataset") -> Iterator[Any]:
    """Tags, those in sequences after the sequence. What cannot be read has none within."""
    for tag in sorted(dataset.keys()):
        yield tag
        try:
            element = dataset[tag]
            items = element.value if element.VR == "SQ" else ()
        except Exception:
            continue
        for item in items:
            yield from _elements(item)
