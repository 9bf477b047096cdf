"""Results stand beside each other; none is written over, and none by half."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vglm_train.errors import UserError
from vglm_train.evaluate.result import Result, choose, write

MADE = Result({"scores": {"精度": 1.0}}, ["all: 1"], "<p>页</p>")


def kept(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def test_results_of_one_name_get_a_number(tmp_path):
    bundle, data = tmp_path / "run" / "bundle", tmp_path / "held" / "test.json"
    for folder in ("run", "out", "held"):
        (tmp_path / folder).mkdir()
    data.touch()
    for out, folder in ((None, tmp_path / "run"), (str(tmp_path / "out"), tmp_path / "out")):
        (folder / "vqa-test-2.html").write_text("a page alone")
        made = [write(MADE, choose(out, str(bundle), "vqa", str(data))) for _ in range(2)]
        assert made == [[folder / f"{name}.html", folder / f"{name}.json"] for name in ("vqa-test", "vqa-test-3")]
        assert (folder / "vqa-test-2.html").read_text() == "a page alone"
        assert len(kept(folder)) == 5


def test_a_submission_is_not_written_over(tmp_path):
    made = Result({}, [], submission="[]\n")
    for stem in ("gqa-test", "gqa-test-2"):
        assert write(made, choose(str(tmp_path), "bundle", "gqa", "test")) == [
            tmp_path / f"{stem}.submission.json",
            tmp_path / f"{stem}.json",
        ]
        (tmp_path / f"{stem}.json").unlink()
    with pytest.raises(UserError, match=r"gqa-test.submission.json exists already"):
        choose(str(tmp_path / "gqa-test.json"), "bundle", "gqa", "test")
    assert sorted(kept(tmp_path)) == ["gqa-test-2.submission.json", "gqa-test.submission.json"]


def test_the_name_is_that_of_the_data(tmp_path, monkeypatch):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "manifest.json").touch()
    (tmp_path / "a.b.json").touch()
    monkeypatch.chdir(tmp_path / "val")
    for data, name in (("manifest.json", "val"), (".", "val"), ("../a.b.json", "a.b"), ("../val", "val")):
        assert choose(None, str(tmp_path / "bundle"), "vqa", data) == tmp_path / f"vqa-{name}.json"


def test_a_name_that_was_given_is_not_written_over(tmp_path):
    out = str(tmp_path / "mine.json")
    for path in write(MADE, choose(out, "bundle", "vqa", "test.json")):
        with pytest.raises(UserError, match=rf"--out {out}: mine.* exists already, .*another name or a folder"):
            choose(out, "bundle", "vqa", "test.json")
        path.unlink()
    assert choose(out, "bundle", "vqa", "test.json") == Path(out)


def test_a_blind_page_stands_beside_them(tmp_path):
    out = choose(str(tmp_path / "mine.json"), "bundle", "vqa", "test.json")
    names = [path.name for path in write(replace(MADE, blind="<p>?</p>"), out)]
    assert names == ["mine.html", "mine.blind.html", "mine.json"]
    assert kept(tmp_path)["mine.blind.html"] == "<p>?</p>"
    for name in ("mine.html", "mine.json"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"mine\.blind\.html exists already"):
        choose(str(out), "bundle", "vqa", "test.json")


def test_somebody_else_was_first(tmp_path):
    """Two evaluations at once: the later one goes beside the earlier one."""
    out = choose(str(tmp_path / "mine.json"), "bundle", "vqa", "test.json")
    out.write_text("theirs")
    assert write(MADE, out) == [tmp_path / "mine-2.html", tmp_path / "mine-2.json"]
    assert out.read_text() == "theirs"
    assert json.loads((tmp_path / "mine-2.json").read_text("utf-8")) == MADE.report


# in a process of its own: pytest's output may be a file, and larger
ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from vglm_train.errors import UserError
from vglm_train.evaluate.result import Result, write

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for result in (Result({"long": "x" * 1000}, [], "<p>"), Result({}, [], "x" * 1001)):
    try:
        write(result, Path(sys.argv[1]) / "a.json")
    except UserError as error:
        print(error)
"""


def test_nothing_is_left_where_the_disk_is_full(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, "-c", ON_A_FULL_DISK, str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 2
    for line in said:
        assert line.endswith("a.json: the result cannot be written (File too large); give another --out.")
    assert kept(folder) == {}


def test_names_of_files_that_are_not_utf8(tmp_path):
    odd = os.fsdecode(b"\xff.jpg")
    (page, out) = write(Result({"picture": odd}, [], f"<p>{odd}</p>"), tmp_path / "a.json")
    assert json.loads(out.read_text("utf-8")) == {"picture": odd}
    assert "\\udcff.jpg" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("out", "message"),
    [("a.html", "names the JSON file"), ("file/a.json", "file is no folder, and one is needed there")],
)
def test_mistakes(tmp_path, out, message):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        choose(str(tmp_path / out), "bundle", "vqa", "test.json")


@pytest.mark.parametrize(("name", "expected"), [("vqa1", "vqa1.json"), ("vqa.v2", "vqa.v2.json"), ("a.json", "a.json")])
def test_a_result_ends_in_json(tmp_path, name, expected):
    assert choose(str(tmp_path / name), "bundle", "vqa", "test.json") == tmp_path / expected
    (tmp_path / expected).touch()
    with pytest.raises(UserError, match="exists already"):
        choose(str(tmp_path / name), "bundle", "vqa", "test.json")
