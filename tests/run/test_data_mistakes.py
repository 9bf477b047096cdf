"""What may be wrong with the shards of a run: one error says where and what to do, and nothing half-made left."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_shards import sample, write_manifest, write_shard

from train import main

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def data(config: Path, tmp_path: Path) -> Path:
    """A copy of the training shards, to be damaged."""
    return Path(shutil.copytree(config.parent / "train", tmp_path / "train"))


def _missing_shard(data: Path) -> str:
    (data / "shard-000001.tar").unlink()
    return f"{data}/shard-000001.tar: the file is missing, but {data}/manifest.json lists it. Bring it back, or run"


def _other_size(data: Path) -> str:
    with (data / "shard-000001.tar").open("ab") as file:
        file.write(bytes(512))
    size = (data / "shard-000001.tar").stat().st_size
    return f"{data}/shard-000001.tar: the file has {size} bytes, {data}/manifest.json says {size - 512}. Copy the shard"


def _no_manifest(data: Path) -> str:
    (data / "manifest.json").unlink()
    return f"{data}/manifest.json: no manifest. If the folder holds shards, run vglm data check_shards"


def _broken_manifest(data: Path) -> str:
    (data / "manifest.json").write_text("{")
    return f"{data}/manifest.json: not a manifest that can be used: it is not JSON"


def _empty_split(data: Path) -> str:
    write_manifest(data, {})
    return f"{data}/manifest.json: source 'made' is an empty split: its shards hold no sample at all."


def _no_folder(data: Path) -> str:
    shutil.rmtree(data)
    return f"{data}: no such folder of shards. vglm data pack_shards makes one."


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize(
    "damage", [_missing_shard, _other_size, _no_manifest, _broken_manifest, _empty_split, _no_folder]
)
def test_data(refused, config: Path, data: Path, tmp_path: Path, damage: Callable[[Path], str], part: str) -> None:
    """Found before the run folder is made, in validation data as well."""
    message = damage(data)
    absent = data if damage is _no_folder else None
    said = refused(config, f"data.{part}.0.shards={data}", f"run.folder={tmp_path / 'run'}", absent=absent)
    assert said.startswith(message)
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_a_manifest_that_counts_too_few(refused, config: Path, tmp_path: Path) -> None:
    """Seen when the shard is opened; the mended run starts in the same folder."""
    data = tmp_path / "train"
    data.mkdir()
    write_shard(data / "a.tar", [sample(n) for n in range(20)])
    write_manifest(data, {"a.tar": 19})
    words = (config, f"data.train.0.shards={data}", f"run.folder={tmp_path / 'run'}", "data.workers=0")
    said = refused(*words, only_running="no shard is opened before")
    assert said.startswith(f"{data}/a.tar: holds 20 samples, its manifest says 19: run vglm data check")
    write_manifest(data, {"a.tar": 20})
    assert main([*map(str, words), "run.length.steps=2", "optim.warmup.steps=1", "evaluate.every=null"]) == 0


def test_chinese_found_in_a_caption(refused, config: Path, tmp_path: Path) -> None:
    """Changing the model section, as the message asks, is possible in the same folder: nothing was trained yet."""
    captions = json.dumps({"id": "7", "image_id": 7, "captions": {"en": ["第7张照片"]}}).encode()
    data = tmp_path / "train"
    data.mkdir()
    write_shard(data / "a.tar", [sample(n, **({"json": captions} if n == 7 else {})) for n in range(8)])
    write_manifest(data, {"a.tar": 8})
    words = (
        config, f"data.train.0.shards={data}", f"run.folder={tmp_path / 'run'}", "data.workers=0",
        "data.languages=[en]", "data.validation=[]", "evaluate.every=null",
    )  # fmt: skip
    said = refused(*words, "model.text.processor=blip", only_running="no shard is opened before")
    assert said.startswith(f"{data}/a.tar, sample 000007: caption '第7张照片' is Chinese, but model.text.processor")
    assert said.endswith("Set model.text.processor to plain.")
    assert main([*map(str, words), "model.text.processor=plain", "run.length.steps=2", "optim.warmup.steps=1"]) == 0
