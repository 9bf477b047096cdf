"""The tasks as the command runs them, but for reading a bundle and writing the result."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from vglm_train.config.data import Data, Source
from vglm_train.config.run import Config
from vglm_train.evaluate.__main__ import TASKS, _parse
from vglm_train.evaluate.result import Result
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.prompt.template import Template

DATA = Data(train=(Source(name="a", shards="nowhere"),), languages=("en", "zh"), global_batch=8)


@dataclass
class Loaded:
    """A stage-two model as it comes out of its bundle."""

    model: VisualLanguageModel
    template: Template
    config: Config


def run_task(loaded: Loaded, table: Path, *words: str, task: str = "vqa") -> tuple[dict, list[str], str]:
    """The report, the lines that are printed, and the page."""
    result = result_of(loaded, table, *words, task=task)
    assert result.page is not None
    return dict(result.report), list(result.lines), result.page


def result_of(loaded: Loaded, table: Path, *words: str, task: str = "vqa") -> Result:
    given = _parse(["BUNDLE", "--task", task, "--data", str(table), "--workers", "0", "--max-new", "3", *words])
    result = TASKS[task].run(loaded, given, torch.device("cpu"))
    assert json.loads(json.dumps(result.report)) == result.report
    return result
