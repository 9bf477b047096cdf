"""What changes under a run between two starts: it continues exactly, or is refused with both values, or told."""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import made_tables
import pytest
import torch
import yaml
from made_shards import jpeg, sample, write_manifest, write_shard
from safetensors.torch import load_file, save_file

from run import runs, speaking
from run.starts import STEPS, begin, go_on, said, second_start
from vglm_train.checkpoint import inputs
from vglm_train.data.features.identity import VERSIONS
from vglm_train.model.alignment import Alignment

pytestmark = pytest.mark.usefixtures("alone")
EPOCH = 40 + 33 + 27

Change = Callable[[Path], None]


def keys(home: Path) -> dict[int, list[str]]:
    """Step -> samples that it read."""
    rows = [json.loads(line) for line in (home / "run" / "samples-0.jsonl").read_text().splitlines()]
    return {row["step"]: row["keys"] for row in rows}


def add_shard(home: Path) -> None:
    write_shard(home / "train" / "shard-000003.tar", [sample(EPOCH + n) for n in range(20)])
    counts = {f"shard-{n:06d}.tar": count for n, count in enumerate((40, 33, 27, 20))}
    write_manifest(home / "train", counts, captions={"en": 240, "zh": 120})


def other_captions(home: Path) -> None:
    """A shard of the same length and manifest of the same counts, in which two samples are exchanged."""
    rows = [sample(n) for n in range(40)]
    write_shard(home / "train" / "shard-000000.tar", [rows[1], rows[0], *rows[2:]])
    counts = {f"shard-{n:06d}.tar": count for n, count in enumerate((40, 33, 27))}
    write_manifest(home / "train", counts, captions={"en": 200, "zh": 100})


def spoil_shard(home: Path) -> None:
    """Other bytes of the same number, behind the manifest's back."""
    path = home / "train" / "shard-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"photo number 45", b"photo number 54"))


def other_encoder(home: Path) -> None:
    tensors = load_file(home / "encoder.safetensors")
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name] = tensors[name] + torch.ones_like(tensors[name])
    save_file(tensors, home / "encoder.safetensors")


CHANGES: dict[str, tuple[Change, str]] = {
    "a shard more": (add_shard, r"data.train made: 100 samples in 3 shards \(\w+\).*, 120 samples in 4 shards \(\w+\)"),
    "captions": (other_captions, r"data.train made: 100 samples in 3 shards \((\w+)\).*, 100 samples in 3 .* \((?!\1)"),
    "a shard behind its manifest": (spoil_shard, r"shard-000001.tar: its content is not what .*manifest.json says"),
    "the image encoder": (other_encoder,
                          r"model.vision.weights \S+encoder.safetensors: content (\w+) when .*, content (?!\1)\w+ now"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_what_has_changed_is_refused_with_both_values(
    home: Path, refused: Callable[..., str], change: Change, words: str
) -> None:
    begin(home)
    before = {path: path.read_bytes() for path in (home / "run").rglob("*") if path.is_file()}
    change(home)
    start = (home / "run.yaml", f"run.folder={home / 'run'}", f"run.length.steps={2 * STEPS}")
    error = refused(*start)
    assert re.search(words, error, 16), error
    assert {path: path.read_bytes() for path in (home / "run").rglob("*") if path.is_file()} == before


def test_what_has_not_changed_continues_exactly(home: Path) -> None:
    """Also where times have: a copy of the data is the data."""
    begin(home)
    for path in (home / "train").iterdir():
        os.utime(path, (1, 1))
    os.utime(home / "encoder.safetensors", (1, 1))
    assert go_on(home) == 0
    assert "changed: data" not in said(home)
    assert "changed: model" not in said(home)
    straight = home / "straight"
    runs.finish_here(home / "run.yaml", straight, f"run.length.steps={2 * STEPS}")
    assert runs.losses(home / "run")[-5:] == runs.losses(straight)[-5:]


def test_accepted_data_is_read_from_its_beginning_and_a_kill_does_not_forget_it(home: Path) -> None:
    begin(home)
    add_shard(home)
    assert go_on(home, "--accept-changes", steps=STEPS + 3) == 0
    assert "120 samples in 4 shards" in said(home)
    assert "the data is read from its beginning again, in a new order, from step 5 on" in said(home)
    shutil.rmtree(home / "run" / "bundle")
    assert go_on(home, steps=STEPS + 6) == 0, "what was accepted is not asked again"
    read = keys(home)
    epoch = [key for step in range(STEPS + 1, STEPS + 7) for key in read[step]]
    assert len(epoch) == len(set(epoch)) == 120
    first = [key for step in range(1, STEPS + 1) for key in read[step]]
    assert first != epoch[:100], "another order"


def test_what_was_accepted_without_a_checkpoint_is_asked_again(home: Path) -> None:
    begin(home)
    shutil.copytree(home / "run", home / "kept")
    add_shard(home)
    assert go_on(home, "--accept-changes") == 0
    shutil.rmtree(home / "run")
    (home / "kept").rename(home / "run")  # as after a kill before the first new checkpoint
    assert go_on(home) == 2


def test_a_later_version_of_the_decoder_is_refused(
    home: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(home)
    now = VERSIONS["turbo"]
    monkeypatch.setitem(VERSIONS, "turbo", now + 1)
    error = refused(home / "run.yaml", f"run.folder={home / 'run'}", f"run.length.steps={2 * STEPS}")
    assert f"code: pixels {now}, order {inputs.STREAM} when" in error
    assert f"pixels {now + 1}, order {inputs.STREAM} now" in error


def test_other_image_settings_are_refused(home: Path, refused: Callable[..., str]) -> None:
    begin(home)
    start = (home / "run.yaml", f"run.folder={home / 'run'}", f"run.length.steps={2 * STEPS}")
    assert "data.image.flip: true there, false here" in refused(*start, "data.image.flip=false")


def test_another_library_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(home)
    monkeypatch.setattr(inputs, "version", lambda name: "0.0")
    assert go_on(home) == 0
    assert "changed: torch: version 2." in said(home)


def test_a_free_setting_is_told(home: Path) -> None:
    begin(home)
    assert go_on(home, "engine.zero=2") == 0
    assert "changed: engine.zero: 1 before, 2 now" in said(home)


def test_a_checkpoint_of_before_there_were_inputs_is_continued(home: Path) -> None:
    begin(home)
    file = next((home / "run" / "checkpoints").glob("step-*/state.json"))
    state = json.loads(file.read_text())
    for name in ("inputs", "streams", "stream_start", "best_of", "evaluations_since_best"):
        del state[name]
    file.write_text(json.dumps(state))
    assert go_on(home) == 0
    assert "does not say what it was trained on" in said(home)


def test_a_checkpoint_that_does_not_know_a_tokenizer_is_continued(home: Path) -> None:
    """Written before tokenizers were among the inputs."""
    begin(home)
    file = next((home / "run" / "checkpoints").glob("step-*/state.json"))
    state = json.loads(file.read_text())
    del state["inputs"]["words"], state["inputs"]["held"]["model.text.tokenizer"]
    file.write_text(json.dumps(state))
    assert go_on(home) == 0
    assert re.search(
        rf"changed: model.text.tokenizer \S+ is not compared, since {file.parent.name} does not say", said(home)
    )


def more_rows(home: Path) -> None:
    made_tables.write_json(home / "table.json", made_tables.visualglm(made_tables.pictures(home, 34)))


def other_answer(home: Path) -> None:
    text = (home / "table.json").read_text()
    (home / "table.json").write_text(text.replace('"photo 7"', '"photo 8"'))


def other_picture(home: Path) -> None:
    (home / "images" / "7.jpg").write_bytes(jpeg(70))


TABLES: dict[str, tuple[Change, str]] = {
    "rows": (more_rows, r"data.train own: 30 samples \(\w+\) when .*, 34 samples \(\w+\) now"),
    "an answer": (other_answer, r"data.train own: 30 samples \((\w+)\) when .*, 30 samples \((?!\1)"),
    "a picture": (other_picture, r"data.train own, pictures: 30 compared \((\w+)\) when .*, 30 compared \((?!\1)"),
}


@pytest.mark.parametrize(("change", "words"), TABLES.values(), ids=TABLES)
def test_a_table_that_has_changed_is_refused(
    table: Path, refused: Callable[..., str], change: Change, words: str
) -> None:
    begin(table)
    change(table)
    start = (table / "run.yaml", f"run.folder={table / 'run'}", f"run.length.steps={2 * STEPS}")
    error = refused(*start)
    assert re.search(words, error, 16), error


def test_a_table_written_otherwise_is_the_same(table: Path) -> None:
    begin(table)
    rows = json.loads((table / "table.json").read_text())
    (table / "table.json").write_text(json.dumps(rows))
    assert go_on(table) == 0
    assert "changed: data" not in said(table)


def test_the_language_model_and_the_bundle_that_a_run_began_with(
    table: Path, refused: Callable[..., str], config: Path
) -> None:
    document = yaml.safe_load((table / "run.yaml").read_text())
    own = speaking.write_bundle(config, table / "own")
    document["model"]["qformer"]["weights"] = str(own)
    language = Path(shutil.copytree(document["model"]["language"]["weights"], table / "language"))
    document["model"]["language"]["weights"] = str(language)
    (table / "run.yaml").write_text(yaml.safe_dump(document))
    begin(table)
    shutil.rmtree(own)
    speaking.write_bundle(config, own, "run.seed=9", "model.qformer.spread=0.5")
    file = next(language.glob("*.safetensors"))
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    next(iter(tensors.values()))[0] += 1
    save_file(tensors, file, {"format": "pt"})
    error = refused(table / "run.yaml", f"run.folder={table / 'run'}", f"run.length.steps={2 * STEPS}")
    assert f"model.qformer.weights {own}: content " in error
    assert f"model.language.weights {language}: content " in error
    assert "from its beginning" not in error, "the data is the same"


def test_a_run_that_trained_nothing_is_an_error(home: Path, refused: Callable[..., str]) -> None:
    error = refused(
        *(home / "run.yaml", f"run.folder={home / 'run'}", "run.length.steps=3", "optim.warmup.steps=0"),
        *("data.validation=[]", "evaluate.every=null", "objective.itc.weight=1e39"),
        only_running="losses are known when they are computed",
    )
    assert "none of the 3 steps was applied" in error
    assert not (home / "run" / "bundle").exists()


def test_a_run_that_trained_almost_nothing_is_an_error(home: Path, refused: Callable[..., str]) -> None:
    error = refused(
        *(home / "run.yaml", f"run.folder={home / 'run'}", "run.length.steps=4", "optim.warmup.steps=0"),
        *("data.validation=[]", "evaluate.every=null", "optim.lr=1e30"),
        only_running="losses are known when they are computed",
    )
    assert "3 of the 4 steps were not applied, since losses or gradients were not finite" in error
    assert not (home / "run" / "bundle").exists()


def test_a_checkpoint_of_weights_that_are_not_finite_is_not_continued(home: Path, refused: Callable[..., str]) -> None:
    begin(home, "checkpoint.every=2")
    file = home / "run" / "checkpoints" / "step-00000005" / "tensors.safetensors"
    tensors = load_file(file)
    tensors["weight/model.temperature"].fill_(torch.nan)
    save_file(tensors, file)
    error = refused(*second_start(home), only_running="--check reads no weights")
    assert f"{file} holds NaN or infinite values in model.temperature" in error
    assert "(there are: step-00000004)" in error


def test_a_bundle_of_weights_that_are_not_finite_is_not_written(
    home: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        state = dict(torch.nn.Module.state_dict(model))
        state["temperature"] = torch.full_like(state["temperature"], torch.nan)
        return state

    monkeypatch.setattr(Alignment, "state_dict", broken)
    words = ("run.length.steps=4", "data.validation=[]", "evaluate.every=null")
    error = refused(
        home / "run.yaml", f"run.folder={home / 'run'}", *words, only_running="weights change while it runs"
    )
    assert f"{home / 'run' / 'bundle'}: the bundle was not written, since 1 of" in error
    assert "trained tensors are not finite (temperature)" in error
    assert not (home / "run" / "bundle").exists()


def test_machines_that_do_not_hold_the_same_are_refused(home: Path) -> None:
    """Each machine's first process compares what it holds; both say so, and neither waits for the other."""
    for machine in ("first", "other"):
        shutil.copytree(home / "train", home / machine / "train")
    add_shard(home)
    shutil.rmtree(home / "first" / "train")
    shutil.copytree(home / "train", home / "first" / "train")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank, machine in enumerate(("first", "other")):
        words = "data.train=[{name: made, shards: train}]"
        around = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        command = runs.command(home / "run.yaml", home / "run", 1, words)
        started.append(runs.start(command, home / machine, **around, MASTER_ADDR="127.0.0.1", MASTER_PORT=port))
    for process in started:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 2, said
        assert "the machines of this run do not hold the same" in said
        assert re.search(r"data.train made: 120 samples in 4 .* on the first, 100 samples in 3 .* on another", said), (
            said
        )
