"""A small language model from captions, and what its command refuses."""

import json
import sys
from pathlib import Path

import pytest

from data_tools.small_language.__main__ import main
from data_tools.small_language.train import FILES
from vglm_train.errors import UserError


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A records file of a few captions in both languages."""
    captions = {"en": ["A dog runs on green grass.", "Two dogs play."], "zh": ["一只狗在草地上跑。"]}
    row = {"id": "a", "image": "a.jpg", "image_id": 1, "captions": captions, "source": "s", "split": "train"}
    lines = [json.dumps(row | {"id": str(number), "group": str(number)}) for number in range(8)]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def call(monkeypatch: pytest.MonkeyPatch, records: Path, out: Path) -> int:
    shape = ["--layers", "1", "--width", "32", "--heads", "2", "--steps", "1", "--batch", "2", "--pieces", "600"]
    monkeypatch.setattr(sys, "argv", ["small_language", str(records), "--out", str(out), *shape])
    return main()


def test_one_step_writes_the_folder_and_replaces_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch, records: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        assert call(monkeypatch, records, tmp_path / "language") == 0
    assert {path.name for path in (tmp_path / "language").iterdir()} == FILES
    assert {path.name for path in tmp_path.iterdir()} == {"records.jsonl", "language"}


def test_a_folder_with_other_files_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, records: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"holds 'records.jsonl' and would be replaced"):
        call(monkeypatch, records, tmp_path)
    assert records.is_file()
