"""What is known of a bundle: from bundle.json, its configuration, and the evaluations beside it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vglm_train.checkpoint.bundle.format import CONFIG, DOCUMENT, read_document
from vglm_train.config.load import load
from vglm_train.config.metric_names import BASELINES, MODEL, PREFIX, SHUFFLED, SHUFFLED_IMAGES
from vglm_train.config.run import Config
from vglm_train.errors import UserError

CHANCE = "chance"


@dataclass(frozen=True, slots=True)
class DataFact:
    """A source that was trained on. `samples`: None where the bundle does not say."""

    name: str
    address: str
    samples: int | None
    licence: str | None


@dataclass(frozen=True, slots=True)
class TowerFact:
    """A frozen part. `fingerprint`: None where its weights travel with the bundle."""

    part: str
    weights: str
    shape: str
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """One evaluation. Rows: name, the model's score, those of the baselines; a score is None where there is none."""

    file: str
    data: str
    baselines: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    findings: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # what those scores are worth: English, Chinese


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """`stages`: the bundle and those it began with, the newest first: name and stage."""

    name: str
    config: Config
    origin: Mapping[str, Any]
    written_by: Mapping[str, str | None]  # vglm_train's version and commit
    stages: tuple[tuple[str, str], ...]
    data: tuple[DataFact, ...]
    towers: tuple[TowerFact, ...]
    scores: tuple[ScoreTable, ...]


def gather_facts(bundle: Path) -> BundleFacts:
    """UserError where the folder is no bundle."""
    document, config = read_document(bundle), load(bundle / CONFIG)
    origin = document.get("origin", {})
    counts = origin.get("sources", {})
    data = tuple(
        DataFact(source.name, str(source.shards or source.table), counts.get(source.name), source.licence)
        for source in config.data.train
    )
    whole = document
    if document["stage"] == "finetune" and (Path(document["base"]) / DOCUMENT).is_file():
        whole = read_document(Path(document["base"]))
    return BundleFacts(
        name=str(origin.get("run", config.run.name)),
        config=config,
        origin=origin,
        written_by=document.get("written_by", {}),
        stages=tuple(_stages(bundle, document, config)),
        data=data,
        towers=tuple(_towers(whole, config)),
        scores=tuple(_scores(bundle)),
    )


def _stages(bundle: Path, document: Mapping[str, Any], config: Config) -> Iterator[tuple[str, str]]:
    """As far as the earlier bundles are on this machine."""
    seen: set[Path] = set()
    while bundle not in seen:
        seen.add(bundle)
        yield str(document.get("origin", {}).get("run", bundle)), str(document["stage"])
        earlier = document.get("base") or config.model.qformer.weights
        if earlier is None or not (Path(earlier) / DOCUMENT).is_file():
            return
        bundle = Path(earlier)
        try:
            document, config = read_document(bundle), load(bundle / CONFIG)
        except UserError:
            return


def _towers(document: Mapping[str, Any], config: Config) -> Iterator[TowerFact]:
    vision, language = config.model.vision, config.model.language
    shapes = {"vision": f"{vision.family}, {vision.depth} x {vision.width}, {vision.image_size} px"}
    if language is not None:
        own = f", {language.layers} x {language.width}" if language.family == "chatglm" else ""
        shapes["language"] = f"{language.family}{own}"
    for part, reference in document["towers"].items():
        yield TowerFact(part, Path(reference["file"]).name, shapes.get(part, ""), reference.get("fingerprint"))


def _scores(bundle: Path) -> Iterator[ScoreTable]:
    """The evaluations beside the bundle that are of it."""
    for file in sorted(bundle.resolve().parent.glob("*.json")):
        try:
            found = json.loads(file.read_text("utf-8"))
            of_it = Path(found["bundle"]).resolve() == bundle.resolve()
            scores = found["scores"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if of_it and isinstance(scores, dict):
            kind = (
                _of_protocol
                if isinstance(found.get("items"), dict)
                else _of_answers
                if MODEL in scores
                else _of_pictures
            )
            yield kind(file, found)


def _of_protocol(file: Path, found: Mapping[str, Any]) -> ScoreTable:
    """Its name with how many of the benchmark's rows were scored, since a part is not the benchmark's number."""
    counts = found["items"]
    named = f"{found['protocol']} {found['version']} ({found['fingerprint']})"
    rows = tuple((name, (value,)) for name, value in found["scores"].items())
    return ScoreTable(file.name, f"{named}, {counts['scored']:,} / {counts['official']:,}", (), rows)


def _of_answers(file: Path, found: Mapping[str, Any]) -> ScoreTable:
    scores = found["scores"]
    systems = [name for name in BASELINES if name in scores]
    rows = tuple((name, tuple(scores[system].get(name) for system in (MODEL, *systems))) for name in scores[MODEL])
    says = found.get("findings", {}).get("says", {})
    worth = tuple(says.get("en", ())), tuple(says.get("zh", ()))
    return ScoreTable(file.name, str(found.get("data")), tuple(systems), rows, worth)


def _of_pictures(file: Path, found: Mapping[str, Any]) -> ScoreTable:
    """Of scores with a language: what other pictures get, and what is expected by chance."""
    scores, chance = found["scores"], found.get(CHANCE, {})
    rows = []
    for name, value in scores.items():
        if f"_{SHUFFLED_IMAGES}" in name:
            continue
        language, _, score = name.removeprefix(PREFIX).partition("_")
        other = scores.get(f"{PREFIX}{language}_{SHUFFLED_IMAGES}{score}")
        rows.append((name, (value, other, chance.get(f"{language}_{score}"))))
    return ScoreTable(file.name, str(found.get("data")), (SHUFFLED, CHANCE), tuple(_known(rows)))


def _known(rows: Sequence[tuple[str, tuple[Any, ...]]]) -> Iterator[tuple[str, tuple[float | None, ...]]]:
    for name, values in rows:
        if isinstance(values[0], int | float):
            yield name, values
