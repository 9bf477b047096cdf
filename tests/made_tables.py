"""Tables in the layouts people have, over pictures of `made_shards`."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from made_shards import jpeg


def pictures(folder: Path, count: int) -> list[str]:
    """`count` pictures in folder/images; their paths from `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{number}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(jpeg(number))
    return names


def visualglm(names: Sequence[str], **more: Any) -> list[dict[str, Any]]:
    """Rows as VisualGLM's fine-tuning script and XrayGLM have them."""
    return [{"img": name, "prompt": f"number {n}?", "label": f"photo {n}", **more} for n, name in enumerate(names)]


def write_json(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
    return path


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def write_csv(path: Path, rows: Sequence[dict[str, Any]], delimiter: str = ",") -> Path:
    with open(path, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path
