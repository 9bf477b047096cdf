"""Rows that name DICOM files: what such rows are called, since names of files, patients and folders may say who it is.

A table is of DICOM where a picture of its first rows is. In all that is written its rows are then named by where they
stand; its own names are used in memory alone, to find the files and to split patients.
"""

from collections.abc import Iterable

from vglm_train.data.record import RecordError
from vglm_train.data.tables.image_paths import ENDINGS, PictureFolder, begins_as_dicom
from vglm_train.data.tables.pictures import Picture
from vglm_train.image import FORMATS
from vglm_train.image.dicom import is_dicom

_OF_DICOM = tuple(f".{suffix}" for suffix in FORMATS["DICOM"])


def may_be_dicom(picture: Picture, folder: PictureFolder) -> bool:
    """By its ending; where it has none that pictures have, by how the file begins. One that is not there may be."""
    if isinstance(picture, bytes):
        return is_dicom(picture)
    name = picture.lower()
    if name.endswith(_OF_DICOM):
        return True
    if name.endswith(ENDINGS):
        return False
    path = folder.find(picture)
    return path is not None and begins_as_dicom(path)


def any_dicom(pictures: Iterable[Picture], folder: PictureFolder) -> bool:
    """Whether a picture is DICOM."""
    return any(may_be_dicom(picture, folder) for picture in pictures)


def picture_names(where: str, number: int) -> list[str]:
    """What the pictures of the row `where` are called."""
    return [f"{where}, picture {nth}" for nth in range(1, number + 1)]


def unnamed(error: RecordError) -> RecordError:
    """The error without the file that it names."""
    return RecordError(error.cause, error.what)
