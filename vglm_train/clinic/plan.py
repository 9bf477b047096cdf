"""The steps of `vglm clinic`, in order: which command each is, and what it makes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vglm_train.clinic.recipe import Recipe

SIDES = ("train", "val", "test")
TITLES = {
    "look": "look through the table",
    "convert": "convert the pictures",
    "split": "split by patient",
    "leaks": "look for what training and test share",
    "recipe": "choose a recipe by the memory of the card",
    "check": "check what training would do",
    "train": "train",
}
"""Of all steps but the evaluations, in order, by name."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asked for. All paths are absolute."""

    folder: Path
    reports: Path
    base: Path
    out: Path
    preset: str | None = None
    test: float = 0.25
    val: float = 0.1
    fields: tuple[str, ...] = ()  # WHAT=KEY of the table
    study_field: str | None = None  # column that names a study, in place of pictures
    convert: tuple[str, ...] = ()  # further options of `vglm data convert`
    overrides: tuple[str, ...] = ()  # of the training
    folders: bool = False  # whether the column of pictures holds folders of studies

    @property
    def studies(self) -> bool:
        """Whether rows name studies, so that the table alone does not tell its pictures."""
        return self.folders or self.study_field is not None

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def records(self) -> Path:
        return self.data / "records.jsonl"

    @property
    def pictures(self) -> Path:
        return self.records.with_suffix(".pictures")

    @property
    def recipe(self) -> Path:
        return self.out / "recipe.json"

    @property
    def run(self) -> Path:
        return self.out / "run"

    def side(self, name: str) -> Path:
        """The records of a side of SIDES."""
        return self.data / f"{name}.jsonl"

    def result(self, task: str) -> Path:
        """The scores of a task; a page of the same name stands beside them."""
        return self.out / f"{task}.json"


@dataclass(frozen=True, slots=True)
class Step:
    """A command. `makes`: files without which it is not done; `clears`: what an unfinished start may have left and is
    deleted first; `tells`: whether status 1 says that something was found, which is no failure; `loose`: whether what
    it writes would survive a kill, but no power cut."""

    name: str
    title: str
    words: tuple[str, ...]
    makes: tuple[Path, ...] = ()
    clears: tuple[Path, ...] = ()
    tells: bool = False
    loose: bool = False


def plan(options: Options) -> Iterator[Step]:
    """The steps, each asked for when those before it are done: what they made decides the later ones."""
    if not options.studies:  # else the table names no picture, and the conversion says what cannot be used
        yield _look(options)
    yield _convert(options)
    sides = tuple(options.side(name) for name in SIDES)
    split = ("data", "split", options.records, "--out", options.data, "--val", options.val, "--test", options.test)
    yield _step("split", _words(*split), sides)
    leaks = ("data", "check_table", options.side("train"), "--against", options.side("test"))
    yield _step("leaks", _words(*leaks), tells=True)
    chosen = ("--preset", options.preset) if options.preset else ()
    given = ("--base", options.base, "--out", options.recipe, *chosen, *options.overrides)
    recipe = ("clinic", "recipe", options.data, *given)
    yield _step("recipe", _words(*recipe), (options.recipe,))
    found = Recipe.read(options.recipe)
    train = ("train", found.preset, *_overrides(options, found))
    yield _step("check", _words(*train, "--check"))
    bundle = options.run / "bundle"
    yield _step("train", _words(*train), (bundle / "bundle.json",))
    for task in found.tasks:
        yield _evaluate(options, bundle, task)


def titles(options: Options, recipe: Recipe | None) -> list[str]:
    """Of all steps in order; where the recipe is not chosen yet, with one evaluation."""
    first = [title for name, title in TITLES.items() if not (name == "look" and options.studies)]
    return first + ([_title(task) for task in recipe.tasks] if recipe else ["evaluate"])


def _title(task: str) -> str:
    return f"evaluate ({task})"


def _step(
    name: str,
    words: tuple[str, ...],
    makes: tuple[Path, ...] = (),
    clears: tuple[Path, ...] = (),
    tells: bool = False,
    loose: bool = False,
) -> Step:
    return Step(name, TITLES[name], words, makes, clears, tells, loose)


def _look(options: Options) -> Step:
    words = ("data", "check_table", options.reports, "--images", options.folder, *_fields(options))
    return _step("look", _words(*words), tells=True)


def _convert(options: Options) -> Step:
    study = () if options.study_field is None else ("--study-field", options.study_field)
    asked = ("--studies", "--private", "--source", "reports", *study, *_fields(options), *options.convert)
    words = ("data", "convert", options.reports, "--images", options.folder, *asked)
    words = _words(*words, "--out", options.records)
    return _step("convert", words, (options.records,), (options.pictures,), loose=True)


def _evaluate(options: Options, bundle: Path, task: str) -> Step:
    result = options.result(task)
    page = result.with_suffix(".html")
    sides = ("--data", options.side("test"), "--train", options.side("train"))
    words = ("evaluate", bundle, "--task", task, *sides, "--out", result)
    return Step(f"evaluate {task}", _title(task), _words(*words), (result, page), (result, page))


def _overrides(options: Options, recipe: Recipe) -> list[str]:
    def source(side: str) -> str:
        return json.dumps([{"name": "reports", "table": str(options.side(side))}], ensure_ascii=False)

    return [
        f"data.train={source('train')}",
        f"data.validation={source('val')}",
        "data.holdout=null",
        f"model.bundle={json.dumps(str(options.base), ensure_ascii=False)}",
        f"run.folder={json.dumps(str(options.run), ensure_ascii=False)}",
        *recipe.overrides,
        *options.overrides,
    ]


def _fields(options: Options) -> Sequence[str]:
    return [word for field in options.fields for word in ("--field", field)]


def _words(*words: Any) -> tuple[str, ...]:
    return tuple(str(word) for word in words)
