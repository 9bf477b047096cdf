"""Everything that a run or a command writes, killed between any two file-system calls while it replaces an older one:
a whole one is found by the real reader, the old or the new, and the next one that is written leaves nothing else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import crash
import pytest
import torch
from made_bundles import built
from run import runs, speaking

from data_tools.small_language.train import save_language
from vglm_train import folders
from vglm_train.checkpoint.bundle.adapter import base_of, read_adapter, save_adapter
from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.bundle.write import save_bundle, save_finetuned
from vglm_train.checkpoint.convert import bundle as bundles
from vglm_train.checkpoint.convert import hugging_face, lavis
from vglm_train.checkpoint.convert.commands import read as read_source
from vglm_train.checkpoint.convert.registry import raw_tensors, recognise
from vglm_train.checkpoint.convert.source import Options
from vglm_train.checkpoint.load.language import load_language
from vglm_train.checkpoint.resume import Checkpoints, read_state, read_tensors
from vglm_train.config.language import Language
from vglm_train.config.load import load
from vglm_train.config.tuning import Lora, Rule, Tuning
from vglm_train.distributed import Ranks
from vglm_train.engine.hooks import Cadence
from vglm_train.engine.progress import RunState
from vglm_train.engine.saving import SaveHook
from vglm_train.log.jsonl import read_rows
from vglm_train.log.sinks import JsonlSink
from vglm_train.model.language import build_language
from vglm_train.model.tuning import apply_tuning
from vglm_train.prompt.tokenizers import build_tokenizer

CPU = torch.device("cpu")
LORA = Tuning(rules=(Rule(match="*", train=False),), lora=Lora(rank=2, alpha=4.0))


@dataclass(frozen=True, slots=True)
class Writer:
    """`write` an old one (0), a new one (1); `read` is the real reader, which says which of them it found."""

    write: Callable[[Path, int], Any]
    read: Callable[[Path], Any]


@dataclass(frozen=True, slots=True)
class Made:
    """What the writers write."""

    config: Path  # of stage two with a language model of transformers
    base: Path  # its bundle
    chatglm: Language  # a small language model of data_tools


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    run = runs.write_run(folder)
    config = speaking.write_run(run, speaking.write_bundle(run, folder / "aligned"), folder / "spoken", "causal")
    stage, model = built(config)
    stage.save(folder / "base", model, {})
    chatglm = load(speaking.write_run(run, folder / "aligned", folder / "spoken", "chatglm")).model.language
    assert chatglm is not None
    return Made(config, folder / "base", chatglm)


def _changed(model: Any, by: int) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)
    return model


def _bundle(made: Made) -> Writer:
    opened = [open_bundle(made.base, CPU) for _ in range(2)]
    words = opened[0].template.tokenizer

    def write(folder: Path, number: int) -> None:
        save_bundle(folder, stage.config, models[number], words, {"step": number})

    stage, models = built(made.config)[0], [_changed(bundle.model, number) for number, bundle in enumerate(opened)]
    return Writer(write, lambda folder: open_bundle(folder, CPU).document["origin"]["step"])


def _tuned_models(made: Made) -> list[Any]:
    models = [open_bundle(made.base, CPU).model for _ in range(2)]
    for number, model in enumerate(models):
        apply_tuning(model, LORA, number)
    return models


def _finetuned(made: Made) -> Writer:
    bundle, models = open_bundle(made.base, CPU), _tuned_models(made)

    def write(folder: Path, number: int) -> None:
        tokenizer = bundle.template.tokenizer
        save_finetuned(folder, stage.config, made.base, models[number], tokenizer, {"step": number})

    stage = built(made.config, "tuning.rules=[{match: '*', train: false}]", "tuning.lora={rank: 2, alpha: 4}")[0]
    return Writer(write, lambda folder: open_bundle(folder, CPU).document["origin"]["step"])


def _adapter(made: Made) -> Writer:
    models, base = _tuned_models(made), base_of(made.base, read_document(made.base))

    def write(folder: Path, number: int) -> None:
        save_adapter(folder, models[number].trained_parameters(), LORA, base, {"step": number})

    return Writer(write, lambda folder: read_adapter(folder).document["origin"]["step"])


def _import(made: Made) -> Writer:
    source = read_source(made.base, "bundle", Options())

    def write(folder: Path, number: int) -> None:
        source.origin = {"number": number}
        bundles.write(source, folder, force=True)

    return Writer(write, lambda folder: open_bundle(folder, CPU).document["origin"]["imported"]["number"])


def _hugging_face(made: Made) -> Writer:
    """In several files, of which all must be there."""
    source = read_source(made.base, "bundle", Options())

    def write(folder: Path, number: int) -> None:
        source.origin = {"kept": {"generation_config.json": {"number": number}}}
        hugging_face.write(source, folder, force=True, limit=200_000)

    def read(folder: Path) -> Any:
        assert recognise(folder) == "hf-blip2"
        return read_source(folder, "auto", Options()).origin["kept"]["generation_config.json"]["number"]

    return Writer(write, read)


def _lavis(made: Made) -> Writer:
    sources = [read_source(made.base, "bundle", Options()) for _ in range(2)]
    del sources[0].tensors["projection.bias"]  # any difference will do

    def write(file: Path, number: int) -> None:
        lavis.write(sources[number], file, force=True)

    def read(file: Path) -> int:
        assert recognise(file) == "lavis"
        return int("opt_proj.bias" in raw_tensors(file, "lavis"))

    return Writer(write, read)


def _small_language(made: Made) -> Writer:
    shape, tokenizer = made.chatglm, Path(f"{made.chatglm.weights}.model")
    models = [build_language(shape, sop_id=3) for _ in range(2)]
    with torch.no_grad():
        for number, model in enumerate(models):
            for parameter in model.parameters():
                parameter.fill_(number)

    def write(folder: Path, number: int) -> None:
        save_language(models[number], shape, tokenizer, folder)

    def read(folder: Path) -> int:
        config = replace(shape, weights=str(folder))
        build_tokenizer(config)
        model = build_language(shape, sop_id=3)
        load_language(model, config)
        first = next(model.parameters())
        return next(number for number in range(2) if torch.equal(first, next(models[number].parameters())))

    return Writer(write, read)


WRITERS = {
    "bundle": _bundle, "fine-tuned bundle": _finetuned, "adapter": _adapter, "import": _import,
    "hugging face": _hugging_face, "lavis": _lavis, "small language model": _small_language,
}  # fmt: skip


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":  # as where no two names can be exchanged
        monkeypatch.setattr(folders, "exchange", lambda *_: False)
    return str(request.param)


# seconds each; what differs between the two ways is tested for every kind of target in tests/test_folders.py
SLOW = {("two renames", kind) for kind in WRITERS if kind not in ("bundle", "lavis")} | {("exchange", "hugging face")}
CASES = [
    pytest.param(way, kind, marks=[pytest.mark.slow] if (way, kind) in SLOW else [])
    for way in ("exchange", "two renames")
    for kind in WRITERS
]


@pytest.mark.parametrize(("way", "kind"), CASES, indirect=["way"])
def test_an_older_one_is_replaced_or_stays(made: Made, tmp_path: Path, way: str, kind: str) -> None:
    writer, known, read = WRITERS[kind](made), {}, {}
    out = tmp_path / "out" / "made"
    out.parent.mkdir()
    for number in range(2):
        writer.write(out, number)
        known[number] = crash.content(out)
        assert writer.read(out) == number
    assert known[0] != known[1]

    def restore() -> None:
        folders._empty(out.parent)
        crash.put(out, known[0])

    for _ in crash.everywhere(lambda: writer.write(out, 1), restore):
        gap = not out.exists()
        found = writer.read(out) if gap or str(crash.content(out)) not in read else read[str(crash.content(out))]
        assert not gap or way == "two renames"
        assert crash.content(out) == known[found]
        read[str(known[found])] = found
        writer.write(out, 1)
        assert crash.content(out) == known[1]
        assert [path.name for path in out.parent.iterdir()] == ["made"]
    assert set(read.values()) == {0, 1}


@pytest.mark.parametrize("way", ["exchange", "two renames"], indirect=True)
def test_a_checkpoint(tmp_path: Path, way: str) -> None:
    """Step 2 is written while step 1 is the latest, over a step 2 that was never named and is of another state."""
    checkpoints = Checkpoints(tmp_path)
    tensors = [{"weight/a": torch.full((1000,), float(number)), "adam/a": torch.ones(3)} for number in range(3)]

    def restore() -> None:
        folders._empty(tmp_path)
        checkpoints.write(2, tensors[0], {"step": 0})
        checkpoints.write(1, tensors[1], {"step": 1})

    def read() -> int:
        latest = checkpoints.latest()
        assert latest is not None
        step = read_state(latest)["step"]
        assert torch.equal(read_tensors(latest, {"a": (1000,)})["weight/a"], tensors[step]["weight/a"])
        return int(step)

    def write() -> None:
        checkpoints.write(2, tensors[2], {"step": 2})
        checkpoints.prune(1)

    found = []
    for _ in crash.everywhere(write, restore):
        found.append(read())
        write()
        assert read() == 2
        assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000002"]
    assert found == sorted(found)
    assert set(found) == {1, 2}


class Training:
    """In place of the engine: what trains is full of the number of the step."""

    def __init__(self) -> None:
        self.weights = torch.zeros(1000)

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight/a": (1000,), "adam/a": (3,)}

    def state(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield "weight/a", self.weights
        yield "adam/a", self.weights[:3].clone()


def test_checkpoints_that_are_written_while_training_goes_on(tmp_path: Path) -> None:
    """Steps 2 and 3 are saved at once, so that the second waits for the first, while step 1 is the latest. What trains
    changes as soon as each is copied, and rows of later steps are logged meanwhile."""
    folder, step_1 = tmp_path / "checkpoints", torch.full((1000,), 1.0)

    def restore() -> None:
        folders._empty(tmp_path)
        Checkpoints(folder).write(1, {"weight/a": step_1, "adam/a": step_1[:3].clone()}, RunState(step=1).to_dict())

    def write() -> None:
        training, state = Training(), RunState(step=1)
        sink = JsonlSink(tmp_path, 1)
        hook = SaveHook(Checkpoints(folder), training, state, Cadence(1, 1, None), 1, [sink], Ranks())  # type: ignore
        for step in (2, 3):
            training.weights.fill_(step)
            state.step = step
            sink.write(step, {"train/loss": float(step)})
            hook.save(step)
            training.weights.fill_(-1)
            state.step = -1
        sink.write(4, {"train/loss": 4.0})
        hook.close()

    def read() -> int:
        latest = Checkpoints(folder).latest()
        assert latest is not None
        step = RunState.read(latest).step
        assert latest.name == f"step-{step:08d}"
        tensors = read_tensors(latest, {"a": (1000,)})
        assert all(bool((tensor == step).all()) for tensor in tensors.values())
        assert {row for row, _ in read_rows(tmp_path / "metrics.jsonl")} >= set(range(2, step + 1))
        return step

    found = []
    for _ in crash.everywhere(write, restore):
        found.append(read())
        write()
        assert read() == 3
        assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000003"]
    assert found == sorted(found)
    assert set(found) == {1, 2, 3}
