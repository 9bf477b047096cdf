"""Pictures of a source as `convert` takes them: each looked for and decoded as `check_table` and training do."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from data_tools.common.image_bytes import extension, png_of
from data_tools.convert.dicom import DicomReader, Frame
from data_tools.convert.draft import Views
from data_tools.convert.study import StudyReport
from vglm_train.data.record import RecordError, content_id
from vglm_train.data.tables.image_paths import PictureFolder
from vglm_train.data.tables.pictures import decode_fault
from vglm_train.files import replace_file
from vglm_train.image import FORMATS, ImageError, examine_image
from vglm_train.image.dicom import is_dicom
from vglm_train.image.dicom.named import Names

REMEMBERED = 1 << 16  # files: many rows in a row ask about one picture
SAME = "a picture that its study has already"
PATIENTS = "a study whose pictures are of several patients"
_OF_DICOM = tuple(f".{suffix}" for suffix in FORMATS["DICOM"])


class Taken(NamedTuple):
    """A picture of a record. `identity`: hash of its bytes; `name`: for its record; `patient`: hash of a DICOM's;
    `frame`: its number in a DICOM of several."""

    path: Path
    identity: int
    name: str
    dicom: bool = False
    patient: str | None = None
    frame: int | None = None
    names: Names = ()  # of a DICOM: what would name its patient in a text
    private: bool = False  # a copy that holds pixels alone, whose record is to hold no name either


class _File(NamedTuple):
    """A file that was read. `problem`: why it cannot be; `fault`: why it cannot be decoded."""

    identity: int = 0
    problem: str | None = None
    fault: str | None = None
    frames: tuple[Taken, ...] = ()  # of a DICOM


class SourcePictures:
    """`folder`: that names start from; `kept`: where pictures that are inside the data, and those of DICOM files, are
    written, named by their content; `decoded`: whether each is decoded in full, else only its header where it is inside
    the data. DICOM always is. `hidden`: whether messages say no names of files. `private`: whether each is written
    anew, as DICOM is."""

    def __init__(
        self,
        folder: PictureFolder,
        kept: Path,
        dicom: DicomReader,
        decoded: bool = True,
        hidden: bool = False,
        private: bool = False,
    ) -> None:
        self.folder, self.kept, self.decoded, self.dicom, self.hidden = folder, kept, decoded, dicom, hidden
        self.private = private
        self._unused: dict[str, Path] = {}  # pictures that were written now, and stand in no record: name -> file
        self._lock, self._made = Lock(), not kept.exists()
        self._file = lru_cache(REMEMBERED)(self._read_file)

    def use(self, pictures: Iterable[Taken]) -> None:
        """These stand in a record."""
        with self._lock:
            for taken in pictures:
                self._unused.pop(taken.name, None)

    @contextmanager
    def only_used(self) -> Iterator[None]:
        """Of the pictures that are written within it, those remain that stand in a record: a text that names the
        patient leaves no picture of the patient either."""
        try:
            yield
        finally:
            self.dicom.report.corner_text.difference_update(self._unused)
            for path in self._unused.values():
                path.unlink(missing_ok=True)
                with suppress(OSError):  # others are in the folder
                    path.parent.rmdir()
                    if self._made:
                        self.kept.rmdir()

    def get(self, images: Sequence[str | bytes]) -> list[list[Taken]]:
        """The pictures of a row: of one record, or of several where each frame of a DICOM has its own.

        RecordError where one cannot be used. As in training, all are looked for before any is decoded.
        """
        for image in images:
            if isinstance(image, str):
                self._look(image)
        taken = [self._use(image) for image in images]
        if len(taken) == 1:
            return [[picture] for picture in taken[0]]
        if any(len(frames) > 1 for frames in taken):
            raise RecordError("image", "a DICOM of several frames beside another picture: choose one with --frame")
        return [[frames[0] for frames in taken]]

    def get_views(self, images: Sequence[str | bytes], views: Views, report: StudyReport) -> list[tuple[Taken, str]]:
        """The pictures of a study that are kept, with their views; what cannot be used is left out and counted.

        RecordError where there is none, or they are of several patients.
        """
        kept: dict[int, Taken] = {}
        first: RecordError | None = None
        for place in views.order:
            if len(kept) == views.most:
                report.count(report.dropped, views.names[place])
                continue
            try:
                ((taken,),) = self.get(images[place : place + 1])
            except RecordError as error:
                first = first or error
                report.count(report.broken, error.what)
                continue
            if taken.identity in {other.identity for other in kept.values()} and not views.whole:
                report.count(report.broken, SAME)
            else:
                kept[place] = taken
        if first is not None and (views.whole or not kept):
            raise first
        if len({taken.patient for taken in kept.values() if taken.patient}) > 1:
            raise RecordError("record", PATIENTS)
        report.keep([views.names[place] for place in kept])
        return [(kept[place], views.names[place]) for place in sorted(kept)]

    def _look(self, name: str) -> Path:
        path = self.folder.find(name)
        if path is None:
            reason = self.folder.problem(name)
            # such names often hold a patient's number
            if self.hidden or self.private or name.lower().endswith(_OF_DICOM):
                kind = "DICOM file" if self.hidden or name.lower().endswith(_OF_DICOM) else "file"
                reason = f"{reason.partition(': ')[0]}: the {kind} that the row names"
            raise RecordError("image", reason)
        if (problem := self._file(path).problem) is not None:
            raise RecordError("image", problem)
        return path

    def _use(self, image: str | bytes) -> Sequence[Taken]:
        if isinstance(image, bytes):
            if is_dicom(image):
                return self._frames(image)
            if self.private:
                return (self._pixels_alone(image),)
            if self.decoded and (fault := _fault(image)) is not None:
                raise RecordError("image", fault)
            return (self._keep(image),)
        path = self._look(image)
        name = self.folder.key(str(path))  # one name, however the rows write the path
        file = self._file(path)
        if file.frames:
            return file.frames
        if file.fault is not None:
            what, _, detail = file.fault.partition(": ")
            shown = "" if self.private or "DICOM" in what else f": {name}"
            raise RecordError("image", f"{what}{shown}" + (f": {detail}" if detail else ""))
        return (Taken(path, file.identity, Path(name).with_suffix("").as_posix()),)

    def _read_file(self, path: Path) -> _File:
        try:
            _, data = self.folder.read(str(path))
        except RecordError as error:
            return _File(problem=str(error))
        if is_dicom(data):
            try:
                return _File(frames=tuple(self._frames(data)))
            except RecordError as error:
                return _File(fault=error.reason)
        if self.private:
            try:
                return _File(frames=(self._pixels_alone(data),))
            except RecordError as error:
                return _File(fault=error.reason)
        return _File(content_id(data), None, _fault(data) if self.decoded else None)

    def _pixels_alone(self, data: bytes) -> Taken:
        """The picture as a file of its own, without comments, times and places that its own file may hold."""
        try:
            image = examine_image(data).image
        except ImageError as error:
            raise RecordError("image", decode_fault(error)) from None
        return self._keep(png_of(image))._replace(private=True)

    def _frames(self, data: bytes) -> list[Taken]:
        """A DICOM's frames as files of their own. RecordError where there is none that can be used."""
        try:
            return [self._keep_frame(frame) for frame in self.dicom.frames(data)]
        except ImageError as error:
            raise RecordError("image", decode_fault(error)) from None

    def _keep_frame(self, frame: Frame) -> Taken:
        taken = self._keep(frame.png)
        if frame.corner_text:
            self.dicom.report.corner_text.add(taken.name)
        return taken._replace(dicom=True, patient=frame.patient, frame=frame.number, names=frame.names)

    def _keep(self, data: bytes) -> Taken:
        """Write a picture that came inside the source as a file; an equal one is kept."""
        identity = content_id(data)
        try:
            kind = extension(data)
        except ImageError as error:
            raise RecordError("image", decode_fault(error)) from None
        path = self.kept / f"{identity % 256:02x}" / f"{identity:016x}.{kind}"
        with self._lock:  # before another thread uses what this one writes
            if new := not path.is_file():
                self._unused[path.stem] = path
        if new:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path, durable=False) as file:
                file.write(data)
        return Taken(path, identity, path.stem)


def _fault(data: bytes) -> str | None:
    """Why a picture cannot be decoded."""
    try:
        examine_image(data)
    except ImageError as error:
        return decode_fault(error)
    return None
