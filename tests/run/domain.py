"""Fine-tuning on marks: a small bundle of stage two, and a configuration that begins with it."""

from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml

from data_tools.small_language.train import TrainingText, save_language, train_language
from examples.marks.make_data import ANSWERS, QUESTION
from run import speaking
from vglm_train import stages
from vglm_train.config.load import load
from vglm_train.prompt.dialogue import Dialogue
from vglm_train.stages.generate import Generate

WORDS = (*ANSWERS, *ANSWERS.values(), QUESTION)  # of the marks


def write_base(config: Path, aligned: Path, folder: Path) -> Path:
    """What a stage-two run would leave that had just begun. Its language model knows what left and right have to do
    with yes and no, from text alone; how a picture says left is for the queries to learn."""
    (folder / "made").mkdir()
    path = speaking.write_run(config, aligned, folder / "made", "chatglm", WORDS)
    tokenizer = folder / "made" / "chatglm.model"
    stage = stages.build(load(path, [f"model.language.tokenizer={tokenizer}"]))
    assert isinstance(stage, Generate)
    shape = stage.language
    language, loss = train_language(shape, stage.template, _lesson, steps=200, batch=16, lr=5e-3, seed=0)
    assert loss < 0.3
    save_language(language, shape, tokenizer, Path(str(shape.weights)))
    torch.manual_seed(2)
    model = stage.model()
    stage.load(model)
    stage.save(folder / "base", model, {"run": "made"})
    return folder / "base"


def _lesson(rng: Random) -> TrainingText:
    side = rng.choice(list(ANSWERS))
    return TrainingText(Dialogue(QUESTION, ANSWERS[side], language="en"), side)


def write_finetune(base: Path, marks: Path, folder: Path) -> Path:
    """All that stage two trains, judged by test.json."""
    document: dict[str, Any] = {
        "run": {"name": "marks", "stage": "finetune", "length": {"steps": 150}},
        "model": {"bundle": str(base), "qformer": {"dropout": 0.0}},
        "prompt": {"max_prompt": 40, "max_answer": 8},
        "data": {
            "train": [{"name": "marks", "table": str(marks / "train.json")}],
            "validation": [{"name": "marks", "table": str(marks / "test.json")}],
            "languages": ["en"],
            "image": {"flip": False, "crop_scale": [0.9, 1.0]},
            "global_batch": 16,
            "workers": 0,
        },
        "optim": {"lr": 3e-3, "warmup": {"steps": 10}},
        "engine": {"precision": "fp32", "backend": "gloo"},
        "checkpoint": {"every": 50, "keep": 1, "best": "eval/vqa_accuracy"},
        "evaluate": {"task": "vqa", "every": 50, "table": 100, "decoding": {"max_new": 6}},
    }
    path = folder / "finetune.yaml"
    path.write_text(yaml.safe_dump(document))
    return path
