"""Tars and Parquet files, with the pictures in them or beside them."""

import io
import json
import tarfile
from pathlib import Path

from made_shards import jpeg

from made_layouts.base import Made, asked, caption, put


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def img2dataset(folder: Path) -> Made:
    """Two tars, with its tables and counts beside them; of one sample the text is lost, of one the picture."""
    import pyarrow
    import pyarrow.parquet

    said = []
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for n in range(3):
                key, number = f"{shard:05d}{n:04d}", 3 * shard + n
                meta = {"caption": f"photo {number}", "url": "https://example.org/1", "key": key, "status": "success"}
                if number != 0:
                    add(tar, f"{key}.txt", f"photo {number}".encode())
                if number != 4:
                    add(tar, f"{key}.JPG" if n else f"{key}.jpeg", jpeg(number))
                add(tar, f"{key}.json", json.dumps(meta if number else meta | {"caption": None}).encode())
                said += [caption(None, number, f"photo {number}")] if number not in (0, 4) else []
        rows = {"key": [f"{shard:05d}{n:04d}" for n in range(3)], "url": ["https://example.org/1"] * 3}
        pyarrow.parquet.write_table(
            pyarrow.table(rows | {"status": ["success"] * 3, "caption": ["x"] * 3}), folder / f"{shard:05d}.parquet"
        )
        (folder / f"{shard:05d}_stats.json").write_text('{"count": 3}')
    return Made(folder, said, 6, bad=2)


def one_tar(folder: Path) -> Made:
    made = img2dataset(folder)
    return Made(folder / "00001.tar", [said for said in made.said if said[1][0] >= 3], 3, bad=1)


def tars_by_pattern(folder: Path) -> Made:
    """Keys with dots, and splits in the files' names."""
    said = []
    for split, first in (("train", 0), ("val", 10)):
        with tarfile.open(folder / f"cc-{split}-00.tar", "w") as tar:
            for n in range(2):
                add(tar, f"./img.v1.{n}.jpg", jpeg(first + n))
                add(tar, f"./img.v1.{n}.txt", f"第{first + n}张照片".encode())
                said.append(caption(split, first + n, f"第{first + n}张照片"))
    return Made(folder / "cc-*.tar", said, 4)


def parquet(folder: Path) -> Made:
    """As the Hugging Face hub has PathVQA."""
    import pyarrow
    import pyarrow.parquet

    (folder / "data").mkdir()
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        images = [{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in numbers]
        rows = {"image": images, "question": [f"q{n}?" for n in numbers], "answer": ["yes"] * len(numbers)}
        pyarrow.parquet.write_table(pyarrow.table(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    said = [asked(split, n, f"q{n}?", "yes") for split, n in (("test", 2), ("train", 0), ("train", 1))]
    return Made(folder, said, 3)


def img2dataset_files(folder: Path) -> Made:
    """img2dataset's table beside loose files."""
    import pyarrow
    import pyarrow.parquet

    put(folder / "00000", 0, 1, name="00000{:04d}.jpg")
    rows = {
        "url": ["https://example.org/1"] * 3, "key": ["000000000", "000000001", "000000002"],
        "status": ["success", "success", "failed_to_download"], "caption": ["photo 0", "photo 1", "photo 2"],
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "00000.parquet")
    return Made(folder / "00000.parquet", [caption(None, n, f"photo {n}") for n in (0, 1)], 3, bad=1)
