"""Dialogues in shards: every picture beside its record."""

import json
from dataclasses import replace
from pathlib import Path

import made_tables
import pytest
from made_shards import jpeg

from data_tools.check_shards.check import check_shard
from data_tools.convert import __main__ as convert
from data_tools.pack_shards.__main__ import pack
from data_tools.pack_shards.write import PackOptions
from vglm_train.config.data import Source
from vglm_train.data.eval_questions import QuestionSet
from vglm_train.data.record import as_fields, parse
from vglm_train.data.shards.reader import ShardReader

TURNS = [{"role": "user", "text": "<image>one"}, {"role": "assistant", "text": "two"},
         {"role": "user", "text": "<image>three"}, {"role": "assistant", "text": "four"}]  # fmt: skip


def test_packing_dialogues(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    lines = [
        {"id": "a", "image": ["0.jpg", "1.jpg"], "turns": TURNS, "kind": "open"},
        {"id": "b", "image": "2.jpg", "captions": {"en": ["x"]}},
        {"id": "c", "image": ["0.jpg", "nowhere.jpg"], "turns": TURNS},
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    manifest = pack(tmp_path / "records.jsonl", tmp_path / "out", PackOptions(None, 10, None))
    assert (manifest.samples, manifest.captions) == (2, {"en": 3})
    assert manifest.extra["skipped"] == {"missing image": 1}
    raw = ShardReader(1).read(manifest.shards[0], 0)
    record = parse(raw.json)
    assert (raw.image, raw.more) == (jpeg(0), (jpeg(1),))
    assert (record.image, record.more) == ("000000001.jpg", ("000000001.1.jpg",))
    assert (record.turns, record.kind, record.language) == (
        (("<image>one", "two"), ("<image>three", "four")),
        "open",
        "en",
    )
    assert set(json.loads(ShardReader(1).read(manifest.shards[0], 1).json)) == set(as_fields(parse(lines[1])))
    found = check_shard(tmp_path / "out", False, manifest.shards[0].name)
    assert (found.index_agrees, dict(found.damage), found.shard.languages) == (True, {}, {"en": 2})


TURNS_AND_ANSWERS = [{"role": "user", "text": "有吗？"}, {"role": "assistant", "text": "有"}]


def questions(source: Source) -> QuestionSet:
    return QuestionSet([source], 16, ("zh", "en"))


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"question": "Red?", "answers": ["no", "yes", "yes"], "type": "colour", "answer_type": "CLOSED "},
         [("no", "yes", "yes")]),
        ({"question": "Which?", "options": ["liver", "heart"], "answer": 1, "type": "organ"}, [("heart",)]),
        ({"instruction": "And now?", "input": "Left.", "output": "Clear.", "history": [["First?", "One."]]},
         [("One.",), ("Clear.",)]),
        ({"caption": "a photo", "type": "chest"}, [("a photo",)]),
        ({"turns": TURNS_AND_ANSWERS, "answers": ["有", "是"], "type": "heart", "options": ["有", "没有"],
          "captions": {"en": ["a heart"]}}, [("有", "是")]),
    ],
)  # fmt: skip
def test_nothing_is_lost_from_table_to_shards_to_evaluation(tmp_path: Path, row: dict, answers: list) -> None:
    (name,) = made_tables.pictures(tmp_path, 1)
    table = made_tables.write_lines(tmp_path / "t.jsonl", [{**row, "image": name, "patient": "p1"}])
    args = convert.parse([str(table), "--out", str(tmp_path / "records.jsonl")])
    convert.convert(*convert.open_source(args), convert.target(args))
    pack(tmp_path / "records.jsonl", tmp_path / "shards", PackOptions(None, 10, None))
    of_table, of_records, of_shards = (
        [
            replace(item, key="", picture="", source="", pixels=None)
            for item in QuestionSet([source], 16, ("zh", "en")).items()
        ]
        for source in (
            Source(name="t", table=str(table)),
            Source(name="r", table=str(tmp_path / "records.jsonl")),
            Source(name="s", shards=str(tmp_path / "shards")),
        )
    )
    assert of_shards == of_records == of_table
    assert [item.answers for item in of_table] == answers
    assert {(item.type, item.group) for item in of_table} == {(row.get("type"), "p1")}


def test_keys_that_are_nothing_here_stay_in_the_record(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    line = {"id": "a", "image": "0.jpg", "captions": {"en": ["x"]}, "licence": "CC0", "boxes": [[1, 2]]}
    (tmp_path / "records.jsonl").write_text(json.dumps(line) + "\n")
    manifest = pack(tmp_path / "records.jsonl", tmp_path / "out", PackOptions(None, 10, None))
    packed = json.loads(ShardReader(1).read(manifest.shards[0], 0).json)
    assert (packed["licence"], packed["boxes"], packed["image"]) == ("CC0", [[1, 2]], "000000001.jpg")


def test_a_bad_path_costs_its_record_alone(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    paths = ["0.jpg", "nul\0.jpg", "x" * 300, ".", "\ud800.jpg"]
    lines = [{"id": str(n), "image": path, "captions": {"en": ["x"]}} for n, path in enumerate(paths)]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    manifest = pack(tmp_path / "records.jsonl", tmp_path / "out", PackOptions(None, 10, None))
    assert (manifest.samples, manifest.extra["skipped"]) == (1, {"missing image": 4})
