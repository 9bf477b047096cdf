"""What people get wrong, as they get it wrong: one error that says where and what to do, and nothing half-made left."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from made_shards import TOKENS, sample, write_manifest, write_shard
from transformers import BertConfig, BertForMaskedLM

from run import runs
from train import main
from vglm_train.engine.deepspeed_engine import DeepSpeedEngine

RUN = """\
run:
  name: photos
  length: {steps: 100}
model:
  vision: {image_size: 224, patch: 14}
data:
  train:
    - {name: photos, shards: shards/photos}
    - {name: drawings, shards: shards/drawings}
  global_batch: 24
objective:
  itc: {weight: 1}
optim:
  lr: 1e-4
  warmup: {steps: 10}
engine:
  zero: 1
log:
  wandb:
    mode: offline
"""
pytestmark = pytest.mark.usefixtures("alone")

LATEST = "checkpoints/step-00000030"


@pytest.fixture(scope="module")
def straight(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run of one process."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    runs.finish_here(config, folder)
    return folder


@pytest.fixture
def data(config: Path, tmp_path: Path) -> Path:
    """A copy of the training shards, to be damaged."""
    return Path(shutil.copytree(config.parent / "train", tmp_path / "train"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


MISTAKES = {
    "unknown section": ("engine:", "engin:", "run.yaml:16: engin: unknown key. Did you mean engine?"),
    "unknown key": ("  lr: 1e-4", "  lrr: 1e-4", "run.yaml:14: optim.lrr: unknown key. Did you mean optim.lr?"),
    "unknown key, third level": (
        "    mode:", "    mod:", "run.yaml:20: log.wandb.mod: unknown key. Did you mean log.wandb.mode?",
    ),
    "duplicate key": (
        "  zero: 1", "  zero: 1\n  zero: 2", "run.yaml:18: engine.zero: given twice, first at run.yaml:17; keep one",
    ),
    "duplicate section": ("log:", "optim:", "run.yaml:18: optim: given twice, first at run.yaml:13; keep one"),
    "tab": ("  zero: 1", "\tzero: 1", "run.yaml:17: a tab in the indentation; YAML wants spaces (two a level)"),
    "wrong type": (
        "global_batch: 24", "global_batch: many",
        "run.yaml:10: data.global_batch: expected a whole number, found the text 'many'",
    ),
    "out of range": (
        "global_batch: 24", "max_damaged: 1.5",
        "run.yaml:10: data.max_damaged: must be a fraction from 0 to 1, found 1.5",
    ),
    "warm-up": (
        "{steps: 10}", "{steps: 101}",
        "run.yaml:15: optim.warmup: a warm-up of 101 steps is longer than the run of 100 steps",
    ),
    "ZeRO 4": ("zero: 1", "zero: 4", "run.yaml:17: engine.zero: "),
    "image size": (
        "image_size: 224", "image_size: 225",
        "run.yaml:5: model.vision.image_size: 225 is not a multiple of patch 14: the picture is cut into whole "
        "patches. Nearest: 224 or 238",
    ),
    "two sources with one name": (
        "drawings, shards", "photos, shards",
        "run.yaml:9: data.train.1: the name 'photos' is already that of entry 0",
    ),
    "Chinese with the English processor": (
        "global_batch: 24", "languages: [en, zh]",
        "run.yaml:10: model.text.processor: blip is for English only",
    ),
    "negative loss weight": (
        "weight: 1", "weight: -1", "run.yaml:12: objective.itc.weight: must not be negative, found -1.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_in_the_file(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before, after, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    assert RUN.count(before) == 1
    Path("run.yaml").write_text(RUN.replace(before, after))
    said = refused("run.yaml")
    assert said.startswith(message)
    assert "\n" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["run.yaml"], "something was written"


def test_a_batch_that_does_not_divide_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(config), "--check", "--world", "3"]) == 0
    assert "of 8 rows = 3 ranks x 3 x 1 micro-batches less 1 empty places" in capsys.readouterr().out


def test_a_number_without_a_dot(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(config.read_text().replace("lr: 0.001", "lr: 1e-4"))
    assert main([str(path), "optim.min_lr=1e-6", "--check"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out.split("\n\n")[0])["optim"]
    assert float(shown["lr"]) == 1e-4
    assert float(shown["min_lr"]) == 1e-6


def _missing_shard(data: Path) -> str:
    (data / "shard-000001.tar").unlink()
    return f"{data}/shard-000001.tar: the file is missing, but {data}/manifest.json lists it. Bring it back, or run"


def _other_size(data: Path) -> str:
    with (data / "shard-000001.tar").open("ab") as file:
        file.write(bytes(512))
    size = (data / "shard-000001.tar").stat().st_size
    return f"{data}/shard-000001.tar: the file has {size} bytes, {data}/manifest.json says {size - 512}. Copy the shard"


def _no_manifest(data: Path) -> str:
    (data / "manifest.json").unlink()
    return f"{data}/manifest.json: no manifest. If the folder holds shards, run vglm data check_shards"


def _broken_manifest(data: Path) -> str:
    (data / "manifest.json").write_text("{")
    return f"{data}/manifest.json: not a manifest that can be used: it is not JSON"


def _empty_split(data: Path) -> str:
    write_manifest(data, {})
    return f"{data}/manifest.json: source 'made' is an empty split: its shards hold no sample at all."


def _no_folder(data: Path) -> str:
    shutil.rmtree(data)
    return f"{data}: no such folder of shards. vglm data pack_shards makes one."


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize(
    "damage", [_missing_shard, _other_size, _no_manifest, _broken_manifest, _empty_split, _no_folder]
)
def test_data(refused, config: Path, data: Path, tmp_path: Path, damage: Callable[[Path], str], part: str) -> None:
    """Found before the run folder is made, in validation data as well."""
    message = damage(data)
    absent = data if damage is _no_folder else None
    said = refused(config, f"data.{part}.0.shards={data}", f"run.folder={tmp_path / 'run'}", absent=absent)
    assert said.startswith(message)
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_a_manifest_that_counts_too_few(refused, config: Path, tmp_path: Path) -> None:
    """Seen when the shard is opened; the mended run starts in the same folder."""
    data = tmp_path / "train"
    data.mkdir()
    write_shard(data / "a.tar", [sample(n) for n in range(20)])
    write_manifest(data, {"a.tar": 19})
    words = (config, f"data.train.0.shards={data}", f"run.folder={tmp_path / 'run'}", "data.workers=0")
    said = refused(*words, only_running="no shard is opened before")
    assert said.startswith(f"{data}/a.tar: holds 20 samples, its manifest says 19: run vglm data check")
    write_manifest(data, {"a.tar": 20})
    assert main([*map(str, words), "run.length.steps=2", "optim.warmup.steps=1", "evaluate.every=null"]) == 0


def test_chinese_found_in_a_caption(refused, config: Path, tmp_path: Path) -> None:
    """Changing the model section, as the message asks, is possible in the same folder: nothing was trained yet."""
    captions = json.dumps({"id": "7", "image_id": 7, "captions": {"en": ["第7张照片"]}}).encode()
    data = tmp_path / "train"
    data.mkdir()
    write_shard(data / "a.tar", [sample(n, **({"json": captions} if n == 7 else {})) for n in range(8)])
    write_manifest(data, {"a.tar": 8})
    words = (
        config, f"data.train.0.shards={data}", f"run.folder={tmp_path / 'run'}", "data.workers=0",
        "data.languages=[en]", "data.validation=[]", "evaluate.every=null",
    )  # fmt: skip
    said = refused(*words, "model.text.processor=blip", only_running="no shard is opened before")
    assert said.startswith(f"{data}/a.tar, sample 000007: caption '第7张照片' is Chinese, but model.text.processor")
    assert said.endswith("Set model.text.processor to plain.")
    assert main([*map(str, words), "model.text.processor=plain", "run.length.steps=2", "optim.warmup.steps=1"]) == 0


def test_vocabulary_too_small_for_the_tokenizer(refused, config: Path, tmp_path: Path) -> None:
    said = refused(config, "model.qformer.vocabulary=200", f"run.folder={tmp_path / 'run'}")
    tokens = len(TOKENS) + 200 + 3
    assert said.startswith(
        f"override model.qformer.vocabulary=200: model.qformer.vocabulary: 200 words cannot hold the {tokens} tokens"
    )
    assert not (tmp_path / "run").exists()


def test_vocabulary_that_does_not_fit_the_weights(refused, config: Path, tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 1024}
    BertForMaskedLM(BertConfig(vocab_size=999, max_position_embeddings=16, **shape)).save_pretrained(tmp_path / "bert")
    said = refused(config, f"model.qformer.weights={tmp_path / 'bert'}", f"run.folder={tmp_path / 'run'}")
    assert said.startswith(f"{tmp_path / 'bert'} has a vocabulary of 999 tokens, the tokenizer with its added tokens")
    assert said.endswith("Set model.text.tokenizer to the tokenizer of these weights.")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["vision", "qformer"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such file or folder"),
        ("text", "a Git LFS pointer"),
        ("cut", "cut short"),
        ("index", "cannot read"),
    ],
)
def test_weights_that_cannot_be_read(
    refused, config: Path, straight, tmp_path: Path, field: str, kind: str, words: str
) -> None:
    path = tmp_path / "weights.safetensors"
    named = path
    if kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "cut":
        whole = (straight / LATEST / "tensors.safetensors").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "index":
        path.mkdir()
        named = path / "model.safetensors.index.json"
        named.write_text("{")
    absent = path if kind == "missing" else None
    said = refused(config, f"model.{field}.weights={path}", f"run.folder={tmp_path / 'run'}", absent=absent)
    assert words in said
    assert str(named) in said
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_a_card_that_is_full(refused, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch says it; only a GPU says it of itself."""
    full = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB. If reserved but"

    def step(*_: object) -> None:
        raise torch.OutOfMemoryError(full)

    monkeypatch.setattr(DeepSpeedEngine, "step", step)
    said = refused(config, f"run.folder={tmp_path / 'run'}", only_running="the card is full in a step")
    assert said.startswith(
        "the GPU's memory is full: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"
    )
    assert "23.6 GiB. Set engine.recompute=true, or a smaller engine.micro_batch" in said


def test_nccl_without_gpus(refused, config: Path, tmp_path: Path) -> None:
    reason = "a run for GPUs may be described where there are none"
    said = refused(config, "engine.backend=nccl", f"run.folder={tmp_path / 'run'}", only_running=reason)
    assert said == "engine.backend is nccl, but this machine shows no NVIDIA GPU: use gloo or auto."
    assert not (tmp_path / "run").exists()


def test_folder_of_another_run(refused, config: Path, straight, tmp_path: Path) -> None:
    before = contents(straight)
    said = refused(config, f"run.folder={straight}", "run.name=other", "run.seed=4")
    assert said.startswith(f"{straight} holds another run. Changed since it was started:\n")
    assert "  run.name: tiny there, other here\n  run.seed: 3 there, 4 here\n" in said
    assert said.endswith("or another run.name or run.folder for a new run.")
    assert contents(straight) == before


def test_resume_with_a_changed_model(refused, config: Path, straight) -> None:
    before = contents(straight)
    said = refused(config, f"run.folder={straight}", "model.qformer.width=64")
    assert "  model.qformer.width: 32 there, 64 here\n" in said
    assert contents(straight) == before


def test_folder_that_is_no_run(refused, config: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").touch()
    said = refused(config, f"run.folder={tmp_path / 'holiday'}")
    assert said.startswith(f"{tmp_path / 'holiday'} is not empty and holds no config.yaml, so it is not a run")
    assert [p.name for p in (tmp_path / "holiday").iterdir()] == ["photo.jpg"]
    said = refused(config, f"run.folder={tmp_path / 'holiday' / 'photo.jpg'}")
    assert said.endswith("photo.jpg is no folder, and one is needed there. Give another path.")
    said = refused(config, f"run.folder={tmp_path / 'holiday' / 'photo.jpg' / 'run'}")
    assert "photo.jpg is no folder" in said


def _cut_tensors(run: Path) -> str:
    file = run / LATEST / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return f"{file}: cannot be read ("


def _other_tensors(run: Path) -> str:
    file = run / LATEST / "tensors.safetensors"
    shutil.copy(run / "bundle" / "trained.safetensors", file)
    return f"{file} does not fit this run's model: "


def _broken_state(run: Path) -> str:
    (run / LATEST / "state.json").write_text('{"step": 3')
    return f"{run / LATEST}/state.json: cannot be read ("


def _state_of_another_version(run: Path) -> str:
    (run / LATEST / "state.json").write_text("{}")
    return f"{run / LATEST}: state.json is not of this program's making (state version None"


def _pointer_to_nothing(run: Path) -> str:
    (run / "checkpoints" / "latest").write_text("step-00000099\n")
    return f"{run}/checkpoints/latest names step-00000099, which is not a complete checkpoint. Write the name"


@pytest.mark.parametrize(
    "damage", [_cut_tensors, _other_tensors, _broken_state, _state_of_another_version, _pointer_to_nothing]
)
def test_checkpoint_that_cannot_be_read(
    refused, config: Path, straight, tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    run = Path(shutil.copytree(straight, tmp_path / "run"))
    message = damage(run)
    before = contents(run)
    said = refused(config, f"run.folder={run}")
    assert said.startswith(message)
    assert "\n" not in said
    assert contents(run) == before


@pytest.mark.parametrize("mistake", ["data.global_batch=1", "data.train.0.shards=nowhere"])
def test_two_processes_say_it_once(config: Path, tmp_path: Path, mistake: str) -> None:
    """Met before the ranks know each other, and after."""
    said = failed(runs.start(runs.command(config, tmp_path / "run", 2, mistake)))
    assert "data.global_batch: one row at a time" in said or "nowhere" in said
    assert not (tmp_path / "run").exists()


def failed(process) -> str:
    """The one `error:` line of a run that ends by itself; the launcher's own report follows it."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert 'train.py", line' not in output, output
    return errors[0]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where not even root may write")
@pytest.mark.parametrize("more", [[], ["--check"]])
def test_a_folder_that_cannot_be_written(refused, config: Path, more: list[str]) -> None:
    said = refused(config, "run.folder=/proc/nothing/here", *more)
    assert said.startswith("run.folder /proc/nothing/here: nothing can be written in /proc (")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_dead_worker(refused, config: Path, tmp_path: Path, processes: int) -> None:
    """Of the last rank, so that of two processes the one learns of it that usually speaks for both, from the other.

    While it runs, nobody else can train in its folder.
    """
    words = [f"run.folder={tmp_path / 'run'}", "run.length.steps=100000", "evaluate.every=null"]
    process = runs.start(runs.command(config, tmp_path / "run", processes, *words))
    runs.wait_for(tmp_path / "run", 3)
    if processes == 1:
        said = refused(config, *words, only_running="--check disturbs no run, and needs no lock")
        assert said.startswith(f"{tmp_path / 'run'}: another process is training here (process {process.pid} on ")
    ranks = [psutil.Process(process.pid)]
    if processes == 2:
        ranks = [p for p in ranks[0].children() if p.environ().get("RANK") == "1"]
    worker = next(p for p in ranks[0].children() if "train.py" in " ".join(p.cmdline()))
    worker.send_signal(signal.SIGKILL)
    said = failed(process)
    assert said.startswith("error: a loader worker died (")
    assert "Lower data.workers" in said


def test_a_full_disk(config: Path, tmp_path: Path) -> None:
    """No file may grow beyond 64 KiB here: the checkpoint does not fit."""
    command = runs.command(config, tmp_path / "run", 1)
    said = failed(runs.start(["bash", "-c", 'ulimit -f 64; exec "$@"', "bash", *command]))
    assert said.startswith(f"error: {tmp_path}/run/checkpoints/step-00000005: the checkpoint could not be written (")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
