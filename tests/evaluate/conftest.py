"""A small stage-two model and a table of questions."""

from pathlib import Path

import pytest
import small_generators
import tiny
from made_tables import pictures, write_json
from run_tasks import DATA, Loaded

from vglm_train.config.language import Prompt


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture(scope="session")
def loaded(tmp_path_factory) -> Loaded:
    own = small_generators.small_generator(tmp_path_factory.mktemp("generator"), "causal")
    return Loaded(own.model, own.template, tiny.config(data=DATA, prompt=Prompt(style="blip2")))


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """Two pictures a patient, a plane and a report each."""
    folder = tmp_path_factory.mktemp("table")
    rows = []
    for n, name in enumerate(pictures(folder, 6)):
        common = {"img": name, "patient": f"p{n // 2}"}
        rows.append({**common, "prompt": "which plane?", "label": "pa" if n else "ap", "type": "plane"})
        rows.append({**common, "prompt": "is it red", "label": "no", "type": "red"})
        rows.append({**common, "prompt": "report", "label": f"cardiomegaly number {n}", "kind": "report"})
    return write_json(folder / "held.json", rows)
