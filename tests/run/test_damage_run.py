"""A shard set with one of each damage trains to the end; with too little patience for it, the run stops unharmed."""

import io
import json
import struct
import zlib
from collections import Counter
from pathlib import Path

import pytest
from made_shards import jpeg, sample, write_manifest, write_shard
from PIL import Image

from run import runs
from vglm_train.data.shards.tar import read_tar_index

PER_SHARD, SHARDS, EPOCHS, BATCH = 60, 4, 5, 24  # 1,200 rows: the fraction is judged from 1,000 on
STEPS = PER_SHARD * SHARDS * EPOCHS // BATCH


def bomb() -> bytes:
    """A PNG of 69 bytes whose header promises 50,000 x 50,000 pixels."""
    out = io.BytesIO()
    Image.new("RGB", (1, 1)).save(out, "PNG")
    whole = bytearray(out.getvalue())
    whole[16:24] = struct.pack(">II", 50_000, 50_000)
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    return bytes(whole)


def record(captions: object) -> bytes:
    return json.dumps({"id": "x", "image_id": 1, "captions": captions}).encode()


DAMAGE = {  # sample -> what is wrong with it, and the cause it counts for
    5: ({"jpg": jpeg(5)[:200]}, "image"),
    77: ({"json": record({})}, "caption"),
    78: ({"json": record({"en": ["  "], "zh": [""]})}, "caption"),
    130: ({"jpg": None, "png": bomb()}, "bomb"),
    131: ({"json": b'{"captions": '}, "record"),
    PER_SHARD * SHARDS - 1: ({}, "truncated"),
}
CAUSES = Counter(cause for _, cause in DAMAGE.values())


@pytest.fixture(scope="module")
def damaged(config: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a run on the damaged shards."""
    folder = tmp_path_factory.mktemp("damaged")
    names = [f"shard-{number:06d}.tar" for number in range(SHARDS)]
    for number, name in enumerate(names):
        samples = range(number * PER_SHARD, (number + 1) * PER_SHARD)
        write_shard(folder / name, [sample(n, **DAMAGE.get(n, ({},))[0]) for n in samples])
    last = folder / names[-1]
    image = read_tar_index(last).offsets[-1][0]
    last.write_bytes(last.read_bytes()[: int(image) + 100])
    write_manifest(folder, dict.fromkeys(names, PER_SHARD))
    return [
        f"data.train.0.shards={folder}", "data.validation=[]", "evaluate.every=null", f"data.global_batch={BATCH}",
        f"run.length={{epochs: {EPOCHS}}}",
    ]  # fmt: skip


def train(config: Path, folder: Path, words: list[str], processes: int = 1):
    return runs.start(runs.command(config, folder, processes, *words))


@pytest.fixture(scope="module")
def patient(config: Path, damaged: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that bears all damage."""
    folder = tmp_path_factory.mktemp("patient") / "run"
    runs.finish(train(config, folder, [*damaged, "data.max_damaged=0.05"]))
    return folder


def check_counts_and_names(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    counts = {name: value for name, value in rows[-1].items() if name.startswith("data/damaged")}
    expected = {f"data/damaged_{cause}": EPOCHS * count for cause, count in CAUSES.items()}
    assert counts == {"data/damaged": EPOCHS * len(DAMAGE), **expected}
    epoch = PER_SHARD * SHARDS // BATCH
    assert [rows[n * epoch - 1]["data/damaged"] for n in range(1, EPOCHS + 1)] == [
        n * len(DAMAGE) for n in range(1, EPOCHS + 1)
    ]
    assert all(row["train/steps_not_finite"] == 0 for row in rows)
    assert (folder / "bundle" / "trained.safetensors").exists()
    text = (folder / "log.txt").read_text()
    for number, (_, cause) in DAMAGE.items():
        name = f"damaged sample in made: shard-{number // PER_SHARD:06d}.tar, key {number:06d} ({cause}): "
        assert text.count(name) >= EPOCHS, name  # workers read ahead of the last step


def test_one_of_each_damage(patient: Path) -> None:
    check_counts_and_names(patient)


@pytest.mark.slow
def test_on_two_processes(config: Path, damaged: list[str], tmp_path: Path) -> None:
    runs.finish(train(config, tmp_path / "run", [*damaged, "data.max_damaged=0.05"], processes=2))
    check_counts_and_names(tmp_path / "run")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_too_much_damage(config: Path, damaged: list[str], patient: Path, tmp_path: Path, processes: int) -> None:
    """2.5 % of the samples are damaged. With the limit raised the run goes on as if it had never stopped."""
    folder = tmp_path / "run"
    process = train(config, folder, [*damaged, "data.max_damaged=0.02"], processes)
    output, _ = process.communicate(timeout=120)
    step = -(-1000 // BATCH)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert process.returncode != 0
    assert len(errors) == 1, output
    assert 'train.py", line' not in output
    found = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert errors[0].startswith(
        f"error: step {step}: {found['data/damaged']:.0f} of {step * BATCH} samples are damaged (bomb "
    )
    assert "more than data.max_damaged 0.02. log.txt names shards and keys; " in errors[0]
    checkpoints = folder / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["latest", "step-00000035", "step-00000040"]
    assert (checkpoints / "latest").read_text() == "step-00000040\n"
    assert not (folder / "bundle").exists()
    if processes == 1:
        runs.finish(train(config, folder, [*damaged, "data.max_damaged=0.05"]))
        assert runs.losses(folder) == runs.losses(patient)
