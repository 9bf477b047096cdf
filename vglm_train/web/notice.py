"""Whether a page warns that it is no medical device, and the verdict page that it links."""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vglm_train.checkpoint.bundle.adapter import parse_adapters, read_adapter
from vglm_train.checkpoint.bundle.format import CONFIG, DOCUMENT, read_document
from vglm_train.config.load import load
from vglm_train.config.run import Config
from vglm_train.errors import UserError

# Short names and abbreviations are words of their own, between anything that is no Latin letter.
MEDICAL = re.compile(
    r"(?<![a-z])(x[ -]?rays?|cxr|ct|cta|cbct|mri?|mra|fmri|dr|dxr|ecg|ekg|eeg|icu|med|dicom|wsi|roco|slake|vindr|openi)"
    r"(?![a-z])"
    r"|radiograph|radiolog|roentgen|tomogra|angiogra|mammogra|sonogra|ultrasound|ultrasonic|echocardi|endoscop|colonosc"
    r"|chest(?!nut)|thora[cx]|lung|pulmon|pneumo|covid|tubercul|cardiac|cardiolog|abdom|brain|spine|spinal|retina|fundus"
    r"|tumou?r|cancer|carcinom|melanom|oncolog|lesion|nodule|fractur|biops|patholog|histolog|cytolog|dermat|ophthalm"
    r"|dental|dentist|orthop|surgery|surgical|medical|medicine|biomed|pubmed|mimic|chexpert|padchest|vqarad"
    r"|clinic|hospital|patient|diagnos|disease|doctor"
    r"|x\s?[光线線片]|胸[片部透]|放射|影像|超[声聲]|[b彩]超|医|醫|临床|臨床|患者|病|[诊診]|肺|[肿腫]|癌|瘤|核磁|磁共振|[断斷][层層]|造影"
    r"|[钼鉬]靶|乳腺|[内內][镜鏡窥窺]|[胃肠腸]|眼底|视网膜|皮肤科|牙[齿科]|口腔|心[电電]|(?<![电電])[脑腦]|肝|[肾腎]|骨[折科]|[结結][节節]",
    re.IGNORECASE,
)
SUFFIXES = (".html", ".png", ".svg", ".jpg", ".css")
EVALUATIONS = ("vqa-*.json", "report-*.json")  # what `vglm evaluate` writes beside a bundle, each with its page


@dataclass(frozen=True, slots=True)
class Notice:
    """What the page says besides the conversation."""

    medical: bool
    verdict: Path | None  # a page


def is_medical(config: Config, recorded: Iterable[str]) -> bool:
    """Whether the model was tuned for medicine, as far as what is recorded says so. A warning too many harms nobody.

    It was if its answers are scored as reports (evaluate.task), or if a word of MEDICAL is in what the configuration
    names or in `recorded`.
    """
    return any(config.evaluate.task == "report" or speaks_of_medicine(text) for text in [*_named(config), *recorded])


def speaks_of_medicine(text: str) -> bool:
    """Whether a word of MEDICAL is in a name or a sentence, however its words are joined: chest_ct, HeadCT, 2024CT."""
    text = unicodedata.normalize("NFKC", text)
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|[_/\\.]+", " ", text)
    return bool(MEDICAL.search(parted) or MEDICAL.search(text))


def recorded(folder: Path, document: Mapping[str, Any], base: str | None, adapters: Sequence[str]) -> Iterator[str]:
    """What is recorded of an open model besides its configuration: where it came from, what it began with, was merged
    with, and gets from further adapters (FOLDER[:WEIGHT]). `document`: its bundle.json."""
    yield str(folder)
    yield from _texts(document.get("origin"))
    if began := base or document.get("base"):
        yield from _whole(Path(began))
    for path, _ in parse_adapters(adapters):
        yield str(path)
        yield from _texts(read_adapter(path).document.get("origin"))
        if (path / CONFIG).is_file():
            yield from _named(load(path / CONFIG))


def _whole(folder: Path) -> Iterator[str]:
    yield str(folder)
    if (folder / DOCUMENT).is_file():
        yield from _texts(read_document(folder).get("origin"))
        yield from _named(load(folder / CONFIG))


def _named(config: Config) -> Iterator[str]:
    """Names that people gave in a configuration, and what is asked about a picture."""
    yield from (config.run.name, str(config.run.folder), str(config.model.qformer.weights))
    for source in config.data.train:
        yield from (source.name, str(source.table), str(source.shards), str(source.images))
    yield from (config.prompt.questions.en, config.prompt.questions.zh)
    if config.evaluate.task == "report":
        yield "medical report"


def _texts(value: Any) -> Iterator[str]:
    """Every text of a JSON value, names of fields too: sources are counted by their names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (str(name) for name in value)
        yield from (text for each in value.values() for text in _texts(each))
    elif isinstance(value, Sequence):
        yield from (text for each in value for text in _texts(each))


def verdict_page(given: str | None, bundle: Path, adapters: Sequence[str] = ()) -> Path | None:
    """The page: `given`; or, beside the bundle, the newest that `vglm evaluate` wrote of it with these adapters; or
    report/report.html, where `vglm report RUN` puts it.

    UserError if what is given is no page.
    """
    if given is None:
        page = bundle.resolve().parent / "report" / "report.html"
        return next(_evaluations(bundle.resolve(), adapters), page if page.is_file() else None)
    page = Path(given)
    page = page / "report.html" if page.is_dir() else page
    if not page.is_file() or page.suffix != ".html":
        raise UserError(
            f"--verdict {given}: no page (.html) there; give the page that `vglm evaluate` wrote beside its JSON file, "
            "or the report.html of `vglm report RUN`."
        )
    return page.resolve()


def _evaluations(bundle: Path, adapters: Sequence[str]) -> Iterator[Path]:
    """Pages of this very model, the newest first: other bundles may lie in the same folder."""
    found = [path for pattern in EVALUATIONS for path in bundle.parent.glob(pattern)]
    for path in sorted(found, key=lambda each: each.stat().st_mtime, reverse=True):
        page = path.with_suffix(".html")
        try:
            report = json.loads(path.read_text("utf-8"))
            named, with_adapters = Path(report["bundle"]), report["adapters"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        own = [part for part in named.parts if part != ".."]
        same = tuple(own) == bundle.parts[len(bundle.parts) - len(own) :] if own else False
        if same and with_adapters == list(adapters) and page.is_file():
            yield page


def verdict_file(page: Path, name: str) -> Path | None:
    """The page or a picture beside it; None for anything else."""
    path = page.parent / name
    plain = Path(name).name == name and path.suffix in SUFFIXES and not path.is_symlink()
    return path if plain and path.is_file() and (path.suffix != ".html" or path == page) else None
