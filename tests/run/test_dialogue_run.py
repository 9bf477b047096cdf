"""Dialogues with several pictures through whole runs, and a Q-Former that reads the question."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from made_shards import jpeg, write_manifest, write_shard
from safetensors.torch import load_file

from run import speaking
from train import main
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.convert.commands import export_weights
from vglm_train.checkpoint.convert.source import Options
from vglm_train.errors import UserError
from vglm_train.prompt.dialogue import Dialogue

pytestmark = pytest.mark.usefixtures("alone")
CPU = torch.device("cpu")


def talk(number: int) -> dict[str, Any]:
    """Two turns, the second with a picture of its own in every other sample."""
    pair = number % 2 == 1
    texts = ["<image>photo", f"a photo {number}", "<image>a" if pair else "a", f"number {number}"]
    turns = [{"role": role, "text": text} for role, text in zip(("user", "assistant") * 2, texts)]
    members = {"jpg": jpeg(number), "1.jpg": jpeg(50 + number)} if pair else {"jpg": jpeg(number)}
    return {"__key__": f"{number:06d}", **members, "json": json.dumps({"turns": turns, "language": "en"}).encode()}


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("talks")
    write_shard(folder / "a.tar", [talk(number) for number in range(16)])
    write_manifest(folder, {"a.tar": 16})
    return folder


def mixed(config: Path, talks: Path, folder: Path, **qformer: Any) -> Path:
    """A stage-two configuration with dialogues beside its captions."""
    document = yaml.safe_load(config.read_text())
    captions = document["data"]["train"][0]
    dialogues = {"name": "talks", "shards": str(talks), "weight": 1.0}
    document["data"] |= {"train": [captions | {"weight": 1.0}, dialogues], "validation": [], "workers": 0}
    document["prompt"]["max_images"] = 2
    document["evaluate"] = {"every": None}
    document["run"] |= {"folder": str(folder / "run"), "length": {"steps": 4}}
    document["optim"]["warmup"] = {"steps": 1}
    document["model"]["qformer"] |= qformer
    path = folder / "mixed.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    return path


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_dialogues_beside_captions(speaking_config: dict[str, Path], talks: Path, tmp_path: Path, family: str) -> None:
    assert main([str(mixed(speaking_config[family], talks, tmp_path))]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(math.isfinite(row["train/loss_lm"]) for row in rows)
    assert all(row["data/damaged"] == 0 for row in rows)


def test_a_q_former_that_reads_the_question(
    speaking_config: dict[str, Path], config: Path, talks: Path, tmp_path: Path
) -> None:
    made = mixed(speaking_config["causal"], talks, tmp_path, reads_question=True)
    document = yaml.safe_load(made.read_text())
    document["model"]["text"] = yaml.safe_load(config.read_text())["model"]["text"]
    made.write_text(yaml.safe_dump(document, allow_unicode=True))
    assert main([str(made)]) == 0
    before = load_file(Path(document["model"]["qformer"]["weights"]) / "trained.safetensors")
    after = load_file(tmp_path / "run/bundle/trained.safetensors")
    assert not torch.equal(before["qformer.embeddings.words.weight"], after["qformer.embeddings.words.weight"])
    assert not torch.equal(before["qformer.blocks.0.text_mlp.up.weight"], after["qformer.blocks.0.text_mlp.up.weight"])
    assert "qformer.blocks.1.text_mlp.up.weight" not in after, "nobody reads what the last block makes of text"
    found = open_bundle(tmp_path / "run/bundle", CPU)
    shown = [visual(found, question) for question in ("a photo", "photo 7", "a photo")]
    assert torch.equal(shown[0], shown[2])
    assert not torch.allclose(shown[0], shown[1])
    with pytest.raises(UserError, match=r"its Q-Former reads the question .*; hf-blip2 has no place for that"):
        export_weights(tmp_path / "run/bundle", "hf-blip2", tmp_path / "out", Options(), force=False)


def visual(bundle: Any, question: str) -> torch.Tensor:
    """What the language model sees of one picture."""
    row = bundle.template.encode_prompt(Dialogue(question, None))
    batch = bundle.template.batch([row], torch.full((1, 3, 16, 16), 90, dtype=torch.uint8))
    with torch.no_grad():
        features = bundle.model.image_features(batch)
        return bundle.model.visual_tokens(features, batch.question_ids, batch.question_mask)
