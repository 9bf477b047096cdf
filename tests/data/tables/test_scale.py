"""Hundreds of thousands of rows: the start is short and memory stays flat."""

import json
import subprocess
import sys
from pathlib import Path

import made_tables
import pytest

ROWS = 200_000
MEASURE = """
import resource, sys, time
from vglm_train.config.data import Holdout, Source
from vglm_train.data.splits import SplitSource, open_part
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, start = peak(), time.process_time()
manifest = open_part(SplitSource(Source(name="big", table=sys.argv[1]), Holdout(by="image")), ("en", "zh"))
print(manifest.samples, time.process_time() - start, peak() - before)
shard = manifest.shards[-1]
assert shard.read(shard.samples - 1).image
"""


def write(path: Path) -> None:
    """LLaVA's layout, 700 bytes a row."""
    names = made_tables.pictures(path.parent, 40)
    texts = ["the lungs are clear and the heart is of normal size " * 5, "双肺清晰，心影大小正常。" * 8]
    with open(path, "w", encoding="utf-8") as out:
        for number in range(ROWS):
            said = [("human", f"Number {number}?"), ("gpt", texts[number % 2])]
            said = [("human", f"<image>\n{said[0][1]}"), said[1], *said]
            turns = [{"from": role, "value": text} for role, text in said]
            row = {"id": number, "image": names[number % 40], "conversations": turns}
            out.write(("[" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
        out.write("]")


@pytest.mark.slow
def test_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "t.json")
    seconds = []
    for _ in range(2):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "t.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        samples, taken, grown = map(float, done.stdout.split())
        seconds.append(taken)
        assert 0.7 * ROWS < samples < ROWS
        assert grown < 64  # MiB; the table has about 150
    assert seconds[0] < 10
    assert seconds[1] < 1
