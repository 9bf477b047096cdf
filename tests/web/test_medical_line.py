"""From a fine-tuning on grey pictures to its answer in the page: tuned, merged, evaluated, asked."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from made_bundles import built
from web.made_page import Served, Watched, add_pictures, ask

from examples.marks.make_data import QUESTION, write_data
from vglm_train.chat.__main__ import main as chat
from vglm_train.chat.model import load
from vglm_train.checkpoint.__main__ import main as checkpoint
from vglm_train.config import load as configuration
from vglm_train.evaluate.__main__ import main as evaluate
from vglm_train.web.notice import is_medical, recorded

GREEDY = ["--max-new", "8", "--temperature", "0", "--device", "cpu"]
ENGLISH, CHINESE = "no medical device", "不是医疗器械"


@pytest.fixture(scope="module")
def line(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, a base, what a fine-tuning of it left in run/bundle, and both in `merged`.

    That it is about medicine is only said by the name of the run's data, as a hospital may call it.
    """
    folder = tmp_path_factory.mktemp("line")
    write_data(folder / "data", 8, 6, seed=0)
    (folder / "base").symlink_to(bundles["chatglm"])
    document = {
        "run": {"name": "third", "stage": "finetune", "length": {"steps": 1}},
        "model": {"bundle": str(folder / "base")},
        "prompt": {"max_prompt": 120, "max_answer": 8},
        "data": {"train": [{"name": "胸片", "table": str(folder / "data" / "train.json")}], "languages": ["en"]},
        "engine": {"precision": "fp32"},
        "tuning": {"lora": {"rank": 2, "alpha": 8}},
        "evaluate": {"task": "vqa", "decoding": {"max_new": 8}},
    }
    (folder / "finetune.yaml").write_text(yaml.safe_dump(document), "utf-8")
    stage, model = built(folder / "finetune.yaml")
    stage.tune(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    stage.save(folder / "run" / "bundle", model, {"run": "third", "step": 1})
    command = ["merge", str(folder / "base"), "--adapter", str(folder / "run" / "bundle")]
    assert checkpoint([*command, "--out", str(folder / "merged")]) == 0
    return folder


@contextmanager
def page(*options: object) -> Iterator[str]:
    """The address of `vglm web`; it ends with a signal and without a complaint."""
    command = [sys.executable, "-m", "vglm_train.web", *map(str, options), "--port", "0", *GREEDY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            assert told.startswith("open http://127.0.0.1:"), process.stderr and process.stderr.read()
            yield told.split()[1].rstrip("/")
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err


def test_the_merged_model_answers_under_its_warning_and_verdict(line, windows, capsys):
    """The command in a process of its own, as a person starts it, and a real browser."""
    data = ["--data", str(line / "data" / "test.json"), "--workers", "0"]
    assert evaluate([str(line / "merged"), "--task", "vqa", *data]) == 0
    row = json.loads((line / "data" / "test.json").read_text())[0]
    picture = line / "data" / row["img"]
    answers = [load(line / name, device="cpu").chat(picture, QUESTION, max_new=8, temperature=0)[0]
               for name in ("merged", "run/bundle", "base")]  # fmt: skip
    assert answers[0] == answers[1] != answers[2]
    with page(line / "merged") as url:
        served = Served(url, None, None)  # type: ignore[arg-type]
        for locale, warning in (("en-US", ENGLISH), ("zh-CN", CHINESE)):
            window: Watched = windows(served, locale=locale)
            opened = window.open()
            assert warning in opened.inner_text("#head .warning")
            add_pictures(opened, picture)
            assert ask(opened, QUESTION) == answers[0]
            with window.context.expect_page() as other:
                opened.click("#head .warning a")
            other.value.wait_for_load_state()
            assert other.value.url == f"{url}/verdict/vqa-test.html"
            assert "Can it be trusted?" in other.value.inner_text("body")
            assert other.value.evaluate("[...document.images].every(each => each.naturalWidth > 0)")
    served.over = True  # while the pages were open
    (line / "ask.json").write_text(json.dumps([{"img": str(picture), "prompt": QUESTION}]))
    for name in ("merged", "run/bundle"):
        out = line / f"{name.replace('/', '_')}.jsonl"
        assert chat([str(line / name), "--batch", str(line / "ask.json"), "--out", str(out), *GREEDY]) == 0
        assert json.loads(out.read_text("utf-8"))["answer"] == answers[0]


@pytest.mark.parametrize(
    ("name", "adapters", "medical"),
    [("base", [], False), ("base", ["run/bundle"], True), ("run/bundle", [], True), ("merged", [], True),
     ("merged again", [], True), ("began", [], True)],
)  # fmt: skip
def test_that_it_is_medical_is_kept(line, name, adapters, medical):
    """Whatever way the weights went: what only the data's name told is recorded wherever they are merged."""
    if name == "merged again":
        chain(line, "merged", "a", line / name)
    if name == "began":
        name = str(tuned(line, "merged", "b"))
    model = load(line / name, [line / each for each in adapters], device="cpu")
    texts = recorded(line / name, model.bundle.document, None, [str(line / each) for each in adapters])
    model.close()
    assert is_medical(model.bundle.config, texts) == medical


def tuned(line: Path, base: str, name: str) -> Path:
    """A fine-tuning that says nothing of medicine, of a bundle that does."""
    document = yaml.safe_load((line / "finetune.yaml").read_text("utf-8"))
    document["model"]["bundle"] = str(line / base)
    document["data"]["train"][0]["name"] = "more"
    (line / f"{name}.yaml").write_text(yaml.safe_dump(document), "utf-8")
    stage, model = built(line / f"{name}.yaml")
    stage.tune(model)
    stage.save(line / name, model, {"run": "more"})
    assert not is_medical(configuration.load(line / name / "config.yaml"), [])
    return line / name


def chain(line: Path, base: str, name: str, out: Path) -> None:
    command = ["merge", str(line / base), "--adapter", str(tuned(line, base, name)), "--out", str(out)]
    assert checkpoint(command) == 0
