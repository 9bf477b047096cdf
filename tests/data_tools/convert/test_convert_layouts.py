"""Each layout of a published data set becomes records, and `check_table` counts what cannot."""

import json
from pathlib import Path

import datasets
import pytest
from made_layouts import LAYOUTS, Said, words
from made_shards import jpeg

from data_tools.check_table import __main__ as check_table
from data_tools.convert import __main__ as command
from vglm_train.data.record import parse
from vglm_train.errors import UserError

NUMBERS = {jpeg(number): number for number in range(100)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's copies of Parquet files go with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def said(line: bytes, folder: Path, named: bool) -> list[Said]:
    """What a record says, in the words of `Made.said`; `named`: the layout says which split a row is of."""
    fields = json.loads(line)
    record = parse(fields)
    pictures = tuple(NUMBERS[(folder / name).read_bytes()] for name in (record.image, *record.more))
    split = fields["split"] if named else None
    if record.turns:
        return [(split, pictures, "turns", *(text for turn in record.turns for text in turn))]
    return [(split, pictures, "caption", text) for texts in record.captions.values() for text in texts]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_becomes_records(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    made, out = LAYOUTS[name](tmp_path / "data"), tmp_path / "out" / "records.jsonl"
    args = command.parse([*words(made), "--out", str(out)])
    rows, columns = command.open_source(args)
    report = command.convert(rows, columns, command.target(args))
    named = made.said[0][0] is not None
    found = [each for line in out.read_bytes().splitlines() for each in said(line, out.parent, named)]
    assert sorted(found, key=str) == sorted(
        ((split, pictures, kind, *(" ".join(text.split()) if kind == "caption" else text for text in texts))
         for split, pictures, kind, *texts in made.said), key=str,
    )  # fmt: skip
    assert report.bad.total() == made.bad


@pytest.mark.parametrize("name", LAYOUTS)
def test_check_table_counts_what_cannot_be_used(name: str, tmp_path: Path, capsys, monkeypatch) -> None:
    made = LAYOUTS[name](tmp_path)
    monkeypatch.setattr("sys.argv", ["check_table", *words(made), "--quick", "--json"])
    assert check_table.main() == (1 if made.bad else 0)
    [table] = json.loads(capsys.readouterr().out)["tables"]
    assert (table["rows"], table["usable"]) == (made.rows, made.rows - made.bad)
    assert sum(table["damage"].values()) == made.bad


def test_an_unknown_format_lists_what_there_is(tool_here) -> None:
    done = tool_here("check_table", "x.json", "--format", "karpathy")
    assert done.returncode == 2
    assert "json, jsonl, csv" in done.stderr.replace("'", "")


def test_an_option_that_a_format_does_not_have_is_refused(tmp_path: Path) -> None:
    made = LAYOUTS["gqa"](tmp_path)
    args = command.parse([str(made.table), "--delimiter", "|", "--out", str(tmp_path / "r.jsonl")])
    with pytest.raises(UserError, match="is read as json, which has no delimiter; it is for csv, tsv"):
        command.open_source(args)
    args = command.parse([str(tmp_path), "--format", "hf", "--encoding", "gbk", "--out", str(tmp_path / "r.jsonl")])
    with pytest.raises(UserError, match=r"--encoding: .* is read by the library `datasets`"):
        command.open_source(args)
