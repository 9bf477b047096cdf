"""Dialogues in shards: every picture beside its record."""

import json
from pathlib import Path

from made_shards import jpeg

from data_tools.check_shards.check import check_shard
from data_tools.pack_shards.__main__ import pack
from data_tools.pack_shards.write import PackOptions
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
