"""VisualGLM's contract, as its own README calls it."""

import base64
import json
import re
import shutil
import subprocess

import httpx
import pytest

ANSWER = {"result", "response", "history", "status", "time"}
SAID = {"max_length": 100, "seed": 2, "temperature": 0.8, "top_p": 0.4, "top_k": 100}


@pytest.fixture(scope="module")
def image(pictures) -> str:
    return base64.b64encode(pictures[0].read_bytes()).decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
def test_as_its_readme_calls_it(tiny, pictures, tmp_path):
    """echo "{\\"image\\":\\"$(base64 path/to/example.jpg)\\", ...}" > temp.json, with the line breaks of base64."""
    script = (
        'echo "{\\"image\\":\\"$(base64 $1)\\",\\"text\\":\\"what number\\",\\"history\\":[]}" > temp.json\n'
        'curl -sS -X POST -H "Content-Type: application/json" -d @temp.json $2\n'
    )
    done = subprocess.run(
        ["sh", "-c", script, "sh", pictures[0], tiny.url], cwd=tmp_path, capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    got, wanted = json.loads(done.stdout), tiny.model.chat(pictures[0], "what number")[0]
    assert set(got) == ANSWER
    assert got["result"] == got["response"] == wanted
    assert got["history"] == [["what number", wanted]]
    assert got["status"] == 200
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", got["time"])


def test_a_conversation(tiny, pictures, image):
    first = tiny.post("/", {"text": "what number", "image": image, "history": [], **SAID}).json()
    second = tiny.post("/", {"text": "which", "image": image, "history": first["history"], **SAID}).json()
    model, sampling = tiny.model, {name: SAID[name] for name in ("seed", "temperature", "top_p", "top_k")}
    asked = model.ask(pictures[0], "what number", **sampling).within(100)
    text = model.answer(asked).text
    assert first["result"] == text
    asked = model.ask(pictures[0], "which", [("what number", text)], **sampling).within(100)
    assert second["result"] == model.answer(asked).text
    assert second["history"] == [["what number", text], ["which", second["result"]]]


def test_any_content_type_and_no_picture(tiny):
    """As requests.post(url, data=json.dumps(...)) sends it."""
    body = json.dumps({"text": "what", "history": None, "image": "", "do_sample": False, "min_length": 50})
    for kind in ({}, {"Content-Type": "text/plain"}):
        got = httpx.post(tiny.url, content=body, headers=kind, timeout=60)
        assert got.json()["result"] == tiny.model.chat(None, "what", sample=False)[0]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("{", 400, "no JSON"),
        ('"text"', 400, "the body"),
        ("{}", 400, "text: field required"),
        ('{"text": 5}', 400, "text: input should be a valid string"),
        ('{"text": "a", "history": [["b"]]}', 400, "history.0: list should have at least 2"),
        ('{"text": "a", "num_beams": 4}', 400, "num_beams"),
        ('{"text": "a", "image_path": "/etc/passwd"}', 400, "image_path is not known"),
        ('{"text": "a", "image": "/etc/passwd"}', 422, "no base64"),
        ('{"text": "a", "image": "http://x/y"}', 422, "fetches no pictures"),
        ('{"text": "a", "image": "aGVsbG8="}', 422, "cannot be taken"),
        ('{"text": "what", "max_length": 1}', 422, "max_length is 1"),
        ('{"text": "a", "top_p": NaN}', 400, "finite"),
        ("[" * 200_000, 400, "JSON"),
        ('{"text": "a", "seed": ' + "9" * 5000 + "}", 400, "JSON"),
        ('{"text": "\\ud800"}', 400, "surrogate"),
        (b'{"text": "\xff"}', 400, "JSON"),
        ("", 400, "the body"),
    ],
)
def test_errors_have_its_shape(tiny, body, status, words):
    got = tiny.raw("/", body)
    told = got.json()
    assert (got.status_code, told["status"]) == (status, status), told
    assert words in told["error"]
    assert set(told) == {*ANSWER, "error"}
    assert told["result"] is told["response"] is told["history"] is None
