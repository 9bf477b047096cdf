"""Results in the form that a benchmark's server takes."""

import json
from collections.abc import Sequence
from typing import Any

from vglm_train.evaluate.protocols.generate import Output

KEYS = {"vqa": ("question_id", "answer"), "gqa": ("questionId", "prediction"), "caption": ("image_id", "caption")}


def submission(form: str, outputs: Sequence[Output]) -> str:
    """JSON: a list with an object for each item. `form`: a key of KEYS."""
    identity, text = KEYS[form]
    rows: list[dict[str, Any]] = [{identity: item.id, text: output} for item, output in outputs]
    return json.dumps(rows, ensure_ascii=False) + "\n"
