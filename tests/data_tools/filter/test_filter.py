"""Each rule drops what breaks it and nothing else; what goes is in the manifest."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import made_records
import pytest
import torch
from made_shards import write_source
from PIL import Image

from data_tools.common.models import Devices, ModelSpec, load_scorer
from data_tools.filter.__main__ import FilterJob, filter_records, lengths, plan
from data_tools.filter.rules import Rules
from vglm_train.errors import UserError
from vglm_train.image import eval_pixels, open_image

Run = Callable[..., CompletedProcess[str]]
NONE = {
    "min_width": None, "max_width": None, "min_height": None, "max_height": None, "max_aspect": None,
    "min_length": [], "max_length": [], "languages": [], "match_language": False, "min_similarity": None,
    "min_match": None, "bundle": None, "vision_weights": None, "dropped": None,
}  # fmt: skip


def task(records: Path, out: Path, **options: Any) -> FilterJob:
    return plan(Namespace(records=records, out=out, **{**NONE, **options}))


def dropped(out: Path) -> list[tuple]:
    entries = made_records.read(out.with_suffix(".dropped.jsonl"))
    return [(entry["id"], entry["what"], entry["rule"], entry["value"]) for entry in entries]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_records.bundles(tmp_path_factory.mktemp("bundles"))[0]


@pytest.mark.parametrize(
    ("size", "options", "rule"),
    [
        ((99, 200), {"min_width": 100}, ("min_width", 99)),
        ((101, 200), {"max_width": 100}, ("max_width", 101)),
        ((200, 99), {"min_height": 100}, ("min_height", 99)),
        ((200, 101), {"max_height": 100}, ("max_height", 101)),
        ((301, 100), {"max_aspect": 3.0}, ("max_aspect", 3.01)),
        ((100, 301), {"max_aspect": 3.0}, ("max_aspect", 3.01)),
        ((300, 100), {"max_aspect": 3.0, "min_width": 300, "max_height": 100}, None),
    ],
)
def test_sizes(size: tuple[int, int], options: dict[str, Any], rule: tuple | None) -> None:
    assert Rules(**options).broken_size(*size) == rule


@pytest.mark.parametrize(
    ("text", "language", "options", "rule"),
    [
        ("two words", "en", {"min_length": {"en": 3}}, ("min_length", 2)),
        ("两个字的", "zh", {"min_length": {"en": 9, "zh": 4}}, None),
        ("两个字", "zh", {"min_length": {"zh": 4}}, ("min_length", 3)),
        ("a b c d", "en", {"max_length": {"en": 3}}, ("max_length", 4)),
        ("a b", "en", {"languages": ("zh",)}, ("language", "en")),
        ("an English text", "zh", {"match_language": True}, ("match_language", "en")),
        ("一只狗", "zh", {"match_language": True}, None),
    ],
)
def test_texts(text: str, language: str, options: dict[str, Any], rule: tuple | None) -> None:
    assert Rules(**options).broken_text(text, language) == rule


def test_captions_go_and_records_without_any(tmp_path: Path) -> None:
    """A turned photo counts as it is seen; extra fields and paths survive."""
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (300, 100)).save(tmp_path / "turned.jpg", exif=turned)
    Image.new("RGB", (90, 90)).save(tmp_path / "small.jpg")
    row = {"id": "a", "image": "turned.jpg", "captions": {"en": ["a b c", "a"], "zh": ["一"]}, "group": "g", "own": 1}
    rows = [row, {**row, "id": "b", "captions": {"en": ["a"]}}, {**row, "id": "c", "image": "small.jpg"},
            {**row, "id": "d", "image": "none.jpg"}]  # fmt: skip
    out = tmp_path / "sub" / "kept.jsonl"
    outcome = filter_records(
        task(made_records.write(tmp_path / "r.jsonl", rows), out, min_width=100, max_width=100, min_length=["en=2"]), 1
    )
    assert made_records.read(out) == [{**row, "image": "../turned.jpg", "captions": {"en": ["a b c"], "zh": ["一"]}}]
    found = dropped(out)
    assert found[:5] == [("a", "caption", "min_length", 1), ("b", "caption", "min_length", 1),
                         ("b", "record", "no caption left", None), ("c", "caption", "min_length", 1),
                         ("c", "record", "min_width", 90)]  # fmt: skip
    assert found[6][:3] == ("d", "record", "missing image")
    assert dict(outcome.captions) == {"en": 1, "zh": 1}


def test_similarity_is_that_of_the_model(aligned: Path, tmp_path: Path) -> None:
    """The threshold falls between two captions' scores, computed here from the bundle itself."""
    records = made_records.records(tmp_path / "in", 20)
    judging = load_scorer(ModelSpec(aligned), Devices(0, 1, tmp_path))
    pixels = [open_image((tmp_path / f"in/{n}.jpg").read_bytes(), judging.size) for n in range(20)]
    raw, features = judging.see(torch.stack([eval_pixels(picture, judging.size) for picture in pixels]))
    texts = [f"photo {n}" for n in range(20)]
    values = judging.similarity(features, list(range(20)), texts, "en")
    limit = sorted(values)[10] - 1e-4
    out = tmp_path / "kept.jsonl"
    outcome = filter_records(task(records, out, bundle=aligned, min_similarity=limit), 1)
    kept = {row["id"]: row["captions"].get("en", []) for row in made_records.read(out)}
    for number, value in enumerate(values):
        if abs(value - limit) > 1e-5:
            assert (texts[number] in kept.get(f"r{number}", [])) == (value >= limit)
    assert outcome.scores["min_similarity"].total() == 60
    matches = judging.match(raw, list(range(20)), texts, "en")
    assert all(0 <= each <= 1 for each in matches)
    filter_records(task(records, out, bundle=aligned, min_match=sorted(matches)[10] - 1e-6, languages=["en"]), 1)
    lost = {entry["caption"] for entry in made_records.read(out.with_suffix(".dropped.jsonl")) if "caption" in entry}
    assert lost & set(texts) == {text for text, value in zip(texts, matches) if value < sorted(matches)[10] - 1e-6}


@pytest.mark.slow
def test_workers_and_a_kill_change_nothing(aligned: Path, tmp_path: Path) -> None:
    records = made_records.records(tmp_path / "in", 30)
    rows = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(30) for row in made_records.read(records)]
    made_records.write(records, rows)
    options = {"bundle": aligned, "min_similarity": 0.0}
    filter_records(task(records, tmp_path / "whole.jsonl", **options), 1)
    out, parts = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.parts"
    words = [records, "--out", out, "--bundle", aligned, "--min-similarity", 0.0, "--workers", 2]
    finished = made_records.kill_after(made_records.start("filter", *words), parts, "filter-*", 1)
    assert not out.exists()
    before = {name: (parts / name).stat().st_mtime_ns for name in finished}
    assert before
    assert made_records.start("filter", *words).wait(120) == 0
    for end in ("jsonl", "dropped.jsonl"):
        assert (tmp_path / f"killed.{end}").read_bytes() == (tmp_path / f"whole.{end}").read_bytes()
    assert not parts.exists()


def test_mistakes(aligned: Path, tmp_path: Path, tool: Run) -> None:
    records = made_records.records(tmp_path / "in", 3)
    for message, options in (
        ("give --bundle", {"min_similarity": 0.2}),
        ("give one of them, or leave it out", {"bundle": aligned}),
        ("no rule is given", {}),
        ("is not a bundle", {"bundle": tmp_path, "min_match": 0.5}),
    ):
        with pytest.raises(UserError, match=message):
            task(records, tmp_path / "o.jsonl", **options)
    with pytest.raises(UserError, match=r"--min-length fr=3: must be LANGUAGE=NUMBER"):
        lengths("--min-length", ["fr=3"])
    with pytest.raises(UserError, match=r"give the records file that these shards were packed from"):
        task(write_source(tmp_path / "shards", [2]), tmp_path / "o.jsonl", min_width=1)
    done = tool("filter", records, "--out", tmp_path / "o.jsonl", "--min-width", 5000)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no record is left, nothing is written; dropped: record min_")
    assert not (tmp_path / "o.jsonl").exists()
