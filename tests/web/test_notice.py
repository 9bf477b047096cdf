"""When the page warns, which verdict it links, and which files it serves of it."""

import json
import os
from dataclasses import replace

import pytest
from shipped import YAMLS

from vglm_train.config.data import Source
from vglm_train.config.language import Prompt, Questions
from vglm_train.config.load import load
from vglm_train.config.run import Config, Evaluate, Run
from vglm_train.errors import UserError
from vglm_train.web.notice import is_medical, speaks_of_medicine, verdict_file, verdict_page
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


@pytest.mark.parametrize(
    "name",
    [
        "cxr_2024", "cxr2024", "ct", "CT2024", "ct影像", "2024-CT", "HeadCT", "BrainMRI", "mri", "MRI3T", "X-ray",
        "X ray", "xray14", "iu_xrays", "data/IU.X-Ray/train.json", "pathology", "histology_wsi", "Lung nodules",
        "mammography", "VQA-Med", "vqa_med_2019", "mimic-cxr", "CheXpert", "pneumonia", "covid19",
        "retina", "fundus2", "radiologie",
        "胸片", "肺部", "Ｘ光", "X线平片", "x線", "CT影像", "核磁共振", "病理切片", "超声",
        "B超", "放射科", "脑部", "某医院", "醫院", "门诊", "肿瘤", "骨折",
    ],
)  # fmt: skip
def test_names_that_hospitals_give(name):
    assert speaks_of_medicine(name)


@pytest.mark.parametrize(
    "name",
    [
        "actor", "structure", "product_photos", "flickr8k", "scenes", "marks", "chestnut", "demo_stage2", "media",
        "order",
        "direct", "drive", "mrs", "impact", "factory", "objects365", "coco_zh",
        "电脑", "西班牙", "街景", "图片", "描述这张图片。",
        "Describe this image.", "medium", "ecgonine", "icuboid",
    ],
)  # fmt: skip
def test_names_of_other_things(name):
    assert not speaks_of_medicine(name)


def test_the_presets_for_x_rays_warn_and_no_other():
    medical = {path.stem for path in YAMLS if is_medical(load(path, ["model.bundle=null"]), [])}
    assert medical == {path.stem for path in YAMLS if path.stem.startswith(("xray", "rad_dino"))}
    assert medical


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


def evaluation(path, bundle, *adapters, written=0):
    """What `vglm evaluate` leaves; the page's path."""
    path.write_text(json.dumps({"bundle": str(bundle), "adapters": list(adapters)}))
    path.with_suffix(".html").write_text("x")
    os.utime(path, (written, written))
    return path.with_suffix(".html")


def test_the_newest_evaluation_of_this_very_model_comes_first(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("x")
    older = evaluation(tmp_path / "vqa-test.json", f"{tmp_path.name}/merged", written=1)
    newer = evaluation(tmp_path / "report-test.json", tmp_path / "merged", written=2)
    tuned = evaluation(tmp_path / "vqa-test-2.json", "merged", "runs/cxr/bundle", written=3)
    evaluation(tmp_path / "vqa-test-3.json", "other", written=4)
    evaluation(tmp_path / "caption-test.json", "merged", written=5)
    (tmp_path / "vqa-broken.json").write_text("[")
    (tmp_path / "vqa-broken.html").write_text("x")
    bundle = tmp_path / "merged"
    assert verdict_page(None, bundle) == newer
    assert verdict_page(None, bundle, ["runs/cxr/bundle"]) == tuned
    newer.unlink()
    assert verdict_page(None, bundle) == older
    assert verdict_page(None, tmp_path / "third") == (tmp_path / "report" / "report.html")


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
