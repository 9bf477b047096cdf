"""Pictures of a source as `convert` takes them: each looked for and decoded as `check_table` and training do."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from data_tools.common.image_bytes import extension
from vglm_train.data.record import RecordError, content_id
from vglm_train.data.tables.image_paths import PictureFolder
from vglm_train.data.tables.pictures import decode_fault
from vglm_train.files import replace_file
from vglm_train.image import ImageError, examine_image

REMEMBERED = 1 << 16  # files: many rows in a row ask about one picture


class SourcePictures:
    """`folder`: that names start from; `kept`: where pictures that are inside the data are written, named by their
    content; `decoded`: whether each is decoded in full, else only its header where it is inside the data."""

    def __init__(self, folder: PictureFolder, kept: Path, decoded: bool = True) -> None:
        self.folder, self.kept, self.decoded = folder, kept, decoded
        self._file = lru_cache(REMEMBERED)(self._read_file)

    def get(self, images: Sequence[str | bytes]) -> list[tuple[Path, int, str]]:
        """Of each picture of a row its file, the hash of its bytes, and a name for its record.

        RecordError where one cannot be used. As in training, all are looked for before any is decoded.
        """
        for image in images:
            if isinstance(image, str):
                self._look(image)
        return [self._use(image) for image in images]

    def _look(self, name: str) -> Path:
        path = self.folder.find(name)
        if path is None:
            raise RecordError("image", self.folder.problem(name))
        if (problem := self._file(path)[1]) is not None:
            raise RecordError("image", problem)
        return path

    def _use(self, image: str | bytes) -> tuple[Path, int, str]:
        if isinstance(image, bytes):
            if self.decoded and (fault := _fault(image)) is not None:
                raise RecordError("image", fault)
            return self._keep(image)
        path = self._look(image)
        name = self.folder.key(str(path))  # one name, however the rows write the path
        identity, _, fault = self._file(path)
        if fault is not None:
            what, _, detail = fault.partition(": ")
            raise RecordError("image", f"{what}: {name}" + (f": {detail}" if detail else ""))
        return path, identity, Path(name).with_suffix("").as_posix()

    def _read_file(self, path: Path) -> tuple[int, str | None, str | None]:
        """The hash of a file, why it cannot be read, and why it cannot be decoded."""
        try:
            _, data = self.folder.read(str(path))
        except RecordError as error:
            return 0, str(error), None
        return content_id(data), None, _fault(data) if self.decoded else None

    def _keep(self, data: bytes) -> tuple[Path, int, str]:
        """Write a picture that came inside the source as a file; an equal one is kept."""
        identity = content_id(data)
        try:
            kind = extension(data)
        except ImageError as error:
            raise RecordError("image", decode_fault(error)) from None
        path = self.kept / f"{identity % 256:02x}" / f"{identity:016x}.{kind}"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path, durable=False) as file:
                file.write(data)
        return path, identity, f"{identity:016x}"


def _fault(data: bytes) -> str | None:
    """Why a picture cannot be decoded."""
    try:
        examine_image(data)
    except ImageError as error:
        return decode_fault(error)
    return None
