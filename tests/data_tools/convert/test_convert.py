"""Each source format becomes the same records; mistakes are named; bad rows are counted."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from data_tools.check_table import __main__ as check_table
from data_tools.common.text import detect_language
from data_tools.convert import __main__ as command
from vglm_train.config.data import Source
from vglm_train.data.record import content_id, parse
from vglm_train.data.tables.base import CAUSES
from vglm_train.data.tables.image_paths import ADDRESS, NOT_THERE
from vglm_train.data.tables.readers import open_table
from vglm_train.data.tables.table import Table
from vglm_train.errors import UserError


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


WANTED = {"en": ["a red dog", "a dog"], "zh": ["一只红色的狗"]}


def run_convert(source: object, out: Path, *arguments: object) -> tuple[list[dict], command.Report]:
    args = command.parse([str(source), "--out", str(out), *map(str, arguments)])
    rows, fields = command.open_source(args)
    report = command.convert(rows, fields, command.target(args))
    return read_lines(out), report


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "coco", "hf"])
def test_every_format_gives_the_same_record(kind: str, photos: Path, tmp_path: Path) -> None:
    source = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        write_lines(source, [{"image": "0.png", "captions_en": WANTED["en"], "captions_zh": WANTED["zh"]}])
    elif kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        texts = [*WANTED["en"], *WANTED["zh"]]
        source.write_text("\n".join([f"image{mark}caption", *(f"0.png{mark}{text}" for text in texts)]), "utf-8")
    elif kind == "coco":
        notes = [{"image_id": 7, "caption": text} for text in [*WANTED["en"], *WANTED["zh"]]]
        source.write_text(json.dumps({"images": [{"id": 7, "file_name": "0.png"}], "annotations": notes}))
    else:
        datasets = pytest.importorskip("datasets")
        rows = {"image": ["0.png"], "caption": [[*WANTED["en"], *WANTED["zh"]]]}
        datasets.DatasetDict(train=datasets.Dataset.from_dict(rows)).save_to_disk(source)
    records, _ = run_convert(source, tmp_path / "out" / "r.jsonl", "--format", kind, "--images", photos)
    assert len(records) == 1
    record = records[0]
    assert record["captions"] == WANTED
    assert record["image_id"] == content_id((photos / "0.png").read_bytes())
    assert (tmp_path / "out" / record["image"]).resolve() == (photos / "0.png").resolve()
    assert record["source"] == "data"
    assert record["split"] == "train"
    assert record["id"] == ("7" if kind == "coco" else "0")
    assert record["group"] == "0", "what shows one picture is never split"


def test_pictures_inside_hugging_face_data_become_files(photos: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = [(photos / f"{index}.png").read_bytes() for index in (0, 1, 0)]
    pictures = [{"bytes": data, "path": None} for data in files]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    data = datasets.Dataset.from_dict({"image": pictures, "text": ["a", "b", "c"]}, features=features)
    folder = tmp_path / "parquet"
    folder.mkdir()
    data.to_parquet(folder / "test.parquet")
    out = tmp_path / "out" / "r.jsonl"
    records, _ = run_convert(folder, out, "--format", "hf")
    assert [record["split"] for record in records] == ["test"] * 3
    assert records[0]["image_id"] == records[2]["image_id"] != records[1]["image_id"]
    assert [(out.parent / record["image"]).read_bytes() for record in records] == files
    assert len([path for path in (out.parent / "images").rglob("*") if path.is_file()]) == 2


def test_shards_of_another_tool_are_read(photos: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    folder = tmp_path / "laion"
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "00000.tar")) as tar:
        for index, text in enumerate(("a dog", "一只狗")):
            tar.write({"__key__": f"{index:09d}", "png": (photos / f"{index}.png").read_bytes(), "txt": text})
    records, _ = run_convert(folder, tmp_path / "out" / "r.jsonl", "--format", "hf")
    assert [record["captions"] for record in records] == [{"en": ["a dog"]}, {"zh": ["一只狗"]}]


def test_bad_rows_are_counted_by_cause_and_named(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "c.jsonl"
    good = b'{"image": "0.png", "caption": "a dog"}\n'
    bad = [b"{broken\n", b'{"image": "0.png", "caption": " "}\n', b'{"image": "no.png", "caption": "x"}\n',
           b'{"image": "0.png", "caption": "\xff"}\n', b'{"caption": "x"}\n', b'{"image": "0.png", "caption": 3}\n',
           b'{"image": "http://a/b.jpg", "caption": "x"}\n', b"[1]\n"]  # fmt: skip
    source.write_bytes(good + b"".join(bad))
    records, report = run_convert(source, tmp_path / "r.jsonl", "--format", "jsonl", "--images", photos)
    assert len(records) == 1
    assert report.bad == {
        CAUSES["json"]: 2, CAUSES["encoding"]: 1, "the row has no answer": 1, "a caption must be a text": 1,
        NOT_THERE: 1, ADDRESS: 1, "the row names no picture": 1,
    }  # fmt: skip
    first, *_ = report.lines()
    assert first == "1 records of 9 rows ({'train': 1}), captions and answers: 1 en", "rows that are left out count"
    assert report.named["the row has no answer"] == ["line 3"]
    assert report.named[ADDRESS] == ["line 8: http://a/b.jpg"]


def test_one_file_is_one_group_however_rows_write_its_path(photos: Path, tmp_path: Path) -> None:
    names = ["0.png", "./0.png", ".\\0.png", "0.PNG", str(photos / "0.png")]
    source = write_lines(tmp_path / "c.jsonl", [{"image": name, "prompt": "What?", "label": "a"} for name in names])
    records, _ = run_convert(source, tmp_path / "r.jsonl", "--images", photos)
    assert [(record["id"], record["group"]) for record in records] == [("0", "0")] * len(names)


def test_a_picture_that_cannot_be_decoded_is_named(photos: Path, tmp_path: Path) -> None:
    (photos / "page.png").write_text("<html>not found</html>")
    rows = [{"image": name, "caption": "a"} for name in ("0.png", "page.png")]
    _, report = run_convert(write_lines(tmp_path / "c.jsonl", rows), tmp_path / "r.jsonl", "--images", photos)
    ((what, (example,)),) = report.named.items()
    assert what == "a picture that cannot be decoded, a web page"
    assert example.startswith("line 2: page.png: (HTML)")


def test_what_was_read_is_told_in_full(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"images": ["0.png"], "instruction": "<image>What?", "input": "Be short.", "output": "a dog", "history": []}
    source = write_lines(tmp_path / "c.jsonl", [row])
    told = {}
    for tool, more in ((command, ["--out", str(tmp_path / "r.jsonl")]), (check_table, [])):
        tool.main([str(source), "--images", str(photos), *more])
        output = "".join(capsys.readouterr())
        (told[tool],) = [line for line in output.splitlines() if line.startswith("read: ")]
    assert set(told.values()) == {
        "read: image from images, question from instruction, input from input, history from history, answer from output"
    }


def test_a_folder_that_only_the_library_knows_is_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures in folders, as R2Gen's: the library takes the folders' names for classes and leaves the table unread."""
    folder = tmp_path / "data"
    for kind in ("a", "b"):
        (folder / "images" / kind).mkdir(parents=True)
        (folder / "images" / kind / "0.png").write_bytes((photos / "0.png").read_bytes())
    (folder / "annotation.json").write_text('{"train": []}')
    with pytest.raises(UserError, match=r"a caption must be a text, for instance\n    train row 1: found the number 0"):
        run_convert(folder, tmp_path / "r.jsonl")
    assert "holds no table that is known, so the library" in (said := capsys.readouterr().err)
    assert "with the columns image, label, split; if the rows are in a file of it, give that file" in said


def test_when_every_row_is_bad_the_old_file_stays(photos: Path, tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "c.jsonl", [{"image": "no.png", "caption": "x"}]), tmp_path / "r.jsonl"
    out.write_text("precious")
    with pytest.raises(
        UserError, match=r"of the first 1 pictures it names, none is there. 'no\.png' was looked for as"
    ):
        run_convert(source, out, "--format", "jsonl", "--images", photos)
    (photos / "no.png").write_bytes(b"no picture")
    with pytest.raises(
        UserError, match=r"no row makes a record(.|\n)*left out: 1 x .*text, for .*\n    row 1: no\.png: 'no pict"
    ):
        run_convert(source, out, "--format", "jsonl", "--images", photos)
    assert out.read_text() == "precious"
    assert not list(tmp_path.glob("*.tmp-*"))


def test_csv_mapping_encoding_and_bad_rows(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "c.csv"
    text = '0.png,"a dog, ""big""\nand old",一只狗,test,p1\n1.png,a cat\n2.png,a fox,狐狸,,p2\n'
    source.write_bytes(text.encode("gb18030"))
    arguments = ["--format", "csv", "--images", photos, "--encoding", "gb18030", "--columns", "file,a,b,part,patient",
                 "--image-field", "file", "--caption-field", "en=a", "--caption-field", "zh=b", "--split-field", "part",
                 "--group-field", "patient"]  # fmt: skip
    records, report = run_convert(source, tmp_path / "r.jsonl", *arguments)
    assert records[0]["captions"] == {"en": ['a dog, "big" and old'], "zh": ["一只狗"]}
    assert [(record["split"], record["group"]) for record in records] == [("test", "p1"), ("train", "p2")]
    assert report.bad == {CAUSES["columns"]: 1}
    arguments[5] = "utf-8"
    with pytest.raises(UserError, match="encoding"):
        run_convert(source, tmp_path / "r.jsonl", *arguments)


def test_a_tsv_field_may_begin_with_a_quote(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "c.tsv"
    source.write_text('image\tcaption\n0.png\t"hello" says a dog\n1.png\ta "cat\n')
    records, _ = run_convert(source, tmp_path / "r.jsonl", "--format", "tsv", "--images", photos)
    assert [record["captions"]["en"] for record in records] == [['"hello" says a dog'], ['a "cat']]


def test_a_record_file_can_be_read_again(photos: Path, tmp_path: Path) -> None:
    rows = [{"image": "0.png", "captions": WANTED, "id": "x", "split": "val", "group": "g"}]
    source = write_lines(photos / "c.jsonl", rows)
    first, _ = run_convert(source, photos / "r.jsonl", "--format", "jsonl", "--source", "s")
    second, _ = run_convert(photos / "r.jsonl", photos / "again.jsonl", "--format", "jsonl", "--source", "s")
    assert first == second
    assert first[0] | {"image_id": 0} == {**rows[0], "image_id": 0, "source": "s"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-field", "imgae"], "--image-field: .*'imgae' \\(nearest: 'image'\\).*\\['image', 'caption'\\]"),
        (["--caption-field", "en=captoin"], "--caption-field: .*'captoin' \\(nearest: 'caption'\\)"),
        (["--caption-field", "fr=caption"], "language 'fr' is not one of \\['en', 'zh'\\]"),
        (["--split-field", "part"], "--split-field: the source has no column 'part'"),
    ],
)
def test_a_wrong_column_is_named_with_the_nearest(
    arguments: list[str], message: str, photos: Path, tmp_path: Path
) -> None:
    source = write_lines(tmp_path / "c.jsonl", [{"image": "0.png", "caption": "x"}])
    with pytest.raises(UserError, match=message):
        run_convert(source, tmp_path / "r.jsonl", "--format", "jsonl", "--images", photos, *arguments)


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "twice.csv").write_text("image,a,a\n")
    for name, kind, message in [
        ("no.jsonl", "jsonl", "no.jsonl: no such file"),
        ("list.json", "coco", "not a COCO captions file"),
        ("empty.csv", "csv", "the file is empty"),
        ("twice.csv", "csv", "'a' occurs twice"),
    ]:
        with pytest.raises(UserError, match=message):
            open_table(tmp_path / name, kind)
    with pytest.raises(UserError, match="nothing: Hugging Face datasets cannot open it"):
        run_convert(tmp_path / "nothing", tmp_path / "r.jsonl", "--format", "hf")


def said(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "text": question}, {"role": "assistant", "text": answer}]


TABLES = {
    "llava": (
        [{"id": "a", "image": "0.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"},
                                                        {"from": "gpt", "value": "A dog."}]}],
        {"id": "a", "captions": {}, "turns": said("<image>\nWhat?", "A dog."), "language": "en"},
    ),
    "messages": (
        [{"images": ["0.png", "1.png"], "messages": [{"role": "user", "content": "<image><image>相同吗？"},
                                                     {"role": "assistant", "content": "不同"}]}],
        {"image": ["photos/0.png", "photos/1.png"], "turns": said("<image><image>相同吗？", "不同"), "language": "zh"},
    ),
    "questions": (
        {"data": [{"image": "0.png", "question": "Red?", "answers": ["no", "yes", "yes"], "patient": 3,
                   "answer_type": "yes/no", "type": "colour"}]},
        {"turns": said("Red?", "yes"), "answers": ["no", "yes", "yes"], "kind": "closed", "type": "colour",
         "group": "3"},
    ),
    "captions by id": (
        {"annotations": [{"image_id": 0, "caption": "a dog"}]},
        {"id": "0", "captions": {"en": ["a dog"]}},
    ),
    "reports": ([{"img": "0.png", "report": "胸部正常"}], {"captions": {"zh": ["胸部正常"]}}),
    "captions and a dialogue": (
        [{"image": "0.png", "caption": "a dog", "turns": said("What?", "A dog.")}],
        {"captions": {"en": ["a dog"]}, "turns": said("What?", "A dog.")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_whatever_a_table_reads_becomes_records(name: str, photos: Path, tmp_path: Path) -> None:
    rows, expected = TABLES[name]
    source = tmp_path / "t.json"
    source.write_text(json.dumps(rows, ensure_ascii=False, indent=1), "utf-8")
    records, report = run_convert(source, photos.parent / "r.jsonl", "--images", photos)
    assert len(records) == 1
    assert records[0] | expected | {"image": records[0]["image"]} == records[0]
    assert records[0]["image"] == (
        [f"{photos.name}/{n}.png" for n in (0, 1)] if name == "messages" else f"{photos.name}/0.png"
    )
    assert records[0]["image_id"] == content_id((photos / "0.png").read_bytes())
    assert parse(records[0]).caption_counts == dict(report.captions)
    again, _ = run_convert(photos.parent / "r.jsonl", photos.parent / "again.jsonl", "--images", photos.parent,
                           "--source", "t")  # fmt: skip
    assert again == records


def test_broken_rows_of_a_list_are_named_by_their_number(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "t.json"
    turns = [{"from": "gpt", "value": "alone"}]
    source.write_bytes(
        b'[{"image": "0.png", "label": "a dog"}, 7, {"image": "0.png", "label": "\xff"}, {"label": "x"},'
        + json.dumps({"image": "0.png", "conversations": turns}).encode()
        + b"]"
    )
    records, report = run_convert(source, tmp_path / "r.jsonl", "--images", photos)
    assert [record["captions"] for record in records] == [{"en": ["a dog"]}]
    assert report.named == {
        CAUSES["json"]: ["row 2"], CAUSES["encoding"]: ["row 3"], "the row names no picture": ["row 4"],
        "a dialogue without an answer": ["row 5"],
    }  # fmt: skip


def test_columns_of_any_name(photos: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "t.jsonl", [{"foto": "0.png", "frage": "Was?", "antwort": "Ein Hund"}])
    named = ["--image-field", "foto", "--field", "question=frage", "--field", "answer=antwort"]
    records, _ = run_convert(source, tmp_path / "r.jsonl", "--images", photos, *named)
    assert records[0]["turns"] == said("Was?", "Ein Hund")
    with pytest.raises(UserError, match="--field frage: give WHAT=KEY, where WHAT is one of image, question"):
        run_convert(source, tmp_path / "r.jsonl", "--field", "frage")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb18030"])
def test_text_encodings(encoding: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("image;caption\r\n0.png;一只狗\r\n".encode(encoding))
    records, _ = run_convert(tmp_path / "t.csv", tmp_path / "r.jsonl", "--images", photos, "--encoding", encoding)
    assert records[0]["captions"] == {"zh": ["一只狗"]}
    with pytest.raises(UserError, match="no such encoding: klingon"):
        run_convert(tmp_path / "t.csv", tmp_path / "r.jsonl", "--encoding", "klingon")


@pytest.mark.parametrize(
    ("caption", "language"),
    [
        ("穿T恤的人", "zh"),
        ("a sign that says 中国", "en"),
        ("狗", "zh"),
        ("Ein Hund", "en"),
        ("123", "en"),
        ("㐀 x", "zh"),
    ],
)
def test_language_is_told_from_the_text(caption: str, language: str) -> None:
    assert detect_language(caption) == language


def test_the_command_reports_a_mistake_in_one_line(tool: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    done = tool("convert", tmp_path / "no.jsonl", "--format", "jsonl", "--out", tmp_path / "r.jsonl")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_real_captions_are_kept_as_they_are(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "flickr"
    records, report = run_convert(folder / "captions.jsonl", tmp_path / "r.jsonl", "--format", "jsonl")
    originals = read_lines(folder / "captions.jsonl")
    assert [record["captions"]["zh"] for record in records] == [row["captions_zh"] for row in originals]
    assert report.captions == {"en": 10500, "zh": 10500}
    assert report.splits == {"train": 1500, "val": 300, "test": 300}
    assert not report.bad


def test_convert_keeps_what_check_table_passes(photos: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """By the same causes; with --quick neither decodes, and convert says so in its last line."""
    (photos / "page.png").write_bytes(b"<html>404</html>")
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:-60])
    (photos / "meta.json").write_text('{"a": 1}')
    names = ["0.png", "page.png", "cut.png", "meta.json", "gone.png", "s3://b/1.png", "1.png", "."]
    rows = [{"image": name, "question": "What?", "answer": f"a {n}"} for n, name in enumerate(names)]
    rows += [{"image": "0.png", "question": "Which?", "answer": "C", "options": ["a", "b"]}]
    source = write_lines(photos / "t.jsonl", rows)
    records, report = run_convert(source, tmp_path / "r.jsonl")
    assert [record["id"] for record in records] == ["0", "1"]
    monkeypatch.setattr("sys.argv", ["check_table", str(source), "--json"])
    assert check_table.main() == 1
    [checked] = json.loads(capsys.readouterr().out)["tables"]
    assert dict(report.bad) == checked["damage"]
    assert {what: texts[0].partition(": ")[0] for what, texts in report.named.items()} == {
        what: text.partition(": ")[0].partition(",")[0] for what, text in checked["examples"].items()
    }
    assert len(report.bad) == 7
    monkeypatch.setattr("sys.argv", ["convert", str(source), "--out", str(tmp_path / "q.jsonl"), "--quick"])
    assert command.main() == 0
    assert capsys.readouterr().out.endswith("\npictures were not decoded; check_table does\n")
    assert [record["id"] for record in read_lines(tmp_path / "q.jsonl")] == ["0", "page", "cut", "meta", "1"]


def test_captions_come_first_where_nothing_is_asked(photos: Path, tmp_path: Path) -> None:
    rows = [{"image": "0.png", "label": "dog", "caption": "A dog runs.", "rationale": "Since it is one."}]
    source = write_lines(photos / "t.jsonl", rows)
    records, _ = run_convert(source, tmp_path / "r.jsonl")
    assert records[0]["captions"] == {"en": ["A dog runs."]}
    assert Table(Source(name="t", table=str(source))).read("", 0).json.count(b"A dog runs.") == 1
