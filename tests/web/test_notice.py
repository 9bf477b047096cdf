"""When the page warns, and which files it serves of a verdict."""

from dataclasses import replace

import pytest

from vglm_train.config.data import Source
from vglm_train.config.language import Prompt, Questions
from vglm_train.config.run import Config, Evaluate, Run
from vglm_train.errors import UserError
from vglm_train.web.notice import is_medical, verdict_file, verdict_page
from vglm_train.web.words import language_of

PLAIN = Config(run=Run(name="demo"))


@pytest.mark.parametrize(
    "config",
    [
        replace(PLAIN, run=Run(name="xray_vqa_opt", stage="finetune")),
        replace(PLAIN, evaluate=Evaluate(task="report")),
        replace(PLAIN, data=replace(PLAIN.data, train=(Source(name="胸片", table="t.json"),))),
        replace(PLAIN, prompt=Prompt(questions=Questions(zh="这张X光片显示了什么？"))),
        replace(PLAIN, prompt=Prompt(questions=Questions(en="Describe this CT."))),
    ],
)
def test_what_is_about_medicine_warns(config):
    assert is_medical(config, [])


def test_an_adapter_that_was_merged_counts():
    assert is_medical(PLAIN, ["runs/xray_report/bundle:1"])


def test_other_models_do_not_warn():
    assert not is_medical(PLAIN, ["runs/product_photos/bundle", "actor", "structure"])


def test_the_verdict_beside_the_bundle_is_found(tmp_path):
    (tmp_path / "report").mkdir()
    page = tmp_path / "report" / "report.html"
    assert verdict_page(None, tmp_path / "bundle") is None
    page.write_text("x")
    assert verdict_page(None, tmp_path / "bundle") == page.resolve()
    assert verdict_page(str(tmp_path / "report"), tmp_path) == page.resolve()


def test_a_verdict_that_is_no_page(tmp_path):
    (tmp_path / "secret.txt").write_text("x")
    for path in (tmp_path / "secret.txt", tmp_path, tmp_path / "none.html"):
        with pytest.raises(UserError, match="--verdict"):
            verdict_page(str(path), tmp_path)


def test_only_the_page_and_its_pictures_are_served(tmp_path):
    page = tmp_path / "report.html"
    for name in ("report.html", "other.html", "curves.png", "metrics.jsonl"):
        (tmp_path / name).write_text("x")
    (tmp_path / "link.png").symlink_to(tmp_path / "metrics.jsonl")
    names = ("report.html", "curves.png", "other.html", "metrics.jsonl", "link.png", "../report.html", ".", "none.png")
    assert [name for name in names if verdict_file(page, name)] == ["report.html", "curves.png"]


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-US,en;q=0.9,zh;q=0.8", "en"), ("de, zh;q=0.5", "zh"), ("", "en")],
)
def test_the_language_of_a_browser(accepted, language):
    assert language_of(accepted) == language
