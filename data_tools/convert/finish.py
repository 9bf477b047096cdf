"""A draft -> finished records: its pictures are read, and where they are DICOM nothing names the patient."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.common.records import path_from
from data_tools.convert.dicom import DicomReader
from data_tools.convert.draft import Draft
from data_tools.convert.pictures import SourcePictures, Taken
from data_tools.convert.study import StudyReport
from vglm_train.data.record import RecordError
from vglm_train.image.dicom.named import tags_in

NAMED = "a text that names its DICOM's patient, a doctor, the hospital, a number or a date"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a run of `convert` reads pictures and writes records; all paths are resolved."""

    out: Path
    kept: Path  # where pictures inside the data are written
    source: str
    split: str
    dicom: DicomReader
    decoded: bool = True  # whether pictures are decoded
    own_group: bool = False  # whether the command line names the column of groups
    private: bool = False  # whether what DICOM is spared is taken from other pictures too
    studies: StudyReport | None = None  # where the pictures of a study become one record

    @property
    def dicom_report(self) -> Path:
        return self.out.with_suffix(".dicom.json")


def finish(draft: Draft, target: Target, source: SourcePictures) -> list[dict[str, Any]]:
    """The finished records, one, or one a frame; reads the pictures for their hash. RecordError where one cannot be
    used."""
    if draft.problem is not None:
        raise draft.problem
    if draft.views is not None:
        assert target.studies is not None
        views = source.get_views(draft.images, draft.views, target.studies)
        pictures = [taken for taken, _ in views]
        _check_texts(draft, pictures)
        source.use(pictures)
        if "group" not in draft.labels and not any(taken.patient for taken in pictures):
            target.studies.no_patient()
        return [_record(draft, target, pictures, draft.views.study) | {"views": [name for _, name in views]}]
    records = source.get(draft.images)
    for pictures in records:
        _check_texts(draft, pictures)
    source.use(taken for pictures in records for taken in pictures)
    return [_record(draft, target, pictures) for pictures in records]


def _check_texts(draft: Draft, pictures: list[Taken]) -> None:
    """RecordError where a text names the patient of a picture. It says which tag, and not what stands there."""
    names = tuple(name for taken in pictures for name in taken.names)
    if not names:
        return
    texts = [text for captions in draft.captions.values() for text in captions]
    texts += [*_texts_of(draft.dialogue), draft.labels.get("type", "")]
    if found := tags_in(texts, names):
        raise RecordError("record", f"{NAMED}: {', '.join(found)}")


def _texts_of(value: Any) -> Iterator[str]:
    """All texts in lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts_of(inner)


def _record(draft: Draft, target: Target, pictures: list[Taken], study: str = "") -> dict[str, Any]:
    """`study`: what says which study it is; empty: it is of none."""
    first = pictures[0]
    paths = [path_from(target.out.parent, taken.path) for taken in pictures]
    private = any(taken.dicom or taken.private for taken in pictures)
    labels = draft.labels
    if study:  # each question about a study is a record of its own
        labels = {"group": study, **labels, **({} if draft.dialogue else {"id": study})}
    labels = _hashed(labels, pictures, target) if private else labels
    return {
        "id": labels.get("id") or first.name,
        "image": paths[0] if len(paths) == 1 else paths,
        "image_id": first.identity,
        "captions": draft.captions,
        "source": target.source,
        "split": labels.get("split") or target.split,
        "group": labels.get("group") or first.name,  # what shows one picture is never split
        **{name: text for name, text in labels.items() if name == "type"},
        **draft.dialogue,
        **(_shown(first, target) if first.dicom else {}),
    }


def _hashed(labels: dict[str, str], pictures: list[Taken], target: Target) -> dict[str, str]:
    """Salted hashes in place of the row's id and group. The patient of the DICOM is its group, unless the command line
    names a column."""
    salt, frame = target.dicom.salt, pictures[0].frame
    hashed = {name: salt.hash(name, labels[name]) for name in ("id", "group") if name in labels}
    if "id" in hashed and target.dicom.frame == "each" and frame is not None:
        hashed["id"] += f"-{frame}"
    patient = next((taken.patient for taken in pictures if taken.patient is not None), None)
    if patient is not None and not target.own_group:
        hashed["group"] = patient
    return labels | hashed


def _shown(first: Taken, target: Target) -> dict[str, Any]:
    """How the pixels were made."""
    shown: dict[str, Any] = {"window": target.dicom.window.name}
    return shown if first.frame is None else {**shown, "frame": first.frame}
