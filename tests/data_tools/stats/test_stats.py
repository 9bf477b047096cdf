"""What is counted is what is there, from records and from shards, whoever counts and whenever it is killed."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import made_records
import made_tables
import numpy as np
import pytest
from made_shards import write_source

from data_tools.common.records import open_inputs
from data_tools.stats.__main__ import BLOCK, StatsJob, stats
from data_tools.stats.count import find_repeated

Run = Callable[..., CompletedProcess[str]]


def task(*inputs: Path, out: Path) -> StatsJob:
    return StatsJob(open_inputs(inputs, BLOCK), True, out)


def test_records_are_counted(tmp_path: Path) -> None:
    records = made_records.records(tmp_path / "in", 5, source="web", split="train")
    made_records.photo(9, (90, 240)).save(tmp_path / "in" / "1.jpg")
    (tmp_path / "in" / "2.jpg").write_bytes((tmp_path / "in" / "2.jpg").read_bytes()[:700])
    (tmp_path / "in" / "3.jpg").write_bytes((tmp_path / "in" / "0.jpg").read_bytes())
    rows = made_records.read(records)
    rows += [{**rows[0], "image": "none.jpg"}, {**rows[4], "captions": {"en": ["Photo 4"]}}]
    made_records.write(records, rows)
    with open(records, "ab") as file:
        file.write(b"{broken\n")
    found = stats(task(records, out=tmp_path / "s.json"), 1, "mine & yours")
    assert found == json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert (found["records"], found["usable"]) == (8, 5)
    assert found["damage"] == {"undecodable": 1, "missing image": 1, "record": 1}
    assert found["width"] == {"least": 90, "mean": 146, "p05": 90, "median": 160, "p95": 160, "most": 160}
    assert found["aspect"]["least"] == 0.38
    assert found["captions"] == {"en": 9, "zh": 4}
    assert found["words.en"]["most"] == 4
    assert found["characters.zh"]["median"] == 5
    assert found["languages"] == {"en+zh": 4, "en": 1}
    assert found["source"] == {"web": 5}
    assert found["repeated_pictures"] == {
        "pictures": 2, "places": 4,
        "most": [{"times": 2, "id": "r0", "place": "records.jsonl line 1"},
                 {"times": 2, "id": "r4", "place": "records.jsonl line 5"}],
    }  # fmt: skip
    assert found["repeated_captions"]["most"] == [
        {"times": 2, "id": "r4", "place": "records.jsonl line 5", "text": "photo 4"}
    ]
    page = (tmp_path / "s.html").read_text("utf-8")
    assert page.count("<svg") >= 8
    assert page.count('src="data:image/jpeg;base64,') == 5
    assert "mine &amp; yours" in page
    assert "第0张照片" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


def test_shards_are_counted_and_workers_agree(tmp_path: Path) -> None:
    shards = write_source(tmp_path / "shards", [300, 40])
    one = stats(task(shards, out=tmp_path / "1.json"), 1, "t")
    assert stats(task(shards, out=tmp_path / "2.json"), 2, "t") == one
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()
    assert (one["records"], one["damage"]) == (340, {})
    assert one["captions"] == {"en": 680, "zh": 340}


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_a_table_of_questions_is_refused(tool_here: Run, tmp_path: Path, kind: str) -> None:
    rows = made_tables.visualglm(made_tables.pictures(tmp_path, 3))
    write = {"json": made_tables.write_json, "jsonl": made_tables.write_lines, "csv": made_tables.write_csv}[kind]
    table = write(tmp_path / f"train.{kind}", rows)
    done = tool_here("stats", table, "--out", tmp_path / "out" / "stats.json")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {table}: holds no records")
    assert f"vglm data check_table {table}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_repeats_do_not_depend_on_how_many_are_held() -> None:
    random = np.random.default_rng(0)
    keys = np.stack([random.integers(0, 300, 2000), np.arange(2000)], 1)
    parts = np.array_split(keys, 7)
    assert find_repeated(lambda: iter(parts), 2000, 10**6, 5) == find_repeated(lambda: iter(parts), 2000, 150, 5)


def test_a_killed_run_continues(tmp_path: Path) -> None:
    records = made_records.records(tmp_path / "in", 20)
    rows = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(80) for row in made_records.read(records)]
    made_records.write(records, rows)
    whole = stats(task(records, out=tmp_path / "whole.json"), 1, str(records))
    out, parts = tmp_path / "killed.json", tmp_path / "killed.json.parts"
    process = made_records.start("stats", records, "--out", out, "--workers", 2)
    finished = made_records.kill_after(process, parts, "count-*", 1)
    assert finished
    assert not out.exists()
    assert stats(task(records, out=out), 1, str(records)) == whole
    assert (tmp_path / "killed.html").read_bytes() == (tmp_path / "whole.html").read_bytes()


def test_the_command(tmp_path: Path, tool: Run) -> None:
    done = tool("stats", made_records.records(tmp_path, 3), "--out", tmp_path / "s.json", "--headers")
    assert done.returncode == 0, done.stderr
    assert "3 records, 3 usable" in done.stdout
    done = tool("stats", tmp_path / "none.jsonl")
    assert done.returncode == 2
    assert "none.jsonl: no such file" in done.stderr
