"""`python -m vglm_train.evaluate`: what it writes and prints, and the mistakes it names."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small_generators
import tiny
import torch
from made_shards import TOKENS, write_source
from run_tasks import DATA, Loaded

from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.config.model import Text
from vglm_train.errors import UserError
from vglm_train.evaluate import metrics
from vglm_train.evaluate.__main__ import _is_table, _parse, main
from vglm_train.evaluate.caption import command
from vglm_train.model.alignment import build_alignment
from vglm_train.prompt.qformer_text import build_text

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 5


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("data") / "held_out", [3, 4], captions={"en": 14, "zh": 7})


@pytest.fixture(scope="module")
def aligned(tmp_path_factory) -> Path:
    """A stage-one bundle."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "vocab.txt").write_text("\n".join([*TOKENS, *map(str, range(10))]) + "\n", "utf-8")
    section = Text(tokenizer=str(folder / "vocab.txt"), max_length=8, processor="plain")
    qformer = replace(tiny.MODEL.qformer, vocabulary=None)
    config = tiny.config(model=replace(tiny.MODEL, text=section, qformer=qformer), data=DATA)
    text = build_text(section, ("en", "zh"))
    model = build_alignment(config.model, text.vocabulary, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    save_bundle(folder / "bundle", config, model, text, {})
    return folder / "bundle"


def caption(loaded: Loaded, shards: Path, *words: str) -> tuple[dict, list[str]]:
    given = _parse(["BUNDLE", "--task", "caption", "--data", str(shards), "--workers", "0", *words])
    result = command.run(loaded, given, torch.device("cpu"))
    return dict(result.report), list(result.lines)


def test_captions_are_written_with_all_that_made_them(loaded, shards, no_java):
    report, lines = caption(loaded, shards, "--images", str(IMAGES), "--beams", "2", "--max-new", "5")
    assert json.loads(json.dumps(report)) == report
    assert report["images"] == IMAGES
    assert report["decoding"] == {**report["decoding"], "beams": 2, "max_new": 5, "sample": False}
    assert report["questions"]["zh"] == "描述这张图片。"
    assert "jieba" in report["made_by"]["zh"]["segmenter"]
    assert "nltk" in report["made_by"]["en"]["tokenizer"]
    keys = [row["key"] for row in report["captions"] if row["language"] == "en"]
    assert len(keys) == IMAGES
    assert keys == sorted(set(keys))
    assert [row["key"] for row in report["captions"] if row["language"] == "zh"] == keys
    row, number = report["captions"][2], int(keys[2])
    assert row["references"] == [f"a photo number {number}", f"photo {number}"]
    assert row["output"] is not None
    gaps = [row["shuffled_loss"] - row["loss"] for row in report["captions"][:IMAGES]]
    assert report["scores"]["eval/en_loss_gap"] == pytest.approx(sum(gaps) / IMAGES)
    text = "\n".join(lines)
    for expected in ("en: 5 images, 10 references", "zh: 5 images, 5 references", "cider", "gap", "jieba", "no METEOR"):
        assert expected in text
    assert max(map(len, lines)) < 200


def test_settings_that_cannot_be_name_the_argument(loaded, shards):
    for words, message in (
        (("--beams", "0"), "--beams must be above 0"),
        (("--max-new", "0"), "--max-new must be above 0"),
        (("--batch", "0"), "--batch must be above 0"),
    ):
        with pytest.raises(UserError, match=message):
            caption(loaded, shards, *words)


def test_beams_replace_sampling(loaded, shards, no_java):
    sampling = replace(loaded.config.evaluate, decoding=replace(small_generators.DECODING, sample=True))
    config = replace(loaded.config, evaluate=sampling)
    own = Loaded(loaded.model, loaded.template, config)
    assert caption(own, shards, "--images", "2", "--beams", "2")[0]["decoding"]["sample"] is False
    assert caption(own, shards, "--images", "2")[0]["decoding"]["sample"] is True


def test_the_command_needs_the_libraries(loaded, shards, monkeypatch):
    monkeypatch.setitem(metrics.LIBRARIES, "no_such_library", "no-such-library")
    with pytest.raises(UserError, match=r"no-such-library.*\[eval\]"):
        caption(loaded, shards)


def test_no_captions_in_the_models_languages(loaded, tmp_path, shards):
    config = replace(loaded.config, data=replace(DATA, languages=("zh",)))
    english = write_source(tmp_path / "en", [2], captions={"en": 4})
    with pytest.raises(UserError, match="zh"):
        caption(Loaded(loaded.model, loaded.template, config), english)


def test_retrieval(aligned, shards, tmp_path, capsys):
    out = tmp_path / "scores.json"
    words = [str(aligned), "--data", str(shards), "--workers", "0", "--rerank", "2", "--out", str(out)]
    assert main([*words, "--rerank-score", "log_odds"]) == 0
    report, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert (report["rerank"], report["rerank_score"]) == (2, "log_odds")
    assert 0 <= report["scores"]["eval/zh_rerank_i2t_r1"] <= 100
    assert "en: 7 images, 14 captions, per cent" in printed
    queries = [row for row in report["queries"] if (row["language"], row["direction"]) == ("en", "t2i")]
    assert len(queries) == 14
    for metric, rank in (("en_t2i_r5", "rank"), ("en_rerank_t2i_r1", "rerank_rank")):
        found = sum(0 < row[rank] <= int(metric.rpartition("r")[2]) for row in queries)
        assert report["scores"][f"eval/{metric}"] == pytest.approx(100 * found / 14)
    matches = [row["itm_accuracy"] for row in report["queries"] if row["language"] == "en" and row["text"] is None]
    assert report["scores"]["eval/en_itm_accuracy"] == pytest.approx(100 * sum(matches) / 7)
    assert printed.endswith(f"{out}\n")
    assert [text[:16] for text in report["verdict"]] == ["en: ITM accuracy", "zh: ITM accuracy"]
    assert all(text in printed for text in report["verdict"])


@pytest.mark.parametrize(
    ("stage", "task", "other"),
    [
        ("align", "caption", "retrieval"),
        ("align", "vqa", "retrieval"),
        ("generate", "retrieval", "caption or vqa or report"),
    ],
)
def test_a_bundle_of_the_other_stage(tmp_path, shards, capsys, stage, task, other):
    (tmp_path / "bundle.json").write_text(json.dumps({"version": 2, "stage": stage}))
    assert main([str(tmp_path), "--task", task, "--data", str(shards)]) == 2
    error = capsys.readouterr().err
    assert f"--task {other}, not --task {task}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["t.json", "t.csv"])
def test_a_table_where_shards_are_read(tmp_path, capsys, name):
    (tmp_path / "bundle.json").write_text(json.dumps({"version": 2, "stage": "generate"}))
    (tmp_path / name).write_text("[]")
    assert main([str(tmp_path), "--task", "caption", "--data", str(tmp_path / name)]) == 2
    assert f"{tmp_path / name}: a table needs --task vqa or --task report; --task caption" in capsys.readouterr().err


def test_a_manifest_by_another_name_is_no_table(shards, tmp_path):
    moved = tmp_path / "moved.json"
    shutil.copyfile(shards / "manifest.json", moved)
    assert not _is_table(moved)
    assert not _is_table(shards)


def test_the_result_is_no_page(aligned, shards, tmp_path, capsys):
    assert main([str(aligned), "--data", str(shards), "--out", str(tmp_path / "a.html")]) == 2
    assert "names the JSON file" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("images", 0), ("workers", -1), ("rerank", -1)])
def test_numbers_that_cannot_be(aligned, shards, capsys, name, value):
    assert main([str(aligned), "--data", str(shards), f"--{name}", str(value)]) == 2
    assert capsys.readouterr().err == f"error: --{name} must be {value + 1} or more, found {value}.\n"


def test_a_result_is_not_written_over(aligned, shards, tmp_path, capsys):
    words = [str(aligned), "--data", str(shards), "--workers", "0", "--rerank", "0", "--out"]
    assert main([*words, str(tmp_path)]) == main([*words, str(tmp_path)]) == 0
    names = ["retrieval-held_out-2.json", "retrieval-held_out.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert capsys.readouterr().out.endswith(f"{tmp_path / names[0]}\n")
    assert main([*words, str(tmp_path / names[0])]) == 2
    assert "exists already, and results are not overwritten" in capsys.readouterr().err


def test_arguments_of_the_other_task(shards, capsys):
    for words in (["--task", "caption", "--rerank", "3"], ["--task", "retrieval", "--beams", "3"], ["--beams", "3"]):
        with pytest.raises(SystemExit) as end:
            _parse(["BUNDLE", "--data", str(shards), *words])
        assert end.value.code == 2
        assert "unrecognized" in capsys.readouterr().err


def test_a_folder_that_is_no_bundle(tmp_path, shards, capsys):
    assert main([str(tmp_path), "--task", "caption", "--data", str(shards)]) == 2
    assert "not a bundle" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough(aligned, shards, tmp_path):
    """`evaluate ... | true`: the scores are written, and nothing is complained of."""
    out = tmp_path / "scores.json"
    words = ["-m", "vglm_train.evaluate", str(aligned), "--data", str(shards), "--workers", "0", "--out", str(out)]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert "Broken" not in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(out.read_text())["images"] == 7
