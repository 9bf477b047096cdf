"""The preview of stage two and of fine-tuning: the sequence as it is read, and what of it is learned."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from subprocess import CompletedProcess

import made_tables
import pytest
from run import domain, runs, speaking

from data_tools.preview.prompts import PromptView
from examples.marks.make_data import QUESTION, write_data
from vglm_train.batch import IGNORED
from vglm_train.config.load import load
from vglm_train.config.run import Config
from vglm_train.data.loader import build
from vglm_train.distributed import Ranks

Tool = Callable[..., CompletedProcess[str]]
ROWS = 8  # of a global batch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration of stage one and its bundle."""
    folder = tmp_path_factory.mktemp("made")
    speaking.write_bundle(runs.write_run(folder), folder / "aligned")
    return folder


@pytest.fixture(scope="module")
def configs(made: Path) -> dict[str, Path]:
    (made / "speaking").mkdir()
    return {f: speaking.write_run(made / "run.yaml", made / "aligned", made / "speaking", f) for f in speaking.FAMILIES}


def shown(config: Config, split: str = "train", count: int = ROWS) -> list[dict[str, str]]:
    """Lines of the first samples by what stands before their colon; of ids the last."""
    view = PromptView(config)
    return [
        {name: said for line in list(view.describe(sample))[1:] for name, _, said in [line.partition(": ")]}
        for sample in islice(view.samples(split, 0), count)
    ]


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_what_is_learned_is_what_training_learns(configs: dict[str, Path], family: str) -> None:
    config = load(configs[family], ["data.workers=0", "prompt.max_answer=20"])  # none is cut
    view = PromptView(config)
    batch = next(build(config, view.stage.processor, Ranks()).batches(0))
    learned = [[int(i) for i in row if i != IGNORED] for row in batch.labels.tolist()]
    found, seen = [], shown(config)
    for lines in seen:
        ids = [int(word[1:]) for word in lines["ids"].split() if word.startswith("*")]
        text = lines["decoder" if family == "seq2seq" else "text"]
        assert text.endswith("[end]»")
        said = "".join(part.partition("»")[0] for part in text.split("«")[1:])
        assert said == f"{view.template.tokenizer.decode(ids)}[end]"
        found.append(ids)
    assert sorted(found) == sorted(learned), "a batch orders its rows by length"
    assert all(f"[picture 1, {view.template.image_length} tokens]" in str(lines) for lines in seen)


def test_a_dialogue_with_two_pictures(configs: dict[str, Path], tmp_path: Path) -> None:
    """What is learned of earlier answers ends where they end, though the dialogue goes on."""
    names = made_tables.pictures(tmp_path, 2)
    said = ["photo <image>", "photo 1", "number <image>", "photo 2"]
    turns = [{"role": ("user", "assistant")[n % 2], "text": text} for n, text in enumerate(said)]
    table = made_tables.write_lines(tmp_path / "t.jsonl", [{"image": names, "turns": turns, "language": "en"}] * 8)
    source = f"data.train=[{{name: two, table: {table}}}]"
    config = load(configs["causal"], [source, "prompt.max_images=2", "data.workers=0", "data.languages=[en]"])
    view = PromptView(config)
    sample = next(view.samples("train", 0))
    assert view.picture(sample).shape == (2, 3, 16, 16)
    text = dict(line.partition(": ")[::2] for line in view.describe(sample))["text"]
    assert [part.partition("»")[0].strip() for part in text.split("«")[1:]] == ["photo 1[end]", "photo 2[end]"]
    assert "[picture 1, 4 tokens]" in text.split("«")[0]
    assert "[picture 2, 4 tokens]" in text.split("«")[1]


def test_cut_samples_are_told(configs: dict[str, Path]) -> None:
    config = load(configs["causal"], ["prompt.max_answer=2", "data.workers=0", "data.languages=[en]"])
    lines = list(PromptView(config).closing("train"))
    assert lines[1].startswith("100 samples: ")
    assert lines[1].endswith("2.0 learned (2 at most), 100 samples are cut")
    assert lines[2].startswith("warning: 100.0 % of the samples are cut at prompt.max_prompt 40 or prompt.max_answer 2")
    assert shown(config)[0]["en"].endswith(", cut")


def test_captions_of_validation(configs: dict[str, Path]) -> None:
    lines = shown(load(configs["causal"]), "validation", 1)[0]
    assert lines["right"] == "第180张照片"  # the last language's, of the first that is held out
    assert "«" not in lines["text"]


def test_the_command_on_a_fine_tuning(made: Path, tmp_path: Path, tool_here: Tool) -> None:
    write_data(tmp_path / "marks", 24, 8, seed=0)
    base = domain.write_base(made / "run.yaml", made / "aligned", tmp_path)
    config = domain.write_finetune(base, tmp_path / "marks", tmp_path)
    for split, wanted in (("train", "[end]»"), ("validation", "right (closed): ")):
        done = tool_here("preview", config, "--rows", 3, "--split", split, "--out", tmp_path / "p.html")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(wanted) == 3
        assert done.stdout.count(QUESTION) == 3
    answers = {row["label"] for row in json.loads((tmp_path / "marks" / "test.json").read_text())}
    assert any(f"right (closed): {answer}" in done.stdout for answer in answers)
    page = (tmp_path / "p.html").read_text("utf-8")
    assert page.count('<div class="case">') == page.count("base64,") == 3
