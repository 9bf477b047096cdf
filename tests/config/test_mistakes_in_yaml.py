"""Files that are not YAML, as people write them: what the parser says, and the lines it speaks of."""

import re
from pathlib import Path

import pytest

from vglm_train.config.load import load
from vglm_train.errors import UserError

RUN = """\
run:
  name: photos
  length: {steps: 100}
data:
  train:
    - {name: photos, shards: shards/photos}
    - {name: drawings, shards: shards/drawings}
  global_batch: 24
optim:
  lr: 1e-4
  warmup: {steps: 10}
"""
CASES = [  # in place of a text of RUN, the line that holds the mistake, what is said of it
    ("length: {steps: 100}", "length: {steps: 100", 3, "expected ',' or '}'"),
    ("length: {steps: 100}", "length: steps: 100}", 3, "mapping values are not allowed here"),
    ("length: {steps: 100}", "length: {steps: 100}}", 3, "expected <block end>, but found '}'"),
    ("shards/drawings}", "shards/drawings", 7, "expected ',' or '}'"),
    ("shards/drawings}", "shards/drawings]", 7, "expected ',' or '}', but got ']'"),
    ("name: photos\n", "name: [photos\n", 2, "expected ',' or ']'"),
    ("drawings, shards", "drawings shards", 7, "expected ',' or '}', but got ':'"),
    ("global_batch: 24", "global_batch:\t24", 8, "found character '\\t' that cannot start any token"),
    ("name: photos\n", "name:photos\n", 2, "mapping values are not allowed here"),
    ("lr: 1e-4", "lr = 1e-4", 10, "mapping values are not allowed here"),
    ("run:", "run", 1, "mapping values are not allowed here"),
    ("name: photos\n", "name：photos\n", 2, "mapping values are not allowed here"),
    ("name: photos\n", "name: 'photos\n", 2, "found unexpected end of stream"),
    ("name: photos\n", 'name: "C:\\photos"\n', 2, "found unknown escape character 'p'"),
    ("name: photos\n", "name: @photos\n", 2, "found character '@' that cannot start any token"),
    ("name: photos\n", "name: *photos\n", 2, "found undefined alias 'photos'"),
    ("name: photos\n", "name: photos: all\n", 2, "mapping values are not allowed here"),
    ("  warmup", "   warmup", 11, "mapping values are not allowed here"),
    ("  warmup", " warmup", 11, "expected <block end>, but found"),
    ("    - {name: drawings", "   - {name: drawings", 7, "expected <block end>, but found"),
    ("{steps: 100}", "{steps: 100,, }", 3, "expected the node content, but found ','"),
]


@pytest.mark.parametrize(("before", "after", "line", "said"), CASES, ids=[case[1].strip() for case in CASES])
def test_not_yaml(tmp_path: Path, before: str, after: str, line: int, said: str) -> None:
    """The parser's words, and the line with the mistake is among those that are shown."""
    file = tmp_path / "run.yaml"
    assert before in RUN
    text = RUN.replace(before, after, 1)
    file.write_text(text, "utf-8")
    with pytest.raises(UserError) as refused:
        load(file)
    message = str(refused.value)
    assert re.match(rf"{re.escape(str(file))}:\d+: not valid YAML: {re.escape(said)}", message)
    assert f"; line {line} reads `{text.splitlines()[line - 1].strip()}`" in message
    assert "\n" not in message


def test_full_width_signs_are_named(tmp_path: Path) -> None:
    """The parser takes them for letters and says nothing of them."""
    file = tmp_path / "run.yaml"
    file.write_text(RUN.replace("name: photos\n", "name：photos\n", 1), "utf-8")
    with pytest.raises(UserError, match="： is a full-width sign, YAML needs the plain one"):
        load(file)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("{steps:100}", "run.length.steps:100: a colon and a blank divide a key from its value; write `steps: 100`"),
        ("{steps 100}", "run.length.steps 100: a colon and a blank divide a key from its value; write `steps: 100`"),
        ("\n    steps:100", "run.length: expected a mapping with keys such as epochs, steps, samples, for instance "
         "`steps: 100`; found the text 'steps:100'"),
    ],
)  # fmt: skip
def test_yaml_that_means_something_else(tmp_path: Path, after: str, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(RUN.replace("{steps: 100}", after, 1), "utf-8")
    with pytest.raises(UserError) as refused:
        load(file)
    assert str(refused.value) == f"{file}:3: {said}"


def test_an_override_has_no_line(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    with pytest.raises(UserError) as refused:
        load(tmp_path / "run.yaml", ["run.length={steps: 3"])
    said = "override run.length={steps: 3: not valid YAML: expected ',' or '}', but got '<stream end>'"
    assert str(refused.value).startswith(said)
    assert str(refused.value).endswith("put all of it in quotes, 'key={a: 1}'")
