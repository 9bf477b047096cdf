"""Pictures are found however another system wrote their paths; a bad path costs its row alone."""

import os
import unicodedata
from pathlib import Path

import made_tables
import pytest

from vglm_train.config.data import Source
from vglm_train.data.record import DamagedSample, RecordError
from vglm_train.data.tables.image_paths import (
    ADDRESS,
    DEAD_LINK,
    FOLDER,
    NO_NAME,
    NOT_A_FILE,
    NOT_THERE,
    PictureFolder,
    open_folder,
)
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1.png", "UP.JPG", "low.jpg", "has space.png", "a.b.c.png", "é.png", "back\\slash.png", "100%.png"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / unicodedata.normalize("NFC", name)).write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("images/1.png", "1.png"), ("./images/1.png", "1.png"), ("images//1.png", "1.png"),
        ("images\\1.png", "1.png"), (".\\images\\1.png", "1.png"), ("images/back\\slash.png", "back\\slash.png"),
        ("/images/1.png", "1.png"), ("\\images\\1.png", "1.png"), ("D:\\images\\1.png", "1.png"),
        ("d:/images/1.png", "1.png"), ("file:///images/1.png", "1.png"), ("FILE://images/1.png", "1.png"),
        ("file:///D:/images/has%20space.png", "has space.png"), ("images/has%20space.png", "has space.png"),
        ("images/100%.png", "100%.png"), ("images/UP.jpg", "UP.JPG"), ("images/low.JPG", "low.jpg"),
        ("images/1.PNG", "1.png"), ("images/UP", "UP.JPG"), ("images/a.b.c", "a.b.c.png"),
        (unicodedata.normalize("NFD", "images/é.png"), "é.png"),
    ],
)  # fmt: skip
def test_found(folder: Path, name: str, file: str) -> None:
    path, data = PictureFolder(folder).read(name)
    assert (path.name, data) == (file, file.encode())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("images/gone.png", NOT_THERE), ("images\\gone.png", NOT_THERE), ("C:", NOT_THERE),
        ("images/nul\0.png", NO_NAME), (f"images/{'x' * 300}.png", NO_NAME), ("/".join(["x" * 200] * 30), NO_NAME),
        ("images/\ud800.png", NO_NAME), ("images", FOLDER), ("images/", FOLDER), ("images/dead.png", DEAD_LINK),
        ("https://example.org/1.png", ADDRESS), ("s3://bucket/1.png", ADDRESS), ("OSS://bucket/1.png", ADDRESS),
        ("images/pipe.png", NOT_A_FILE),
    ],
)  # fmt: skip
def test_not_found(folder: Path, name: str, reason: str) -> None:
    (folder / "images/dead.png").symlink_to("nowhere")
    (folder / "images/loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "images/pipe.png")
    for bad in (name, "images/loop.png"):
        with pytest.raises(RecordError) as caught:
            PictureFolder(folder).read(bad)
        assert caught.value.cause == "image"
    with pytest.raises(RecordError) as caught:
        PictureFolder(folder).read(name)
    assert caught.value.what == reason
    assert "\0" not in str(caught.value)


def test_bad_paths_cost_their_rows_alone(folder: Path) -> None:
    bad = ["images/nul\0.png", f"images/{'x' * 300}.png", "images", "https://example.org/1.png", "images/\ud800.png"]
    rows = made_tables.visualglm(["images\\1.png", *bad])
    (folder / "t.json").write_text(made_tables.json.dumps(rows))
    table = Table(Source(name="t", table=str(folder / "t.json")))
    assert table.read("", 0).image == b"1.png"
    for row in range(1, len(rows)):
        with pytest.raises(DamagedSample) as caught:
            table.read("", row)
        assert caught.value.cause == "image"


def test_leading_folders_of_another_machine(tmp_path: Path) -> None:
    """All names lose the same ones, so that no two of them become one."""
    for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).write_bytes(name.encode())
    names = [f"D:\\study\\data\\{name}" for name in ("a\\1.jpg", "b\\1.jpg", "b\\2.jpg")]
    pictures, present = open_folder(tmp_path / "t.json", tmp_path / "pictures", [*names, "E:\\other\\b\\2.jpg"])
    assert (pictures.elsewhere, present) == ("D:/study/data/", 3)
    assert [pictures.read(name)[1].decode() for name in names] == ["a/1.jpg", "b/1.jpg", "b/2.jpg"]
    assert pictures.find("E:\\other\\b\\2.jpg") is None
    assert [pictures.key(name) for name in names[:2]] == ["a/1.jpg", "b/1.jpg"]
    mixed, present = open_folder(tmp_path / "t.json", tmp_path / "pictures", ["/a/1.jpg", "/b/1.jpg", *names[:1]])
    assert (mixed.elsewhere, present) == ("D:/study/data/", 3)
    linux, present = open_folder(tmp_path / "t.json", tmp_path / "pictures" / "b", ["/mnt/x/b/1.jpg", "/mnt/x/b/2.jpg"])
    assert (linux.elsewhere, present) == ("/mnt/x/b/", 2)


def test_advice(folder: Path) -> None:
    (folder / "lists").mkdir()
    table = folder / "lists" / "t.json"
    with pytest.raises(UserError, match=r"1 of them are in .*: set images: ") as caught:
        open_folder(table, table.parent, ["images\\1.png"])
    assert f"looked for as {table.parent}/images\\1.png and {table.parent}/images/1.png;" in str(caught.value)
    with pytest.raises(UserError, match=f"1 of them are in {folder}: set images: {folder} "):
        open_folder(table, table.parent, ["D:\\data\\images\\1.png"])
    with pytest.raises(UserError, match=r"names its pictures by addresses, such as 'https://x/1\.png'\. Download them"):
        open_folder(table, table.parent, ["https://x/1.png"])


def test_names_that_are_one(folder: Path) -> None:
    pictures = PictureFolder(folder)
    names = [
        "images/1.png",
        "./images/1.png",
        "images\\.\\1.png",
        f"{folder}/images/1.png",
        f"file://{folder}/images/1.png",
    ]
    assert {pictures.key(name) for name in names} == {"images/1.png"}
    assert pictures.key("/elsewhere/1.png") == "/elsewhere/1.png"
