"""Talking and evaluating on machines that lack what training needs, and on systems that lack what Linux has."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from run import runs

from vglm_train import distributed, train
from vglm_train.__main__ import main as vglm

ROOT = Path(__file__).resolve().parents[2]
GREEDY: dict[str, Any] = {"sample": False, "repetition_penalty": 1.0}


def table(folder: Path, pictures: list[Path], answers: list[str]) -> Path:
    rows = [{"image": str(picture), "question": "what number", "answer": answer}
            for picture, answer in zip(pictures, answers, strict=True)]  # fmt: skip
    (folder / "table.json").write_text(json.dumps(rows), "utf-8")
    return folder / "table.json"


def test_as_on_windows_and_without_what_only_training_needs(bundles, models, pictures, tmp_path, capsys):
    """The same answers and scores as here, with reading processes that are spawned, not forked."""
    model = models["causal"]
    known = [model.chat(picture, "what number", max_new=4, **GREEDY)[0] for picture in pictures]
    data = table(tmp_path, pictures, [*known[:3], "x", "y"])
    command = ["evaluate", str(bundles["causal"]), "--task", "vqa", "--data", str(data), "--max-new", "4"]
    assert vglm([*command, "--out", str(tmp_path / "here.json"), "--workers", "0"]) == 0
    expected = json.loads((tmp_path / "here.json").read_text("utf-8"))["scores"]
    assert expected["model"]["exact"] == 60
    script = [str(ROOT / "tests" / "like_windows.py"), str(bundles["causal"]), str(pictures[0].parent), str(data)]
    found = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": found, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, *script, str(tmp_path)], capture_output=True, text=True, env=environment,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    answer = model.chat(pictures[0], "what number", max_new=8, **GREEDY)[0]
    assert found["python"] == answer
    assert found["terminal"].strip() == answer
    assert found["scores 0"] == found["scores 2"] == expected
    assert "5 rows, 5 can be used" in found["check_table"]
    assert found["records"] == 5


def test_evaluating_imports_nothing_of_training(bundles, pictures, tmp_path):
    data = table(tmp_path, pictures, list("abcde"))
    code = (
        "import sys, json\n"
        "from vglm_train.__main__ import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "refused = ('deepspeed', 'wandb', 'datasets', 'webdataset', 'sat', 'matplotlib', 'braceexpand', 'requests')\n"
        "print([name for name in refused if name in sys.modules])\n"
    )
    command = ["evaluate", str(bundles["seq2seq"]), "--task", "vqa", "--data", str(data), "--workers", "0"]
    done = subprocess.run([sys.executable, "-c", code, *command, "--max-new", "2", "--out", str(tmp_path / "out.json")],
                          cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "[]"


WITHOUT = """
import contextlib, io, json, sys
from pathlib import Path
hidden = ("deepspeed", "sat", "datasets", "webdataset", "wandb", "matplotlib", "braceexpand", "requests", "boto3")
sys.modules.update(dict.fromkeys(hidden))
from vglm_train.errors import UserError
from vglm_train.__main__ import main as vglm
bundle, run, folder = sys.argv[1:]

def told(work):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            work()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return err.getvalue().strip().splitlines()[-1]

def transfer(address):
    from vglm_train.data.remote.transfer import read_from
    with read_from(address, 0, None, 1.0):
        pass

def shards():
    from vglm_train.data.shards.address import shards_of
    shards_of("https://host/{000..009}.tar")

def parquet():
    from vglm_train.data.tables.readers import open_table
    Path(folder, "rows.parquet").write_bytes(b"PAR1")
    open_table(Path(folder, "rows.parquet"))

print(json.dumps({
    "train": told(lambda: vglm(["train", run])),
    "chat": told(lambda: vglm(["chat", bundle, "--device", "cpu"])),
    "report": told(lambda: vglm(["report", folder])),
    "http": told(lambda: transfer("https://host/a.tar")),
    "s3": told(lambda: transfer("s3://bucket/a.tar")),
    "braces": told(shards),
    "parquet": told(parquet),
}))
"""


def test_a_package_that_is_missing_is_told_with_the_command_that_brings_it(bundles, tmp_path):
    run = runs.write_run(tmp_path / "run")
    command = [sys.executable, "-c", WITHOUT, str(bundles["chatglm"]), str(run), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    train_extra = 'which is not installed: pip install "vglm_train[train]"'
    assert json.loads(done.stdout) == {
        "train": f"error: training needs deepspeed, {train_extra}",
        "chat": 'error: ChatGLM needs SwissArmyTransformer, which is not installed: pip install "vglm_train[chat]", '
        'then pip install --no-deps "SwissArmyTransformer>=0.4.12,<0.5"',
        "report": f"error: drawing curves needs matplotlib, {train_extra}",
        "http": 'Failed: http:// needs requests: pip install "vglm_train[train]"',
        "s3": 'Failed: s3:// needs boto3: pip install "vglm_train[s3]"',
        "braces": f"UserError: the brace list https://host/{{000..009}}.tar needs braceexpand, {train_extra}",
        "parquet": "UserError: a table of Parquet files, of the hub or that `datasets` saved needs datasets, "
        f"{train_extra}",
    }


def test_training_on_windows_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    run = runs.write_run(tmp_path / "run")
    monkeypatch.setattr(train.sys, "platform", "win32")
    assert train.main([str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: training does not run on Windows")
    assert "WSL" in line


def test_the_device_is_apples_gpu_where_there_is_one(monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for apple, wanted in ((True, "mps"), (False, "cpu")):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda apple=apple: apple)
        assert distributed.best_device().type == wanted
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert distributed.best_device().type == "cpu"
