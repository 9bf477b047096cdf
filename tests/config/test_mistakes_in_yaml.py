"""Files that are not YAML, as people write them: the line where the mistake is, and what to write."""

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
COLUMN = "one section's lines begin in one column"
CASES = [
    # braces and brackets
    ("length: {steps: 100}", "length: {steps: 100", 3, "a { is not closed; add } where it ends"),
    ("length: {steps: 100}", "length: steps: 100}", 3, "a } closes nothing; remove it, or open it before"),
    ("length: {steps: 100}", "length: {steps: 100}}", 3, "a } closes nothing; remove it, or open it before"),
    ("shards/drawings}", "shards/drawings", 7, "a { is not closed; add } where it ends"),
    ("shards/drawings}", "shards/drawings]", 7, "{ is closed by ]; write }"),
    ("name: photos\n", "name: [photos\n", 2, "a [ is not closed; add ] where it ends"),
    ("drawings, shards", "drawings shards", 7, "a comma is missing between two entries within the braces"),
    ("drawings, shards", "drawings; shards", 7, "entries within braces are divided by commas, not by semicolons"),
    # tabs
    ("global_batch: 24", "global_batch:\t24", 8, "there is a tab; put spaces in its place"),
    ("{steps: 100}", "{\tsteps: 100}", 3, "there is a tab; put spaces in its place"),
    # colons, dashes and blanks
    ("name: photos\n", "name:photos\n", 2, "a blank is missing after the colon; write `name: photos`"),
    ("lr: 1e-4", "lr:1e-4", 10, "a blank is missing after the colon; write `lr: 1e-4`"),
    ("global_batch: 24", "global_batch:24", 8, "a blank is missing after the colon; write `global_batch: 24`"),
    ("lr: 1e-4", "lr = 1e-4", 10, "a colon is wanted where = stands; write `lr: 1e-4`"),
    ("run:", "run", 1, "a colon is missing; write `run:`"),
    ("optim:", "optim", 9, "a colon is missing; write `optim:`"),
    ("- {name: photos", "-{name: photos", 6, "a blank is missing after the dash; write `- {name: photos, shards"),
    ("name: photos\n", "name：photos\n", 2, "： is Chinese punctuation, which YAML takes for text; write the plain"),
    ("{steps: 100}", "｛steps: 100｝", 3, "｛ is Chinese punctuation"),
    # quotes
    ("name: photos\n", "name: 'photos\n", 2, "a quotation mark ' has no partner in this line; close it"),
    ("name: photos\n", 'name: "photos\n', 2, 'a quotation mark " has no partner in this line; close it'),
    ("name: photos\n", 'name: "C:\\photos"\n', 2, "in double quotes a backslash begins a code; use single quotes"),
    ("name: photos\n", "name: @photos\n", 2, "a value cannot begin with @; put it in quotes"),
    ("name: photos\n", "name: *photos\n", 2, "* in front of a value refers to another place of the file"),
    ("name: photos\n", "name: photos: all\n", 2, "a second colon; put the value in quotes, or each key on its own"),
    # columns
    ("  warmup", "   warmup", 11, f"it begins after 3 blanks and line 10 after 2; {COLUMN}"),
    ("  warmup", " warmup", 11, f"it begins after 1 blank and line 10 after 2; {COLUMN}"),
    ("    - {name: drawings", "   - {name: drawings", 7, f"it begins after 3 blanks and line 6 after 4; {COLUMN}"),
    # nothing is guessed
    ("{steps: 100}", "{steps: 100,, }", 3, "expected the node content, but found ','"),
]


@pytest.mark.parametrize(("before", "after", "line", "said"), CASES, ids=[case[1].strip() for case in CASES])
def test_not_yaml(tmp_path: Path, before: str, after: str, line: int, said: str) -> None:
    file = tmp_path / "run.yaml"
    assert before in RUN
    file.write_text(RUN.replace(before, after, 1), "utf-8")
    with pytest.raises(UserError) as refused:
        load(file)
    assert str(refused.value).startswith(f"{file}:{line}: not valid YAML: {said}")


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
    said = "override run.length={steps: 3: not valid YAML: a { is not closed; add } where it ends"
    assert str(refused.value) == said
