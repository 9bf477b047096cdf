"""Whether a page warns that it is no medical device, and the verdict page that it links."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vglm_train.config.run import Config
from vglm_train.errors import UserError

MEDICAL = re.compile(
    r"x-?rays?\b|x ray|radiograph|radiolog|chest|\b(ct|mri)\b|ultrasound|patholog|medical|clinic|patient"
    r"|x\s?光|胸片|放射|影像|超声|病理|医学|医疗|临床|患者",
    re.IGNORECASE,
)
SUFFIXES = (".html", ".png", ".svg", ".jpg", ".css")


@dataclass(frozen=True, slots=True)
class Notice:
    """What the page says besides the conversation."""

    medical: bool
    verdict: Path | None  # a page


def is_medical(config: Config, adapters: Iterable[str]) -> bool:
    """Whether the model was tuned for medicine, as far as what is recorded says so. A warning too many harms nobody.

    It was if its answers are scored as reports (evaluate.task), or if a word of MEDICAL is in the name of the run, of a
    data source or of an adapter, merged ones too, or in what the model is asked about a picture.
    """
    questions = [config.prompt.questions.en, config.prompt.questions.zh]
    names = [config.run.name, *(source.name for source in config.data.train), *adapters]
    return config.evaluate.task == "report" or any(
        MEDICAL.search(re.sub(r"[_/\\.]+", " ", text)) for text in [*names, *questions]
    )


def verdict_page(given: str | None, bundle: Path) -> Path | None:
    """The page: `given`, or report/report.html beside the bundle, where `vglm report RUN` puts it.

    UserError if what is given is no page.
    """
    if given is None:
        page = bundle.parent / "report" / "report.html"
        return page.resolve() if page.is_file() else None
    page = Path(given)
    page = page / "report.html" if page.is_dir() else page
    if not page.is_file() or page.suffix != ".html":
        raise UserError(f"--verdict {given}: no page (.html) there; give the report.html that `vglm report RUN` wrote.")
    return page.resolve()


def verdict_file(page: Path, name: str) -> Path | None:
    """The page or a picture beside it; None for anything else."""
    path = page.parent / name
    plain = Path(name).name == name and path.suffix in SUFFIXES and not path.is_symlink()
    return path if plain and path.is_file() and (path.suffix != ".html" or path == page) else None
