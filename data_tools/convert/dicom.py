"""DICOM pictures of a source as `convert` takes them: rendered to PNG, with nothing else of the file.

What a record says of them is a hash; what was left behind is counted by tag.
"""

import threading
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.common.image_bytes import png_of
from vglm_train.files import write_json
from vglm_train.image import ImageError
from vglm_train.image.dicom.header import guarded, header_of, read_dataset
from vglm_train.image.dicom.named import Names, names_of
from vglm_train.image.dicom.pixels import render_dataset
from vglm_train.image.dicom.private import Salt, open_salt, tags_of
from vglm_train.image.dicom.text import HEURISTIC, has_corner_text
from vglm_train.image.dicom.window import Window, parse_window


class Frame(NamedTuple):
    """A frame as the bytes of a PNG of 8 bits. `number`: from 1; None of a file with one frame."""

    png: bytes
    patient: str | None  # hash
    number: int | None
    corner_text: bool
    names: Names  # what would name the patient in a text; never written


@dataclass(slots=True)
class DicomReport:
    """What came of the DICOM files; it holds no value of any."""

    files: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # tag -> files that have it
    notes: Counter[str] = field(default_factory=Counter)  # how pixels were made
    burned_in: int = 0  # files whose tag says that text is burned in
    corner_text: set[str] = field(default_factory=set)  # ids of pictures that seem to have text in a corner

    def lines(self) -> Iterator[str]:
        """The report as text."""
        if not self.files:
            return
        tags = len(self.dropped)
        yield f"{self.files} DICOM files became PNG; of their headers nothing is kept ({tags} tags dropped)"
        for note, count in sorted(self.notes.items()):
            yield f"note: {count} x {note}"
        if self.burned_in:
            yield f"text is burned into {self.burned_in} by their own tag (Burned In Annotation): look at them"
        if self.corner_text:
            yield f"text seems to be burned into {len(self.corner_text)} pictures; this is {HEURISTIC}"

    def write(self, path: Path, window: Window, frame: str) -> None:
        """As JSON."""
        value: dict[str, Any] = {
            "dicom_files": self.files,
            "window": window.name,
            "frame": frame,
            "pixels": dict(sorted(self.notes.items())),
            "dropped_tags": dict(sorted(self.dropped.items())),
            "burned_in_annotation_yes": self.burned_in,
            "corner_text": {"pictures": sorted(self.corner_text), "told_by": HEURISTIC},
        }
        write_json(path, value)


@dataclass
class DicomReader:
    """`salt_file`: None: the user's own; it is opened with the first DICOM. `frame`: "first", "middle", "each" or a
    number from 1."""

    salt_file: Path | None
    window: Window
    frame: str
    report: DicomReport = field(default_factory=DicomReport)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def salt(self) -> Salt:
        """UserError as `open_salt`."""
        return open_salt(self.salt_file)

    def write_report(self, path: Path) -> None:
        """As JSON."""
        self.report.write(path, self.window, self.frame)

    def frames(self, data: bytes) -> list[Frame]:
        """The frames of a file that are taken. ImageError where there is none."""
        dataset = read_dataset(data, whole=True)
        header = header_of(dataset)
        numbers = self._numbers(header.frames)
        pictures = [render_dataset(dataset, self.window, number) for number in numbers]
        several = header.frames > 1
        with guarded():
            names = names_of(dataset)
            patient, burned = self.salt.patient(dataset), dataset.get("BurnedInAnnotation") == "YES"
            tags = tags_of(dataset) + tags_of(dataset.file_meta)
        with self._lock:
            self.report.files += 1
            self.report.dropped.update(tags.keys())
            self.report.notes.update(picture.note for picture in pictures)
            self.report.burned_in += burned
        return [
            Frame(png_of(image), patient, number + 1 if several else None, has_corner_text(image), names)
            for number, (image, _, _) in zip(numbers, pictures)
        ]

    def _numbers(self, frames: int) -> list[int]:
        if self.frame == "each":
            return list(range(frames))
        if self.frame == "middle":
            return [frames // 2]
        number = 0 if self.frame == "first" else int(self.frame) - 1
        if number >= frames:
            raise ImageError("undecodable", f"DICOM that has no frame {number + 1}: it has {frames}")
        return [number]


def window_argument(text: str) -> Window:
    """An argparse type: a window."""
    try:
        return parse_window(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def frame_argument(text: str) -> str:
    """An argparse type: first, middle, each or a number from 1."""
    if text in ("first", "middle", "each") or (text.isdecimal() and int(text) > 0):
        return text
    raise ArgumentTypeError(f"{text!r}: give first, middle, each or a number from 1")
