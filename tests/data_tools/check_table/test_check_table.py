"""What is wrong with a table, and what it shares with another, is told before training."""

import contextlib
import io
import json
import sys
from pathlib import Path

import made_tables
import numpy as np
import pytest
from made_shards import jpeg
from PIL import Image, ImageFilter
from run import runs, speaking

from data_tools.check_table import __main__ as check_table
from data_tools.check_table.pictures import OpenedPictures, find_same, open_picture
from vglm_train import stages
from vglm_train.config.load import load
from vglm_train.data.loader import build
from vglm_train.data.record import DamagedSample
from vglm_train.data.sample import read_sample
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.image import open_image


def check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["check_table", *map(str, words), "--workers", "1"])
    status = check_table.main()
    return status, capsys.readouterr().out


def photo(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((120, 100), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def saved(image: Image.Image, quality: int = 95) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def opened(*contents: bytes) -> OpenedPictures:
    pictures = OpenedPictures()
    for number, content in enumerate(contents):
        pictures.add(number, open_picture(content))
    return pictures


def test_pictures_saved_anew_are_near_and_others_are_not() -> None:
    first = opened(*(saved(photo(n)) for n in range(12)), b"broken")
    small = photo(3).resize((60, 50)).point(lambda level: min(255, level + 8))
    second = opened(saved(photo(40)), saved(small, 50), saved(photo(3)))
    assert [(one, other) for one, other, _ in find_same(first, second)] == [(3, 1)]  # the very same bytes do not count
    assert first.known[12].damage
    assert list(find_same(opened(), second)) == list(find_same(first, opened())) == []


def test_planted_copies_of_x_rays_are_found_and_strangers_are_not(shared: Path) -> None:
    files = sorted((shared / "data" / "xray_vqa" / "images").iterdir())[:120]
    contents = list({path.read_bytes(): None for path in files})
    first = opened(*contents)
    for change in (lambda image: image, lambda image: image.resize([side * 2 // 3 for side in image.size])):
        copies = [saved(change(open_image(content)), 40) for content in contents[::4]]
        found = {other: one for one, other, _ in find_same(first, opened(*copies))}
        assert found == {number: 4 * number for number in range(len(copies))}
    assert not list(find_same(opened(*contents[::2]), opened(*contents[1::2])))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(8):
        (tmp_path / f"images/{number}.jpg").write_bytes(saved(photo(number)))
    return tmp_path


def rows(numbers: range) -> list[dict]:
    return [
        {"img": f"images/{n}.jpg", "prompt": "plane?", "label": "pa" if n % 4 else "ap", "type": "plane", "patient": n}
        for n in numbers
    ]


def test_a_sound_table(folder: Path, capsys, monkeypatch) -> None:
    path = made_tables.write_json(folder / "t.json", rows(range(8)))
    status, said = check(capsys, monkeypatch, path)
    assert status == 0
    assert "8 rows, 8 can be used" in said
    assert "read: image from img, question from prompt, answer from label, group from patient, type from type" in said
    assert "plane: 8 answers, 2 different; the commonest is 75 %: pa" in said


def test_everything_wrong_is_counted(folder: Path, capsys, monkeypatch) -> None:
    """Each row once; what it says counts nowhere, the rows beside it do."""
    (folder / "images/1.jpg").write_bytes(jpeg(1)[:300])
    (folder / "images/2.jpg").unlink()
    (folder / "images/4.jpg").write_bytes((folder / "images/3.jpg").read_bytes())
    table = rows(range(8))
    table[5]["label"] = ""
    table += [
        {**table[1], "label": "lateral", "type": "odd", "patient": "p"},
        {**table[1], "img": ["images/1.jpg"] * 2},
    ]
    path = made_tables.write_json(folder / "t.json", table)
    status, said = check(capsys, monkeypatch, path, "--json")
    [summary] = json.loads(said)["tables"]
    assert status == 1
    assert summary["damage"] == {
        "the row has no answer": 1,
        "a picture that is not there": 1,
        "a picture that cannot be decoded, a JPEG picture that is cut short": 3,
    }
    assert (summary["rows"], summary["usable"]) == (10, 10 - sum(summary["damage"].values()))
    assert (summary["pictures"], summary["undecodable"], summary["again"]) == (6, 1, 1)
    assert (summary["groups"], summary["languages"]) == (5, {"en": 5, "zh": 0})
    assert summary["answers"].keys() == {"plane"}
    assert summary["answers"]["plane"]["answers"] == 5
    [example] = [text for what, text in summary["examples"].items() if "cut short" in what]
    assert example.startswith("row 2, images/1.jpg: ")
    _, said = check(capsys, monkeypatch, path)
    assert "t.json: 10 rows, 5 can be used\n" in said
    assert "pictures: 6; 1 cannot be decoded; 1 of them have the bytes of another\n" in said
    assert (
        "wrong: 3 x a picture that cannot be decoded, a JPEG picture that is cut short, first row 2, images/1.jpg: "
        in said
    )


def test_text_that_is_not_utf8_cannot_be_used(folder: Path, capsys, monkeypatch) -> None:
    (folder / "t.csv").write_bytes("image,answer\nimages/0.jpg,日\nimages/1.jpg,".encode() + "日\n".encode("gbk"))
    status, said = check(capsys, monkeypatch, folder / "t.csv")
    assert status == 1
    assert "t.csv: 2 rows, 1 can be used\n" in said
    assert "languages: zh 1;" in said
    assert "pictures: 1\n" in said
    wrong = "not in the encoding that the file is read in; set encoding (--encoding) to its own, for instance gb18030"
    assert f"wrong: 1 x {wrong}, first line 3: it is read in UTF-8" in said


def test_nothing_can_be_used(folder: Path, capsys, monkeypatch) -> None:
    for picture in (folder / "images").iterdir():
        picture.write_bytes(b"no picture")
    status, said = check(capsys, monkeypatch, made_tables.write_json(folder / "t.json", rows(range(8))))
    assert status == 1
    assert "t.json: 8 rows, 0 can be used\n" in said
    assert "languages: none; groups: none named\n" in said
    assert "plane" not in said.partition("read: ")[2].partition("\n")[2]


def test_quick_opens_no_picture_and_says_so(folder: Path, capsys, monkeypatch) -> None:
    (folder / "images/1.jpg").write_bytes(b"no picture")
    (folder / "images/2.jpg").unlink()
    path = made_tables.write_json(folder / "t.json", rows(range(8)))
    status, said = check(capsys, monkeypatch, path, "--quick")
    assert status == 1
    assert "8 rows, 7 can be used, if their pictures can be decoded: these were looked for and not opened\n" in said
    assert "pictures: 7\n" in said
    assert "wrong: 1 x a picture that is not there, first row 3" in said
    (folder / "images/copy.jpg").write_bytes((folder / "images/0.jpg").read_bytes())
    other = made_tables.write_json(folder / "b.json", [{**rows(range(1))[0], "img": "images/copy.jpg"}])
    _, said = check(capsys, monkeypatch, path, "--quick", "--against", other)
    assert "byte for byte: 1\n        images/0.jpg of t.json = images/copy.jpg of b.json" in said
    assert "saved anew: not looked for" in said


def test_what_two_tables_share(folder: Path, capsys, monkeypatch) -> None:
    (folder / "images/copy.jpg").write_bytes((folder / "images/0.jpg").read_bytes())
    (folder / "images/anew.jpg").write_bytes(saved(photo(1), 60))
    other = [*rows(range(7, 8)), *({**rows(range(1))[0], "img": f"images/{name}.jpg"} for name in ("copy", "anew"))]
    first = made_tables.write_json(folder / "a.json", rows(range(7)))
    status, said = check(capsys, monkeypatch, first, "--against", made_tables.write_json(folder / "b.json", other))
    assert status == 1
    assert "groups (patients, studies) in both: 1\n" in said
    assert "rows in both, word for word: 0\n" in said
    assert "byte for byte: 1\n        images/0.jpg = images/copy.jpg" in said
    assert "saved anew: 1" in said
    assert "images/1.jpg ~ images/anew.jpg" in said


def test_groups_that_nobody_names_cannot_be_told(folder: Path, capsys, monkeypatch) -> None:
    named = made_tables.write_json(folder / "a.json", rows(range(4)))
    bare = [{key: value for key, value in row.items() if key != "patient"} for row in rows(range(4, 8))]
    other = made_tables.write_json(folder / "b.json", bare)
    status, said = check(capsys, monkeypatch, named, "--against", other)
    assert status == 0
    assert f"groups (patients, studies) in both: cannot be told, {other} names none (--field group=KEY)\n" in said
    _, said = check(capsys, monkeypatch, named, "--against", other, "--json")
    assert json.loads(said)["shared"]["groups"] is None


def test_a_wrong_field_is_named(folder: Path) -> None:
    path = made_tables.write_json(folder / "t.json", rows(range(2)))
    with pytest.raises(UserError, match="WHAT is one of image, question, context, input, "):
        check_table.source(check_table.argparse.Namespace(field=["picture=img"]), path, None)


TALK = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A square."}]


def test_marks_that_do_not_fit_are_told_before_training(folder: Path, capsys, monkeypatch) -> None:
    table = [{"image": f"images/{n}.jpg", "conversations": TALK} for n in range(4)]
    table[1]["image"] = ["images/1.jpg", "images/2.jpg"]
    table[2]["conversations"] = [{"from": "human", "value": "<image><image>What?"}, TALK[1]]
    table.append({"conversations": TALK})
    status, said = check(capsys, monkeypatch, made_tables.write_json(folder / "t.json", table))
    assert status == 1
    assert "t.json: 5 rows, 2 can be used\n" in said
    assert "wrong: 1 x 1 <image> mark for 2 pictures, first row 2\n" in said
    assert "wrong: 1 x 2 <image> marks for 1 picture, first row 3\n" in said
    assert "wrong: 1 x the row names no picture, first row 5\n" in said


def test_what_is_not_read_or_doubtful_is_told(folder: Path, capsys, monkeypatch) -> None:
    table = [{**row, "rationale": f"Since {n}."} for n, row in enumerate(rows(range(4)))]
    table[1]["label"], table[2]["label"], table[3]["label"] = "None", ["pa", None], "\ud83d"
    (folder / "t.json").write_text(json.dumps(table))
    status, said = check(capsys, monkeypatch, folder / "t.json")
    assert status == 0
    assert (
        "not read, though it looks like text: 'rationale' ('Since 0.'). To put it before the question: --field " in said
    )
    assert "note: 1 x an answer None or N/A, which is used as it stands, first row 2\n" in said
    assert "note: 1 x an empty one among several answers or captions (null, NaN, nan), left out, first row 3\n" in said
    _, said = check(capsys, monkeypatch, folder / "t.json", "--field", "context=rationale")
    assert "not read" not in said
    assert "question from prompt, context from rationale, answer from label" in said


def test_causes_are_few_and_examples_show_the_values(folder: Path, capsys, monkeypatch) -> None:
    table = rows(range(4))
    for row, answer in zip(table, ("C", 7, "heart", "A")):
        row |= {"options": ["liver", "heart"], "label": answer}
    status, said = check(capsys, monkeypatch, made_tables.write_json(folder / "t.json", table))
    assert status == 1
    assert "wrong: 2 x the answer names none of its choices, first row 1: C of 2 choices, from A to B; numbers" in said


def test_one_split(folder: Path, capsys, monkeypatch) -> None:
    table = [{**row, "split": "test" if n == 3 else "train"} for n, row in enumerate(rows(range(6)))]
    table[1]["label"] = table[3]["label"] = ""
    path = made_tables.write_json(folder / "t.json", table)
    _, said = check(capsys, monkeypatch, path)
    assert "splits: train 5, test 1; a run reads one at a time: set split in the source" in said
    status, said = check(capsys, monkeypatch, path, "--split", "train")
    assert status == 1
    assert "t.json: 6 rows, 4 can be used; 1 are not of split train\n" in said
    assert "splits:" not in said
    with pytest.raises(UserError, match="no rows of split 'val'"):
        check(capsys, monkeypatch, path, "--split", "val")


def test_the_rules_of_a_run(folder: Path, capsys, monkeypatch) -> None:
    """Its source's fields and images, its languages and pictures at most, what it holds out."""
    table = [{"bild": f"{n % 8}.jpg", "frage": f"number {n}?", "label": "photo"} for n in range(40)]
    table[3]["label"], table[4]["bild"], table[5]["frage"] = "", ["4.jpg", "5.jpg"], "第3张照片是什么？"
    path = made_tables.write_json(folder / "t.json", table)
    aligned = runs.write_run(folder / "run")
    speaking.write_bundle(aligned, folder / "aligned")
    config = speaking.write_run(aligned, folder / "aligned", folder, "causal")
    source = f"{{name: t, table: {path}, images: {folder}/images, fields: {{image: bild, question: frage}}}}"
    changes = [f"data.train=[{source}]", "data.languages=[en]", "data.holdout={by: row, share: 0.3}", "data.workers=0"]
    words = [word for change in changes for word in ("--set", change)]
    status, said = check(capsys, monkeypatch, path, "--config", config, *words, "--json")
    [summary] = json.loads(said)["tables"]
    assert status == 1
    assert summary["damage"] == {
        "the row has no answer": 1,
        "it shows more pictures than prompt.max_images, 1": 1,
        "its dialogue is in zh, data.languages is [en]": 1,
    }
    loaded = load(config, changes)
    built = build(loaded, stages.build(loaded).processor, Ranks()).dataset
    taken = 0
    for number in range(built.epoch_samples):
        with contextlib.suppress(DamagedSample):
            read_sample(built.reader, built.mixture.at(number), built.builder)
            taken += 1
    assert summary["held"]["train"] == taken
    assert summary["held"]["train"] + summary["held"]["validation"] == summary["usable"] == 37
    _, said = check(capsys, monkeypatch, path, "--config", config, *words)
    assert f"by row, share 0.3: of these {taken} are trained on, {37 - taken} kept for validation\n" in said
