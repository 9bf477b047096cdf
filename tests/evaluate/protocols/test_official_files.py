"""The benchmarks' own files: which rows, pictures and texts are taken of them, and what is no such file."""

import json
from pathlib import Path

import made_benchmarks as made
import pytest

from vglm_train.errors import UserError
from vglm_train.evaluate.protocols.official import OfficialFiles, OfficialSet, read_official
from vglm_train.evaluate.protocols.schema import load_protocol

RAW = ["red", "none", "N/A", "nan", " Yes ", "null", "", "two dogs", "1.0", "it's"]


def read(name: str, data: Path, pictures: Path | None = None, join: str | None = None) -> OfficialFiles:
    return read_official(load_protocol(name).layouts, str(data), join, None if pictures is None else str(pictures))


@pytest.mark.parametrize("name", ["vqav2", "okvqa"])
def test_every_letter_of_peoples_answers_stays(tmp_path, name):
    """Tables to train on leave "nan" and empty answers out; the official count needs all ten."""
    folder = getattr(made, name)(tmp_path, [RAW, ["red"] * 10, RAW[::-1]])
    files = read(name, folder, folder / "val2014")
    assert [item.answers for item in files.items] == [tuple(RAW), ("red",) * 10, tuple(RAW[::-1])]
    assert [item.id for item in files.items] == [420, 421, 430]
    assert [item.picture for item in files.items][1:] == [
        "COCO_val2014_000000000042.jpg",
        "COCO_val2014_000000000043.jpg",
    ]
    assert files.items[2].question == "Which number (a) is it?"
    usual = load_protocol(name).layouts[0]
    assert [path.name for path in files.paths] == [usual.main, usual.join]
    types = {"vqav2": ["yes/no", "other", "yes/no"], "okvqa": ["is it", "what is", "is it"]}
    assert [item.type for item in files.items] == types[name]


def test_questions_whose_answers_the_server_has(tmp_path):
    made.server_questions(tmp_path, 3)
    file = tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    files = read("vqav2", file, tmp_path / "test2015")
    first = files.items[0]
    assert (first.id, first.picture, first.answers) == (10, "COCO_test2015_000000000001.jpg", ())
    assert files.layout.items.value == 107394


def test_gqa(tmp_path):
    folder = made.gqa(tmp_path, ["yes", "red", "no", "blue"])
    files = read("gqa", folder, folder / "images")
    assert [(item.id, item.picture, item.answers, item.type) for item in files.items] == [
        ("200", "n0.jpg", ("yes",), "verify"),
        ("201", "n1.jpg", ("red",), "query"),
        ("202", "n2.jpg", ("no",), "verify"),
    ]
    assert (files.rows, files.other) == (3, 1)


def test_vqa_rad(tmp_path):
    rows = [("Is it left?", "Yes ", "CLOSED "), ("How many?", 3, "OPEN")]
    folder = made.vqa_rad(tmp_path, rows)
    files = read("vqa-rad", folder, folder / "VQA_RAD Image Folder")
    assert [(item.id, item.answers, item.closed) for item in files.items] == [
        ("1", ("Yes ",), True),
        ("2", ("3",), False),
    ]
    assert files.other == 1


def test_slake(tmp_path):
    folder = made.slake(tmp_path, [("Left or right?", "Left", "CLOSED"), ("Which organ?", "Lung", "OPEN")])
    files = read("slake", folder, folder / "imgs")
    assert [(item.id, item.picture, item.closed) for item in files.items] == [
        (11935, "xmlab1/source.jpg", True), (11936, "xmlab2/source.jpg", False),
    ]  # fmt: skip
    assert files.other == 1


@pytest.mark.parametrize("parquet", [True, False])
def test_pathvqa(tmp_path, parquet):
    folder = made.pathvqa(tmp_path, [("is it red?", "yes"), ("what is it?", "a cell"), ("is it?", "No")], parquet)
    files = read("pathvqa", folder, None if parquet else folder / "images")
    assert [(item.id, item.answers, item.closed) for item in files.items] == [
        (0, ("yes",), True), (1, ("a cell",), False), (2, ("No",), True),
    ]  # fmt: skip
    pictures = OfficialSet(files, 16, None, "pillow")
    assert [item.pixels.shape for item in pictures.read(0)] == 3 * [(1, 3, 16, 16)]


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "test_qa.pkl").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(UserError, match=r"a pickle runs whatever is in it.*parquet or test_qa.json"):
        read("pathvqa", tmp_path / "test_qa.pkl")


@pytest.mark.parametrize(
    ("name", "file", "form"),
    [
        ("coco-caption", "coco_karpathy_test.json", "lavis"), ("coco-retrieval", "coco_karpathy_test.json", "lavis"),
        ("flickr30k-retrieval", "flickr30k_test.json", "lavis"), ("coco-caption", "", "karpathy"),
        ("coco-retrieval", "", "karpathy"),
    ],
)  # fmt: skip
def test_captions(tmp_path, name, file, form):
    captions = [["A man.", " a Man "], ["none", "Two dogs, running!"]]
    folder = made.karpathy(tmp_path, captions, file) if form == "lavis" else made.dataset_coco(tmp_path, captions)
    files = read(name, folder)
    assert [item.answers for item in files.items] == [("A man.", " a Man "), ("none", "Two dogs, running!")]
    assert files.items[0].picture == "val2014/COCO_val2014_000000000100.jpg"
    assert [item.id for item in files.items] == ([100, 101] if name == "coco-caption" else [0, 1])
    assert files.other == (form == "karpathy")


def test_files_by_their_own_names(tmp_path):
    folder = made.vqav2(tmp_path, [["red"] * 10])
    renamed = folder / "questions.json"
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").rename(renamed)
    (folder / "v2_mscoco_val2014_annotations.json").rename(folder / "notes.json")
    with pytest.raises(UserError, match=r"holds the answers to questions.json. Put it there, or name it as --join"):
        read("vqav2", renamed, folder / "val2014")
    with pytest.raises(
        UserError, match=r"--join no.json: no such file; give the path of v2_mscoco_val2014_annotations"
    ):
        read("vqav2", renamed, folder / "val2014", "no.json")
    assert len(read("vqav2", renamed, folder / "val2014", str(folder / "notes.json")).items) == 1
    made.dataset_coco(tmp_path, [["A dog."]]).joinpath("dataset_coco.json").rename(tmp_path / "mine.json")
    assert read("coco-caption", tmp_path / "mine.json").layout.main == "dataset_coco.json"


def test_what_is_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"--data .*: the folder has no testdev_balanced_questions.json"):
        read("gqa", tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read("gqa", tmp_path / "no.json")
    other = tmp_path / "testdev_balanced_questions.json"
    other.write_text(json.dumps([{"image": "a.jpg", "question": "what?", "answer": "it"}]))
    with pytest.raises(UserError, match=r"no 'types', 'imageId', 'isBalanced', 'id'.*they have 'image'"):
        read("gqa", other)
    folder = made.slake(tmp_path, [])
    with pytest.raises(
        UserError, match=r"none of its 1 rows is of the protocol's split \(q_lang en\). Give test.json as it was"
    ):
        read("slake", folder, folder / "imgs")
    folder = made.gqa(tmp_path, ["yes", "no"])
    with pytest.raises(
        UserError, match=r"--join x: testdev_balanced_questions\.json needs no other file; leave --join out"
    ):
        read("gqa", folder, folder / "images", "x")
    with pytest.raises(UserError, match=r"of the first 1 pictures it names, none is there.*evaluate: --pictures"):
        read("gqa", folder, tmp_path / "imgs")


def test_rows_that_cannot_be_scored_are_told(tmp_path):
    folder = made.vqav2(tmp_path, [["red"] * 10, ["blue"] * 10, ["one"] * 10])
    notes = folder / "v2_mscoco_val2014_annotations.json"
    document = json.loads(notes.read_text())
    del document["annotations"][0]  # of the last question
    notes.write_text(json.dumps(document))
    (folder / "val2014" / "COCO_val2014_000000000043.jpg").unlink()
    files = read("vqav2", folder, folder / "val2014")
    assert [(each.cause, each.reason) for each in files.broken] == [("caption", "the row has no answers.answer")]
    assert files.rows == 3
    pictures = OfficialSet(files, 16, None, "pillow")
    assert [item.id for item in pictures.read(0)] == [420, 421]
    made.put(folder / "val2014", 43, name="COCO_val2014_{:012d}.jpg")
    (folder / "val2014" / "COCO_val2014_000000000042.jpg").write_bytes(b"no picture")
    pictures = OfficialSet(read("vqav2", folder, folder / "val2014"), 16, None, "pillow")
    assert list(pictures.read(0)) == []
    assert pictures.damaged == {"image": 2}


def test_a_part_is_spread_over_the_file(tmp_path):
    folder = made.gqa(tmp_path, [str(number) for number in range(11)])
    files = read("gqa", folder, folder / "images")
    assert [item.id for item in OfficialSet(files, 16, 4, None).items] == ["200", "202", "205", "207"]
    assert len(OfficialSet(files, 16, 400, None).items) == 10
