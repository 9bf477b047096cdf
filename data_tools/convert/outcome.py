"""What came of a run of `convert`, in words."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from vglm_train.data.record import RecordError

NAMED = 3  # bad rows of one cause that are named in full


@dataclass(slots=True)
class Report:
    """What came of the rows."""

    records: int = 0
    rows: int = 0  # read: those that the records are of, and those that are left out
    captions: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)  # what is wrong -> rows, as `check_table` counts them
    named: dict[str, list[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)  # what of rows that are kept is left out or doubtful
    decoded: bool = True

    def leave_out(self, where: str, error: RecordError, rows: int = 1) -> None:
        self.rows += rows
        self.bad[error.what] += rows
        examples = self.named.setdefault(error.what, [])
        if len(examples) < NAMED:
            examples.append(f"{where}: {error.reason.removeprefix(error.what).removeprefix(': ')}".removesuffix(": "))

    def lines(self) -> Iterator[str]:
        """The report as text, one fact a line."""
        captions = ", ".join(f"{count} {language}" for language, count in sorted(self.captions.items()))
        splits = dict(sorted(self.splits.items()))
        yield f"{self.records} records of {self.rows} rows ({splits}), captions and answers: {captions or 'none'}"
        for note, count in self.notes.most_common():
            yield f"note: {count} x {note}"
        for cause, count in self.bad.most_common():
            yield f"left out: {count} x {cause}, for instance"
            yield from (f"    {message}" for message in self.named[cause])
        if not self.decoded:
            yield "pictures were not decoded; check_table does"
