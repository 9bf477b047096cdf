"""LAVIS as a client: its modules load our exports strictly, with a small vocabulary; both layouts come back."""

from dataclasses import replace

import blip2_folders
import lavis_client
import pytest
import tiny
import torch
from tiny import VOCABULARY

from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.checkpoint.convert.bundle import read as read_bundle
from vglm_train.checkpoint.convert.source import Options
from vglm_train.config.data import Data, Image

IDS = "Qformer.bert.embeddings.position_ids"


class NoTokenizer:
    def save(self, folder):
        folder.mkdir()


@pytest.fixture(scope="module", params=[1, 2])
def stage_one(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(f"one_{request.param}")
    shape = replace(tiny.MODEL, qformer=replace(tiny.MODEL.qformer, layers=3, cross_every=request.param))
    image = Image(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config = tiny.config(model=shape, data=Data(global_batch=8, image=image))
    model = tiny.alignment(model=shape)
    for block in model.vision.encoder.blocks:
        block.attention.qkv.bias.data.chunk(3)[1].zero_()  # as in every published EVA
    save_bundle(root / "bundle", config, model, NoTokenizer(), {})
    assert main(["export", str(root / "bundle"), "--format", "lavis", "--out", str(root / "lavis.pth")]) == 0
    return root, shape


@pytest.fixture(scope="module", params=["opt", "t5"])
def stage_two(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    blip2_folders.generation(request.param).save_pretrained(root / "hf")
    assert main(["import", str(root / "hf"), "--out", str(root / "bundle")]) == 0
    assert main(["export", str(root / "bundle"), "--format", "lavis", "--out", str(root / "lavis.pth")]) == 0
    return root, read_bundle(root / "bundle", Options()).config.model, request.param


def content(root):
    return torch.load(root / "lavis.pth", weights_only=True)


def check_strictly(client, weights):
    """Names, shapes and dtypes, persistent buffers included; and what is written is what is loaded."""
    client.load_state_dict(weights, strict=True)
    wanted = client.state_dict()
    assert {name: (value.shape, value.dtype) for name, value in weights.items()} == {
        name: (value.shape, value.dtype) for name, value in wanted.items()
    }
    assert all(torch.equal(value, wanted[name]) for name, value in weights.items())
    assert torch.equal(weights[IDS], torch.arange(weights[IDS].shape[1])[None])


def test_stage_one_loads_strictly(stage_one):
    root, shape = stage_one
    check_strictly(lavis_client.stage_one(shape, VOCABULARY), content(root)["model"])


def test_stage_two_loads_strictly(stage_two):
    root, shape, family = stage_two
    check_strictly(lavis_client.stage_two(shape, f"{family}_proj", 48), content(root)["model"])


def test_the_configuration_key_by_key(stage_one, stage_two):
    """What `from_config` of LAVIS's classes reads."""
    root, shape = stage_one
    common = {"vit_model": "eva_clip_g", "image_size": 16, "freeze_vit": True, "vit_precision": "fp32",
              "drop_path_rate": 0, "num_query_token": 4}  # fmt: skip
    assert content(root)["config"]["model"] == common | {
        "arch": "blip2", "cross_attention_freq": shape.qformer.cross_every, "max_txt_len": shape.text.max_length,
    }  # fmt: skip
    root, _, family = stage_two
    assert content(root)["config"]["model"] == common | {"arch": f"blip2_{family}", "max_txt_len": 32}


def test_what_lavis_has_built_in_is_told(stage_one, tmp_path, capsys):
    root, _ = stage_one
    main(["export", str(root / "bundle"), "--format", "lavis", "--out", str(tmp_path / "x")])
    told = capsys.readouterr().out
    bert = (3, 32, 2, 48, 16)
    for words in (f"positions) (12, 768, 12, 3072, 512), here {bert}", f"vocabulary 30523, here {VOCABULARY}",
                  "contrastive width 256, here 16", "here (0.5, 0.5, 0.5)"):  # fmt: skip
        assert words in told
    assert "how many blocks" not in told, "stage one has a key for it"


@pytest.mark.parametrize("saved", [True, False], ids=["with the buffer", "without"])
def test_both_layouts_come_back(stage_one, stage_two, tmp_path, saved):
    """Files of transformers 4 have position_ids, later ones have not."""
    for root, *_ in (stage_one, stage_two):
        weights = content(root)["model"]
        if not saved:
            del weights[IDS]
        out = tmp_path / root.name
        out.mkdir()
        torch.save({"model": weights}, out / "a.pth")
        config = read_bundle(root / "bundle", Options()).config
        command = [
            "import",
            str(out / "a.pth"),
            "--out",
            str(out / "b"),
            "--config",
            str(root / "bundle" / "config.yaml"),
        ]
        if config.run.stage == "generate":
            command += ["--language", str(language_of(root, out))]
        assert main(command) == 0
        for file in ("trained.safetensors", "vision.safetensors"):
            assert main(["diff", str(root / "bundle" / file), str(out / "b" / file)]) == 0
        assert main(["export", str(out / "b"), "--format", "lavis", "--out", str(out / "lavis.pth")]) == 0
        assert content(out)["model"].keys() == content(root)["model"].keys()


def language_of(root, out):
    """The frozen language model's own folder."""
    import transformers

    whole = transformers.Blip2ForConditionalGeneration.from_pretrained(root / "hf")
    whole.language_model.save_pretrained(out / "language")
    return out / "language"


def test_the_length_of_the_position_table_that_stage_two_has_not(stage_two, tmp_path):
    """Only the buffer tells it."""
    root, *_ = stage_two
    weights = content(root)["model"] | {IDS: torch.arange(24)[None]}
    torch.save({"model": weights}, tmp_path / "a.pth")
    command = ["import", str(tmp_path / "a.pth"), "--out", str(tmp_path / "b")]
    command += ["--config", str(root / "bundle" / "config.yaml"), "--language", str(language_of(root, tmp_path))]
    assert main(command) == 0
    assert read_bundle(tmp_path / "b", Options()).config.model.qformer.positions == 24
