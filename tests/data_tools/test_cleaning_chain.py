"""Real photos and X-rays from captions to training, with planted copies on the way."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import made_records
import pytest
import yaml
from made_shards import TOKENS
from PIL import Image
from run import runs

Run = Callable[..., CompletedProcess[str]]
PHOTOS, RAYS = 90, 30


def sources(shared: Path, folder: Path) -> tuple[Path, Path]:
    """Captions files: photos and X-rays; every fourth of them again, re-encoded, resized, brightened and cropped."""
    data = shared / "data"
    photos = made_records.read(data / "flickr" / "captions.jsonl")[:: 2100 // PHOTOS][:PHOTOS]
    rows = [{**row, "image": str(data / "flickr" / row["image"])} for row in photos]
    rays = {row["img"]: row["label"] for row in json.loads((data / "xray_vqa" / "data.json").read_text("utf-8"))}
    rows += [
        {"image": str(data / "xray_vqa" / name), "captions_en": [label]}
        for name, label in list(rays.items())[:: len(rays) // RAYS][:RAYS]
    ]
    copies = []
    (folder / "copies").mkdir(parents=True)
    for row in rows[::4]:
        for kind, (picture, quality) in made_records.changed(Image.open(row["image"]).convert("RGB")).items():
            name = f"copies/{Path(row['image']).stem}-{kind}.jpg"
            picture.save(folder / name, quality=quality)
            copies.append({"image": name, "caption": row["captions_en"][0], "id": f"{kind} of {row['image']}"})
    for row in rows:
        row["id"] = row["image"]
    return made_records.write(folder / "a.jsonl", rows), made_records.write(folder / "b.jsonl", copies)


@pytest.mark.slow
def test_from_captions_to_training(shared: Path, tmp_path: Path, tool: Run) -> None:
    originals, copies = sources(shared, tmp_path)

    def done(*words: object) -> str:
        result = tool(*words)
        assert result.returncode == 0, result.stderr
        return result.stdout

    for source in (originals, copies):
        done("convert", source, "--format", "jsonl", "--out", tmp_path / f"records_{source.name}")
    done("stats", tmp_path / "records_a.jsonl", "--out", tmp_path / "stats.json", "--workers", 1)
    stats = json.loads((tmp_path / "stats.json").read_text("utf-8"))
    assert (stats["records"], stats["damage"]) == (PHOTOS + RAYS, {})

    clean = tmp_path / "clean.jsonl"
    done("dedupe", tmp_path / "records_a.jsonl", tmp_path / "records_b.jsonl", "--out", clean, "--workers", 1)
    kept, lost = made_records.read(clean), made_records.read(tmp_path / "clean.dropped.jsonl")
    assert [row["id"] for row in kept] == [row["id"] for row in made_records.read(originals)], "an original was lost"
    assert len(lost) == 4 * -(-(PHOTOS + RAYS) // 4), "a copy was not found"
    assert all(entry["id"].endswith(f" of {entry['of']}") for entry in lost)

    done("filter", clean, "--out", tmp_path / "kept.jsonl", "--min-length", "en=4", "zh=4", "--max-length", "en=60",
         "--max-aspect", 2.0, "--match-language", "--workers", 1)  # fmt: skip
    rules = {entry["rule"] for entry in made_records.read(tmp_path / "kept.dropped.jsonl")}
    assert {"min_length", "max_length"} <= rules
    done("pack_shards", tmp_path / "kept.jsonl", "--out", tmp_path / "shards", "--samples-per-shard", 40)
    document = yaml.safe_load(runs.write_run(tmp_path / "run").read_text())
    (tmp_path / "run" / "vocab.txt").write_text("\n".join([*TOKENS, *"bcdefghij"]) + "\n", "utf-8")
    document["data"]["train"][0]["shards"] = str(tmp_path / "shards")
    document["data"] |= {"validation": [], "workers": 1}
    document["run"]["length"], document["evaluate"] = {"steps": 4}, {"every": None}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(document))
    runs.finish(runs.start(runs.command(config, tmp_path / "trained", 1)))
    rows = made_records.read(tmp_path / "trained" / "metrics.jsonl")
    assert rows[-1]["step"] == 4
    assert rows[-1]["data/damaged"] == 0
