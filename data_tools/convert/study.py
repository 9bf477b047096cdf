"""The pictures of a study as one record: which rows and pictures belong together, which views are kept, in which order.

All drafts are held in memory until the last row is read, since a table may name a study's pictures anywhere.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from data_tools.convert.draft import Draft, Views
from data_tools.convert.study_rows import THREADS, StudyFolder
from vglm_train.data.record import RecordError
from vglm_train.data.tables.image_paths import PictureFolder, begins_as_dicom
from vglm_train.image import ImageError
from vglm_train.image.dicom.header import read_tags
from vglm_train.image.dicom.view import FRONTAL, LATERAL, ORDER, READ, UNKNOWN, View, view_of
from vglm_train.progress import Progress
from vglm_train.prompt.dialogue import IMAGE

NO_REPORT = "a study without any report"
STUDIES = "a folder with pictures of several studies (Study Instance UID): which of them the row is of is not known"
TWICE = (
    "a folder that several rows name with different reports or studies: its pictures may be of several studies. Give "
    "a folder for each study, or --study-field with that column if all rows of a folder are of one study"
)
SPLITS = "a study whose rows are of several splits"
ALONE = "rows whose picture names no study, each for itself"
REPORTS = "studies with several different reports, all of which are kept: each is a text of its record"


@dataclass(slots=True)
class StudyReport:
    """What came of the studies; it holds no value of any."""

    most: int
    largest: int = 0  # pictures of a record
    kept: Counter[str] = field(default_factory=Counter)  # views
    dropped: Counter[str] = field(default_factory=Counter)  # views beyond `most`
    broken: Counter[str] = field(default_factory=Counter)  # causes
    told_by: Counter[str] = field(default_factory=Counter)  # tags
    nobodys: int = 0  # records of which neither a column nor a DICOM says the patient
    _lock: Lock = field(default_factory=Lock)

    def count(self, counts: Counter[str], what: str) -> None:
        """One more, from any thread."""
        with self._lock:
            counts[what] += 1

    def keep(self, views: Sequence[str]) -> None:
        """A record with these views, from any thread."""
        with self._lock:
            self.kept.update(views)
            self.largest = max(self.largest, len(views))

    def no_patient(self) -> None:
        """A record of which nothing says the patient, from any thread."""
        with self._lock:
            self.nobodys += 1

    def lines(self, folder: StudyFolder) -> Iterator[str]:
        """The report as text."""
        yield f"views of studies: {_listed(self.kept) or 'none'}"
        if self.told_by:
            yield f"told by: {_listed(self.told_by)}"
        if self.dropped:
            yield f"not kept, since --views is {self.most}: {_listed(self.dropped)}"
        if self.largest > 1:
            yield f"to learn from all of them after stage one: prompt.max_images: {self.largest}"
        for cause, count in self.broken.most_common():
            yield f"left out of their studies: {count} x {cause}"
        if self.nobodys:
            yield (
                f"groups: none named for {self.nobodys} records: no column such as patient, and no DICOM file, says "
                "whose they are. Each counts as a patient of its own, so one patient may be in training and in the test"
            )
        yield from folder.lines()


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in counts.most_common())


class Seen(NamedTuple):
    """What a picture's header says: nothing of it is written but the view."""

    study: str = ""
    view: View = View(UNKNOWN, None)
    place: tuple[int, int] = (0, 0)  # number of the series, and within it


def read_seen(path: Path | None) -> Seen:
    """What a file's header says; nothing of what is no DICOM, or cannot be read: rendering says why."""
    if path is None or not begins_as_dicom(path):
        return Seen()
    try:
        dataset = read_tags(path, ("StudyInstanceUID", "SeriesNumber", "InstanceNumber", *READ))
        place = (_number(dataset.get("SeriesNumber")), _number(dataset.get("InstanceNumber")))
        return Seen(str(dataset.get("StudyInstanceUID") or "").strip(), view_of(dataset), place)
    except (ImageError, OSError):
        return Seen()


def _number(value: object) -> int:
    return int(text) if (text := str(value).strip()).isdecimal() else 0


def gather(
    drafts: Iterable[Draft], report: StudyReport, pictures: PictureFolder, folder: StudyFolder
) -> Iterator[Draft]:
    """A draft for each study, in the order of their first rows, for each row that asks something, and for each whose
    folder is that of several studies, which has the problem."""
    every = list(drafts)
    seen = _read_all(every, pictures)
    twice = _named_twice(every, seen, folder)
    studies: dict[tuple[int, str], list[Draft]] = defaultdict(list)
    for number, row in enumerate(every):
        draft, problem = row, row.problem or _of_several(row, seen, folder, twice)
        told = draft.study or next((found.study for name in draft.images if (found := _of(seen, name)).study), "")
        if problem is not None:
            draft = replace(row, problem=problem)
        key = (number, told) if draft.dialogue or problem or not told else (-1, told)
        studies[key].append(draft if told else replace(draft, notes=(*draft.notes, ALONE)))
    for (_, told), rows in studies.items():
        yield _arranged(_merged(rows), told, seen, report)


def _of_several(draft: Draft, seen: dict[str, Seen], folder: StudyFolder, twice: set[Path]) -> RecordError | None:
    """Why the folder that a row names is not that of one study; None where it may be."""
    studies: dict[Path, set[str]] = defaultdict(set)
    for image in draft.images:
        if isinstance(image, str) and (above := folder.named_above(image)) and (study := seen[image].study):
            studies[above].add(study)
    if any(len(each) > 1 for each in studies.values()):
        return RecordError("record", STUDIES)
    return RecordError("record", TWICE) if not twice.isdisjoint(_folders_of(draft, seen, folder)) else None


def _named_twice(drafts: Sequence[Draft], seen: dict[str, Seen], folder: StudyFolder) -> set[Path]:
    """Folders that rows of different studies, or with different reports, name: the outermost ones."""
    told: dict[Path, str | dict[str, list[str]]] = {}
    return {
        path
        for draft in drafts
        for path in _folders_of(draft, seen, folder)
        if told.setdefault(path, draft.study or draft.captions) != (draft.study or draft.captions)
    }


def _folders_of(draft: Draft, seen: dict[str, Seen], folder: StudyFolder) -> set[Path]:
    """Those that hold the pictures of a row with a study or a report; none where a header tells the study."""
    names = [image for image in draft.images if isinstance(image, str)]
    reports = draft.captions and not draft.dialogue
    if not (draft.study or reports) or any(seen[name].study for name in names):
        return set()
    return {path for path in map(folder.named_above, names) if path is not None}


def _read_all(drafts: Sequence[Draft], pictures: PictureFolder) -> dict[str, Seen]:
    names = list(dict.fromkeys(name for draft in drafts for name in draft.images if isinstance(name, str)))
    with Progress(len(names), "file", "views") as bar, ThreadPoolExecutor(THREADS) as pool:
        seen = {}
        for name, found in zip(names, pool.map(lambda name: read_seen(pictures.find(name)), names)):
            bar.update(1)
            seen[name] = found
    return seen


def _of(seen: dict[str, Seen], image: str | bytes) -> Seen:
    return seen[image] if isinstance(image, str) else Seen()


def _merged(rows: Sequence[Draft]) -> Draft:
    """One draft of a study's rows. One that has an error keeps it."""
    first = rows[0]
    captions: dict[str, list[str]] = {}
    for draft in rows:
        for language, texts in draft.captions.items():
            own = captions.setdefault(language, [])
            own += [text for text in texts if text not in own]
    images = tuple(dict.fromkeys(image for draft in rows for image in draft.images))
    notes = [note for draft in rows for note in draft.notes]
    problem = next((draft.problem for draft in rows if draft.problem is not None), None)
    if len({draft.labels.get("split") for draft in rows}) > 1:
        problem = RecordError("record", SPLITS)
    if not captions and not first.dialogue:
        problem = problem or RecordError("caption", NO_REPORT)
    if len(rows) > 1 and any(len(texts) > 1 for texts in captions.values()):
        notes.append(REPORTS)
    return replace(
        first,
        captions=captions,
        images=images,
        problem=problem,
        notes=tuple(dict.fromkeys(notes)),
        done=rows[-1].done,
        rows=sum(draft.rows for draft in rows),
    )


def _arranged(draft: Draft, study: str, seen: dict[str, Seen], report: StudyReport) -> Draft:
    """Frontal views first, then lateral ones; of the same view by the numbers of series and picture. Where questions
    say where each picture stands, nothing is moved or left out."""
    found = [_of(seen, image) for image in draft.images]
    marks = any(IMAGE in turn["text"] for turn in draft.dialogue.get("turns", ()))
    places = list(range(len(found)))
    if not marks:
        places.sort(key=lambda n: (ORDER.index(found[n].view.name), found[n].place, n))
    views = [found[n].view for n in places]
    for view in views:
        if view.told_by is not None:
            report.count(report.told_by, view.told_by)
    names = tuple(view.name for view in views)
    order = tuple(range(len(names))) if marks else preferred(names)
    images = tuple(draft.images[n] for n in places)
    most = len(names) if marks else report.most
    return replace(draft, images=images, views=Views(study, names, order, most, whole=marks))


def preferred(views: Sequence[str]) -> tuple[int, ...]:
    """Places in `views`, the first frontal, the first lateral, the first of all others, then the second ones."""
    counts: Counter[int] = Counter()
    ranked = []
    for place, name in enumerate(views):
        kind = 0 if name in FRONTAL else 1 if name in LATERAL else 3 if name == UNKNOWN else 2
        ranked.append((counts[kind], kind, place))
        counts[kind] += 1
    return tuple(place for _, _, place in sorted(ranked))
