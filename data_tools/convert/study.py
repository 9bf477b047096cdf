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


def gather(drafts: Iterable[Draft], report: StudyReport, pictures: PictureFolder) -> Iterator[Draft]:
    """A draft for each study, in the order of their first rows, and for each row that asks something."""
    every = list(drafts)
    seen = _read_all(every, pictures)
    studies: dict[tuple[int, str], list[Draft]] = defaultdict(list)
    for number, draft in enumerate(every):
        told = draft.study or next((found.study for name in draft.images if (found := _of(seen, name)).study), "")
        key = (number, told) if draft.dialogue or not told else (-1, told)
        studies[key].append(draft if told else replace(draft, notes=(*draft.notes, ALONE)))
    for (_, told), rows in studies.items():
        yield _arranged(_merged(rows), told, seen, report)


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
