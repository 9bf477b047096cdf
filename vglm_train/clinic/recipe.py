"""Which preset trains the base on these records, by the memory of the card: `vglm clinic recipe`.

A preset fits where the estimate of `vglm train --check`, with a margin, is below the memory of the first GPU, or of the
machine where there is none. Of those that train this kind of language model, the first that fits is taken: what trains
more exactly comes first, then fewer bits, then fewer rows at once.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vglm_train.command import program, run_command
from vglm_train.config.load import load
from vglm_train.config.presets import find_config
from vglm_train.config.run import Config
from vglm_train.data.record import Record, RecordError, parse
from vglm_train.env import environment
from vglm_train.errors import UserError
from vglm_train.files import write_json

if TYPE_CHECKING:
    from vglm_train.describe import Memory

GIB = 2**30
CONTEXT = 1.0  # GiB of CUDA's context and libraries
MARGIN = 1.11  # the estimate was within 11 % of what was measured
RELEASED = 20  # blocks of a language model from which on it counts as one of those that are released
TASKS = ("report", "vqa")


@dataclass(frozen=True, slots=True)
class Recipe:
    """`preset` with `overrides` trains the base; `tasks` are those that the test has something for."""

    preset: str
    overrides: tuple[str, ...]
    tasks: tuple[str, ...]
    reason: str
    checkpoint: int  # bytes

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """UserError where the file is none."""
        try:
            held = json.loads(path.read_text("utf-8"))
            return cls(**{**held, "overrides": tuple(held["overrides"]), "tasks": tuple(held["tasks"])})
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path}: is no recipe; delete it, and the same command makes it anew") from None


@dataclass(frozen=True, slots=True)
class Machine:
    """What trains: `memory` in bytes."""

    name: str
    memory: int
    gpu: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What the records hold."""

    languages: tuple[str, ...]
    tasks: tuple[str, ...]
    images: int  # the most of a record


def needs(memory: "Memory") -> float:
    """GiB that a card must have, if a run needs as much more than the estimate as a measured one did at most."""
    return memory.total / GIB * MARGIN + CONTEXT


def machine() -> Machine:
    """The first GPU, else this machine. UserError where its memory cannot be told."""
    found = environment()
    if found["cuda_usable"] and found["gpus"]:
        return Machine(found["gpus"][0]["name"], found["gpus"][0]["total"], True)
    if found["ram"] is None:
        raise UserError("the memory of this machine cannot be told; name a recipe with --preset")
    return Machine("this machine's CPU", found["ram"], False)


def presets_for(language: Any, task: str) -> list[str]:
    """Names of presets for a bundle's language model (section model.language), the best first."""
    if (language.layers or 0) < RELEASED and language.family == "chatglm":
        return [f"xray_{task}_small"]
    kinds = {"chatglm": ("chatglm_lora", "chatglm_qlora"), "causal": ("opt",), "seq2seq": ("flan_t5",)}
    return [f"xray_{task}_{kind}" for kind in kinds[language.family]]


def look(folder: Path) -> Found:
    """What train.jsonl and test.jsonl of a split hold. UserError where they cannot be read."""
    languages, tasks, images = set[str](), set[str](), 1
    for record in _records(folder / "train.jsonl"):
        languages.update(record.caption_counts)
        images = max(images, 1 + len(record.more))
    for record in _records(folder / "test.jsonl"):
        tasks.add("report" if not record.turns or record.kind == "report" else "vqa")
    return Found(tuple(sorted(languages)), tuple(sorted(tasks)), images)


def choose(found: Found, base: Path, preset: str | None, has: Machine, changes: Sequence[str] = ()) -> Recipe:
    """UserError where no preset fits. `changes`: overrides that a person gives, which come last."""
    task = "vqa" if "vqa" in found.tasks else "report"
    names = [preset] if preset else presets_for(_language(base, f"xray_{task}_small"), task)
    tried: list[str] = []
    for name in names:
        for overrides, config in _variants(name, base, found, has, changes):
            need, checkpoint = _estimate(config)
            shown = f"{name}{_rows(config)}: {need:.1f} GiB"
            if preset or need <= has.memory / GIB:
                how = "as asked for" if preset else "the first that fits" if tried else "it fits"
                reason = f"{name}: needs about {need:.1f} GiB of {has.memory / GIB:.1f} of {has.name}; {how}"
                return Recipe(name, overrides, found.tasks, reason, checkpoint)
            tried.append(shown)
    raise UserError(
        f"no recipe fits {has.memory / GIB:.1f} GiB of {has.name}: {'; '.join(tried)}. Take a smaller base, a larger "
        "card, or name one with --preset and overrides such as engine.offload=cpu"
    )


def _variants(
    name: str, base: Path, found: Found, has: Machine, changes: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], Config]]:
    """A preset on this base, with ever fewer rows at once."""
    path = find_config(name).path
    bundle = f"model.bundle={json.dumps(str(base), ensure_ascii=False)}"
    config = load(path, [bundle])
    languages = [each for each in config.data.languages if each in found.languages]
    if not languages:
        raise UserError(f"{name} is for {', '.join(config.data.languages)}, and the reports are in other languages")
    overrides = [f"data.languages=[{', '.join(languages)}]"]
    overrides += [f"prompt.max_images={found.images}"] if found.images > config.prompt.max_images else []
    overrides += [] if has.gpu or config.engine.precision == "fp32" else ["engine.precision=fp32"]
    rows = config.engine.micro_batch
    yield tuple(overrides), load(path, [bundle, *overrides, *changes])
    while rows is not None and rows > 1:
        rows //= 2
        fewer = [*overrides, f"engine.micro_batch={rows}"]
        yield tuple(fewer), load(path, [bundle, *fewer, *changes])


def _estimate(config: Config) -> tuple[float, int]:
    """GiB that it needs, and bytes of a checkpoint."""
    import torch

    from vglm_train import stages
    from vglm_train.describe import estimate_memory

    stage = stages.build(config)
    with torch.device("meta"):
        model = stage.model()
        stage.tune(model)
    memory = estimate_memory(config, stage, model, 1)
    return needs(memory), int(memory.checkpoint * 4 / 3)


def _rows(config: Config) -> str:
    return f" with {config.engine.micro_batch} rows at once" if config.engine.micro_batch else ""


def _language(base: Path, preset: str) -> Any:
    language = load(
        find_config(preset).path, [f"model.bundle={json.dumps(str(base), ensure_ascii=False)}"]
    ).model.language
    if language is None:
        raise UserError(f"--base {base}: has no language model; give a bundle of stage generate")
    return language


def _records(path: Path) -> Iterator[Record]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from map(parse, file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); vglm data split makes it") from None
    except RecordError as error:
        raise UserError(f"{path}: holds a line that is no record ({error}); vglm data split makes it anew") from None


def _run(args: argparse.Namespace) -> int:
    found, has = look(args.data), machine()
    recipe = choose(found, args.base.resolve(), args.preset, has, args.overrides)
    if args.out is not None:
        write_json(args.out, asdict(recipe))
    print(recipe.reason)
    print(f"with: {' '.join(recipe.overrides)}\nto be judged by: {', '.join(recipe.tasks)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`vglm clinic recipe`. Exit status: 0, 2 for a mistake to mend."""
    parser = argparse.ArgumentParser(
        prog=f"{program('vglm_train.clinic')} recipe", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("data", type=Path, help="folder of vglm data split")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change single values of it")
    parser.add_argument("--base", type=Path, required=True, help="bundle to fine-tune")
    parser.add_argument("--preset", help="take this one, whether it fits or not")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return run_command(partial(_run, parser.parse_intermixed_args(argv)))
