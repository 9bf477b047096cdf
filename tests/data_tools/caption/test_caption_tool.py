"""New captions come from the bundle, the best of old and new stay, and a record says which is which."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import made_records
import pytest

from data_tools.caption.__main__ import CaptionJob, caption, plan
from data_tools.caption.generate import candidates
from data_tools.common.records import open_inputs, read_block
from vglm_train.errors import UserError

Bundles = tuple[Path, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return made_records.bundles(tmp_path_factory.mktemp("bundles"))


def task(records: Path, out: Path, bundle: Path, **options: Any) -> CaptionJob:
    given = {
        "language": "en", "rank_bundle": None, "samples": 3, "keep": None, "max_new": 6, "top_p": 0.9, "seed": 0,
        "temperature": 1.0, "vision_weights": None, "language_weights": None, "dropped": None, "base": None,
        "adapter": [],
    }  # fmt: skip
    return plan(Namespace(records=records, out=out, bundle=bundle, **{**given, **options}))


def test_the_best_stay_and_say_where_they_come_from(made: Bundles, tmp_path: Path) -> None:
    aligned, speaker = made
    records = made_records.records(tmp_path / "in", 6)
    (tmp_path / "in" / "4.jpg").write_bytes(b"damaged")
    out = tmp_path / "more.jsonl"
    outcome = caption(task(records, out, speaker, rank_bundle=aligned, keep=2), 1)
    rows = made_records.read(out)
    assert [row["id"] for row in rows] == ["r0", "r1", "r2", "r3", "r5"]
    lost = made_records.read(out.with_suffix(".dropped.jsonl"))
    new = 0
    for row in rows:
        number = row["id"][1:]
        assert row["captions"]["zh"] == [f"第{number}张照片"]
        origins = row["provenance"]["en"]
        assert list(origins) == row["captions"]["en"]
        assert len(origins) == 2
        values = [origin["similarity"] for origin in origins.values()]
        assert values == sorted(values, reverse=True)
        own = {f"a photo number {number}", f"photo {number}"}
        assert {text for text, origin in origins.items() if origin["by"] == "source"} == own & set(origins)
        new += sum(origin["by"] == str(speaker) for origin in origins.values())
        gone = {entry["caption"]: entry["value"] for entry in lost if entry["id"] == row["id"]}
        assert set(gone) == own - set(origins)
        assert all(value <= min(values) for value in gone.values())
    assert new
    assert [entry["rule"] for entry in lost if entry["id"] == "r4"] == ["undecodable"]
    assert outcome.kept == 5


def test_chinese_alone_and_without_ranking(made: Bundles, tmp_path: Path) -> None:
    records = made_records.records(tmp_path / "in", 2)
    caption(task(records, tmp_path / "more.jsonl", made[1], language="zh"), 1)
    for row in made_records.read(tmp_path / "more.jsonl"):
        assert len(row["captions"]["en"]) == 2
        assert row["captions"]["zh"][0] == f"第{row['id'][1:]}张照片"
        assert list(row["provenance"]["zh"]) == row["captions"]["zh"]
        assert 1 < len(row["captions"]["zh"]) <= 4


def test_each_text_stands_once_and_originals_first(tmp_path: Path) -> None:
    item = next(read_block(open_inputs([made_records.records(tmp_path, 1)], 8).blocks[0]))
    found = [(each.text, each.made) for each in candidates(item, "en", ["new", "", "photo 0", "new"])]
    assert found == [("a photo number 0", False), ("photo 0", False), ("new", True)]


@pytest.mark.slow
def test_a_kill_changes_nothing(made: Bundles, tmp_path: Path) -> None:
    """The captions are drawn by place, not by how far a run had come."""
    aligned, speaker = made
    records = made_records.records(tmp_path / "in", 20)
    rows = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(7) for row in made_records.read(records)]
    made_records.write(records, rows)
    options = {"rank_bundle": aligned, "samples": 2, "keep": 2}
    caption(task(records, tmp_path / "whole.jsonl", speaker, **options), 1)
    out, parts = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.parts"
    words = [records, "--out", out, "--bundle", speaker, "--rank-bundle", aligned, "--language", "en", "--samples", 2,
             "--max-new", 6]  # fmt: skip
    finished = made_records.kill_after(made_records.start("caption", *words), parts, "caption-*", 1)
    assert len(finished) < 3
    assert made_records.start("caption", *words, "--workers", 2).wait(120) == 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_mistakes(made: Bundles, tmp_path: Path) -> None:
    aligned, speaker = made
    records = made_records.records(tmp_path / "in", 1)
    for message, bundle, options in (
        ("--bundle .*a bundle of stage one; give one of stage two", aligned, {}),
        ("--rank-bundle .*a bundle of stage two; give one of stage one", speaker, {"rank_bundle": speaker}),
        ("--keep needs an order: give --rank-bundle", speaker, {"keep": 2}),
        ("--top-p must be above 0 and at most 1", speaker, {"top_p": 1.5}),
    ):
        with pytest.raises(UserError, match=message):
            task(records, tmp_path / "o.jsonl", bundle, **options)
