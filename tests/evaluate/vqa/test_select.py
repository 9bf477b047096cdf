"""Where nothing is left to ask, the message says what was left out, how many by which cause."""

import re

import pytest
from made_tables import pictures, write_json
from run_tasks import Loaded, run_task

from vglm_train.errors import UserError

pytestmark = pytest.mark.usefixtures("no_java")


def rows(names, **more):
    return [{"img": name, "prompt": "is it red?", "label": "no", **more} for name in names]


def said(loaded: Loaded, table, *words, task="vqa") -> str:
    with pytest.raises(UserError) as error:
        run_task(loaded, table, *words, task=task)
    return str(error.value)


def test_all_rows_are_damaged(loaded, tmp_path):
    names = pictures(tmp_path, 3)
    for name in names:
        (tmp_path / name).write_bytes(b"no picture")
    table = write_json(tmp_path / "t.json", [*rows(names), {**rows(names)[0], "label": ""}])
    for words in ((), ("--only", "type=plane")):  # which never was what is wrong
        assert said(loaded, table, *words) == (
            f"{table}: all of its questions are left out: 3 whose picture is missing or damaged, 1 without an answer. "
            "Mend that."
        )
    assert "all 2 chosen of its questions are left out: 2 whose picture" in said(loaded, table, "--images", "2")


def test_what_was_asked_is_said(loaded, tmp_path):
    names = pictures(tmp_path, 4)
    (tmp_path / names[0]).write_bytes(b"no picture")
    table = write_json(tmp_path / "t.json", [*rows(names), {"prompt": "text alone?", "label": "yes"}])
    words = "3 questions; left out: 1 whose picture is missing or damaged, 1 without a picture"
    _, lines, page = run_task(loaded, table)
    assert lines[0] == f"asked: {words}"
    assert f"Asked: {words}. Commonest answers" in page
    assert run_task(loaded, table, "--exclude", "key=t row 3", "--images", "3")[1][0].startswith(
        "asked: 1 questions --images 3 --exclude key=t row 3; left out: 1 whose"
    )


def test_what_another_task_asks_is_said(loaded, tmp_path):
    names = pictures(tmp_path, 3)
    made = [*rows(names[:2]), *rows(names[2:], type="report", kind="report")]
    table = write_json(tmp_path / "t.json", made)
    first = run_task(loaded, table, "--images", "3")[1][0]
    assert first == "asked: 2 questions --images 3; not asked: 1 reports, which --task report scores"
    first = run_task(loaded, table, task="report")[1][0]
    assert first == "asked: 1 questions; not asked: 2 questions, which --task vqa scores"


def test_what_is_damaged_cannot_be_chosen(loaded, tmp_path):
    names = pictures(tmp_path, 3)
    (tmp_path / names[2]).write_bytes(b"no picture")
    table = write_json(tmp_path / "t.json", rows(names))
    message = said(loaded, table, "--only", f"picture={names[2]}")
    assert f"fits none of 2 questions. There are: {names[0]}, {names[1]}." in message
    assert message.endswith("Left out before: 1 whose picture is missing or damaged.")


def test_what_a_task_is_not_about(loaded, tmp_path):
    names = pictures(tmp_path, 4)
    table = write_json(tmp_path / "t.json", [*rows(names[:2], kind="report"), *rows(names[2:])])
    message = said(loaded, table, "--only", "kind=report")
    assert "nothing for --task vqa of the 2 that --only and --exclude leave of 4: all that is usable, 2, are" in message
    assert "reports, which task report scores" in message
    assert "evaluate.task" not in message
    closed = said(loaded, table, "--exclude", "kind=report", task="report")
    assert re.search("nothing for --task report of the 2 .*, 2, are closed questions, which task vqa scores", closed)


def test_only_and_exclude_take_everything(loaded, table):
    message = said(loaded, table, "--only", "type=plane", "--exclude", "group=*")
    assert "--exclude group=*: takes away all 6 questions that --only type=plane leaves of 18; exclude less." in message


def test_no_row_has_such_a_thing(loaded, tmp_path):
    table = write_json(tmp_path / "t.json", rows(pictures(tmp_path, 2)))
    assert "--only type=plane: fits none of 2 questions. None has a type." in said(
        loaded, table, "--only", "type=plane"
    )


def test_another_language(loaded, tmp_path):
    names = pictures(tmp_path, 3)
    table = write_json(tmp_path / "t.json", [*rows(names[:2]), *rows(names[2:], language="zh", kind="report")])
    message = said(loaded, table, "--languages", "zh")
    assert message.endswith("Left out before: 2 in another language than zh (--languages).")
    whole = write_json(tmp_path / "en.json", rows(names))
    assert "languages is [zh]. Set data.languages to what the source has (evaluate: --languages)" in said(
        loaded, whole, "--languages", "zh"
    )


def test_training_data_for_another_task(loaded, table, tmp_path):
    train = write_json(tmp_path / "train.json", rows(pictures(tmp_path, 3), kind="report"))
    message = said(loaded, table, "--train", str(train))
    assert (
        message
        == f"--train {train}: nothing for --task vqa: all that is usable, 3, are reports, which task report scores."
    )


def test_commonest_answers_need_no_pictures(loaded, table, tmp_path):
    """Of training only the answers are read: pictures that cannot be decoded, or are gone, are none of its business."""
    names = pictures(tmp_path, 4)
    for name in names[1:3]:
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / names[3]).unlink()
    train = write_json(tmp_path / "train.json", rows(names))
    report, _, _ = run_task(loaded, table, "--train", str(train), "--images", "3")
    assert report["majority"] == f"{train}, 4 questions"
