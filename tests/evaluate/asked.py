"""Questions about the plain-coloured pictures of speakers.py, with what is true.

python asked.py FOLDER: one rank of test_vqa_evaluator.py, with torchrun's environment variables.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import speakers
import torch
from speakers import COLOURS, PAINTS

from vglm_train import distributed
from vglm_train.config.language import Decoding
from vglm_train.data.eval_questions import EvalQuestion
from vglm_train.evaluate.vqa.evaluator import build_evaluator
from vglm_train.prompt.dialogue import Dialogue


def asked(number: int, question: str, *answers: str, kind: str = "open", **changes) -> EvalQuestion:
    """About picture `number`."""
    pixels = torch.tensor(PAINTS[number], dtype=torch.uint8)[:, None, None].expand(3, 16, 16).clone()[None]
    language = "zh" if any("\u4e00" <= c <= "\u9fff" for c in question) else "en"
    item = EvalQuestion(
        f"{number:03d}", 100 + number, None, pixels, Dialogue(question, None, language=language), kind, answers
    )
    return replace(item, **changes)


def colour_questions() -> list[EvalQuestion]:
    """Each picture's colour, and whether it is red."""
    found = []
    for number, colour in enumerate(COLOURS):
        found.append(asked(number, "a plain wall of", colour, type="colour"))
        found.append(asked(number, "a red wall", "yes" if number == 0 else "no", kind="closed", type="is it red"))
    return found


def reports() -> list[EvalQuestion]:
    return [asked(n, "picture", f"a {colour} wall", kind="report") for n, colour in enumerate(COLOURS)]


def _rank(folder: Path) -> None:
    ranks = distributed.start("gloo")
    try:
        speaker = speakers.speaker(folder / str(ranks.rank), "causal")
        for task, items in (("vqa", colour_questions()), ("report", reports())):
            scores, _ = build_evaluator(task, speaker, items, Decoding(max_new=3), 0, ranks)()
            (folder / f"{task}{ranks.rank}.json").write_text(json.dumps(scores))
    finally:
        distributed.stop()


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["DS_ACCELERATOR"] = "cpu"
    _rank(Path(sys.argv[1]))
