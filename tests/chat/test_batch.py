"""Many pictures: every input has a line, whatever happens."""

import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from made_dicom import PLANTED, leaks, make_dicom
from PIL import Image
from test_terminal import command, piped

from vglm_train.chat.__main__ import main
from vglm_train.chat.batch import Batch, read_done
from vglm_train.chat.inputs import open_inputs
from vglm_train.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def lines(out: Path) -> dict[str, dict]:
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row for row in rows}


@pytest.fixture
def table(tmp_path, pictures) -> Path:
    """Questions of many kinds; some cannot be asked."""
    for number, picture in enumerate(pictures):
        shutil.copy(picture, tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows: list[dict] = [
        {"image": f"{n % 5}.png", "question": ["what", "which number", "is this red"][n % 3]} for n in range(20)
    ]
    rows[3] = {"image": "3.png", "question": "第几张"}
    rows[4] = {"image": "broken.png", "question": "what"}
    rows[5] = {"image": "nowhere.png", "question": "what"}
    rows[6] = {"question": "what"}
    rows[7] = {"image": "2.png", "question": "what is this number " * 30}
    rows[8] = {"image": ["0.png", "1.png"], "question": "what"}
    rows[9] = {"image": "1.png", "conversations": [
        {"from": "human", "value": "<image>\nwhat"}, {"from": "gpt", "value": "number 3"},
        {"from": "human", "value": "which"}, {"from": "gpt", "value": "red"}]}  # fmt: skip
    path = tmp_path / "ask.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{cut\n")
    return path


def batch(model, source: Path, out: Path, prompt=None, **sampling) -> int:
    return Batch(model, open_inputs(source, None, None), out, prompt, sampling, {"sampling": sampling}).run()


def test_every_row_has_a_line(models, table, capsys):
    model, out = models["causal"], table.with_name("out.jsonl")
    assert batch(model, table, out, max_new=5, seed=2) == 1
    found = lines(out)
    assert set(found) == {f"ask line {number}" for number in range(1, 22)}
    failed = {key: row for key, row in found.items() if "answer" not in row}
    assert {key: row["cause"] for key, row in failed.items()} == {
        "ask line 5": "input", "ask line 6": "input", "ask line 7": "row", "ask line 8": "input", "ask line 21": "row",
    }  # fmt: skip
    for key, words in {
        5: "broken.png",
        6: "nowhere.png",
        7: "no picture",
        8: "ids long",
        21: "line 21",
    }.items():
        assert words in failed[f"ask line {key}"]["error"]
    folder = table.parent
    assert found["ask line 1"]["answer"] == model.chat(folder / "0.png", "what", max_new=5, seed=2)[0]
    assert (
        found["ask line 9"]["answer"] == model.chat([folder / "0.png", folder / "1.png"], "what", max_new=5, seed=2)[0]
    )
    told = model.chat(folder / "1.png", "which", [("what", "number 3")], max_new=5, seed=2)[0]
    assert found["ask line 10"]["answer"] == told
    said = capsys.readouterr().out
    assert "16 of 21 inputs answered" in said
    assert "2 that cannot be read" in said
    assert "3 whose picture or question cannot be used" in said


def test_a_folder_of_pictures(models, pictures, tmp_path, capsys):
    (tmp_path / "in" / "below").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        shutil.copy(picture, tmp_path / "in" / ("below" if number > 2 else "") / f"{number}.png")
    assert batch(models["causal"], tmp_path / "in", tmp_path / "out.jsonl", "what number", max_new=5) == 0
    found = lines(tmp_path / "out.jsonl")
    assert sorted(found) == ["0.png", "1.png", "2.png", "below/3.png", "below/4.png"]
    for number, row in enumerate(found[key] for key in sorted(found)):
        assert row["answer"] == models["causal"].chat(pictures[number], "what number", max_new=5)[0]
    assert "5 of 5 inputs answered" in capsys.readouterr().out


def test_a_folder_as_a_device_writes_it(models, tmp_path, monkeypatch, capfd):
    """DICOM files have no ending, or a number, and names that may say who it is."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    values = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("ACC889977-WANG", "MRN-4711-Q.4711", "DICOMDIR"):
        (folder / name).write_bytes(make_dicom(values))
    (folder / "王小明.dcm").write_bytes(make_dicom(values)[:-99])
    (folder / "index.txt").write_text("no picture")
    Image.fromarray(values).save(tmp_path / "same.png")
    out = tmp_path / "answers" / "out.jsonl"
    out.parent.mkdir()
    assert batch(models["causal"], folder, out, "what number", max_new=5) == 1
    found = lines(out)
    wanted = models["causal"].chat(tmp_path / "same.png", "what number", max_new=5)[0]
    assert sorted(row.get("answer", row.get("cause")) for row in found.values()) == sorted([wanted, wanted, "input"])
    assert all(row["images"] == [key] and key.startswith("DICOM ") for key, row in found.items())
    rows = [f"{name},what number" for name in ("ACC889977-WANG", "MRN-4711-Q.4711", "王小明.dcm", "WANG-none")]
    (folder / "table.csv").write_text("\n".join(["image,question", *rows]), "utf-8")
    assert batch(models["causal"], folder / "table.csv", out.with_name("rows.jsonl"), max_new=5) == 1
    found = lines(out.with_name("rows.jsonl"))
    assert [row["images"] for _, row in sorted(found.items())] == [[f"line {n}, picture 1"] for n in range(2, 6)]
    assert "no such picture" in found["table line 5"]["error"]
    assert leaks(out.parent, tmp_path / "settings") == set()
    assert [word for word in PLANTED if word in "".join(capfd.readouterr())] == []


@pytest.mark.slow
def test_killed_at_many_moments_it_goes_on(bundles, table):
    """kill -9, ten times; a line may be cut in the middle too. What it ends with is what a run undisturbed gives."""
    out, straight = table.with_name("killed.jsonl"), table.with_name("straight.jsonl")
    arguments = (bundles["causal"], "--batch", table, "--max-new", 20, "--temperature", 0)
    assert piped(*arguments, "--out", straight).returncode == 1
    chance, before = random.Random(0), 0
    for _ in range(10):
        process = subprocess.Popen(
            command(*arguments, "--out", out, slow=True), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 90
        while not out.exists() or out.read_bytes().count(b"\n") <= before:
            if process.poll() is not None:
                break
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(chance.random() * 0.5)
        process.kill()
        process.wait()
        content = out.read_bytes()
        if chance.random() < 0.5:
            out.write_bytes(content[: len(content) - chance.randint(1, 30)])
        before = out.read_bytes().count(b"\n")
    done = piped(*arguments, "--out", out)
    assert done.returncode == 1, done.stderr
    assert lines(out) == lines(straight)


def test_lines_that_are_there_are_not_asked_again(models, table, monkeypatch, capsys):
    model, out = models["causal"], table.with_name("out.jsonl")
    batch(model, table, out, max_new=5)
    whole = out.read_bytes()
    kept = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(kept[:12]) + kept[12][:9])
    asked, submit = [], type(model).submit
    monkeypatch.setattr(type(model), "submit", lambda self, *args: (asked.append(1), submit(self, *args))[1])
    batch(model, table, out, max_new=5)
    assert lines(out) == {row["key"]: row for row in map(json.loads, kept)}
    assert len(asked) == 21 - 12 - sum(b'"cause"' in line for line in kept[12:])
    assert "(12 of them earlier)" in capsys.readouterr().out


def test_a_bundle_that_was_written_anew_does_not_continue_a_file(bundles, table, tmp_path, capsys):
    bundle, out = tmp_path / "bundle", tmp_path / "out.jsonl"
    shutil.copytree(bundles["causal"], bundle)
    arguments = [str(bundle), "--batch", str(table), "--out", str(out), "--max-new", "2"]
    assert [main(arguments), main(arguments)] == [1, 1]
    document = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(document | {"origin": {"run": "another"}}))
    answers = out.read_bytes()
    assert main(arguments) == 2
    assert "was begun with weights" in capsys.readouterr().err
    assert out.read_bytes() == answers


def test_a_file_of_something_else_is_left_alone(models, table):
    model, out = models["causal"], table.with_name("out.jsonl")
    out.write_text("my notes\n")
    with pytest.raises(UserError, match="was not written by this command"):
        batch(model, table, out, max_new=5)
    assert out.read_text() == "my notes\n"
    out.unlink()
    batch(model, table, out, max_new=5)
    with pytest.raises(UserError, match=r"begun with sampling .*5.*now it is .*6"):
        batch(model, table, out, max_new=6)
    rows = table.read_text().splitlines(keepends=True)
    table.write_text(rows[1] + "".join(rows[1:]))
    with pytest.raises(UserError, match="another input as ask line 1"):
        batch(model, table, out, max_new=5)
    out.write_bytes(out.read_bytes() + b"nonsense\n")
    with pytest.raises(UserError, match="line 22"):
        read_done(out)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "no pictures in it"),
        (lambda path: path.with_suffix(".csv").write_text("image,question\n"), "no rows"),
        (lambda path: path.with_suffix(".csv").write_text("a,b\n1,2\n"), "known to hold a picture"),
        (lambda path: None, "no such file"),
    ],
)
def test_inputs_that_are_none(tmp_path, make, words):
    path = tmp_path / "in"
    make(path)
    path = path if path.exists() else path.with_suffix(".csv")
    with pytest.raises(UserError, match=words):
        open_inputs(path, None, None)


def test_a_model_that_fails_is_a_cause(models, table, monkeypatch, capsys):
    model = models["causal"]
    decoder = model.scheduler.reader.decoder

    def breaks(requests):
        if any(len(request.names) == 2 for request in requests):
            raise RuntimeError("two pictures are too many")
        return decoder(requests)

    monkeypatch.setattr(model.scheduler.reader, "decoder", breaks)
    assert batch(model, table, table.with_name("out.jsonl"), max_new=5) == 1
    row = lines(table.with_name("out.jsonl"))["ask line 9"]
    assert (row["cause"], row["error"]) == ("model", "RuntimeError: two pictures are too many")
    assert "1 at which the model failed" in capsys.readouterr().out
