"""Stage two on the shards of `runs`: a stage-one bundle, tiny language models of each family, a configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import made_language
import torch
import yaml

from vglm_train import stages
from vglm_train.config.load import load

FAMILIES = ("chatglm", "causal", "seq2seq")


def write_bundle(config: Path, folder: Path, *overrides: str) -> Path:
    """What a stage-one run of this configuration would leave, untrained."""
    stage = stages.build(load(config, overrides))
    torch.manual_seed(1)
    stage.save(folder, stage.model(), {"run": "made"})
    return folder


def write_run(config: Path, bundle: Path, folder: Path, family: str = "chatglm", words: Sequence[str] = ()) -> Path:
    """A stage-two run from that bundle, with a language model of its own in `folder`, which knows `words` too."""
    document: dict[str, Any] = yaml.safe_load(config.read_text())
    made = made_language.sections(folder / family, family, words)
    model = document["model"]
    document["run"] |= {"stage": "generate", "name": f"{family}_run"}
    document["model"] = {
        "vision": model["vision"],
        "qformer": model["qformer"] | {"weights": str(bundle)},
        "language": made["language"],
    }
    document["prompt"] = made["prompt"]
    document["optim"]["lr"] = 1e-2
    document["evaluate"] = {"every": 10, "table": 2, "decoding": {"max_new": 8}}
    path = folder / f"{family}.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    return path
