"""LAVIS files of both stages in and out; its own code computed the losses (../shared/fixtures)."""

import json
from dataclasses import replace

import blip2_folders
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from vglm_train.batch import PairBatch
from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.bundle.format import read_trained
from vglm_train.checkpoint.convert.bundle import read as read_bundle
from vglm_train.checkpoint.convert.source import Options, interpolate
from vglm_train.checkpoint.keymaps.lavis import lavis_stage2
from vglm_train.config.load import dump
from vglm_train.config.run import Contrastive, Objective
from vglm_train.distributed import Ranks
from vglm_train.model.alignment import build_alignment
from vglm_train.objective.alignment import AlignmentObjective

IDS = "Qformer.bert.embeddings.position_ids"


def positions(weights) -> torch.Tensor:
    """The buffer beside a position table."""
    return torch.arange(len(weights["Qformer.bert.embeddings.position_embeddings.weight"]))[None]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def read(file) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["model"]


def run_file(folder, vision=2, qformer=2):
    """A configuration that tells the numbers of heads."""
    model = replace(
        tiny.MODEL, vision=replace(tiny.MODEL.vision, heads=vision), qformer=replace(tiny.MODEL.qformer, heads=qformer)
    )
    (folder / "run.yaml").write_text(dump(tiny.config(model=model)))
    return str(folder / "run.yaml")


@pytest.fixture(scope="module", params=["blip2_stage1_a", "blip2_stage1_b4"])
def stage1(request, shared, tmp_path_factory):
    """The fixture as LAVIS's runner saves it, the bundle, and the file that the bundle becomes."""
    root, fixture = tmp_path_factory.mktemp(request.param), shared / "fixtures" / request.param
    shape = json.loads((fixture / "expected.json").read_text())["config"]
    weights = load_file(fixture / "weights.safetensors")
    weights[IDS] = positions(weights)
    torch.save(
        {"model": weights, "optimizer": {"state": {}}, "epoch": 3, "config": {"run": {"lr": 1e-4}}}, root / "a.pth"
    )
    config = run_file(root, shape["heads"], shape["q_heads"])
    assert main(["import", str(root / "a.pth"), "--out", str(root / "bundle"), "--config", config]) == 0
    assert main(["export", str(root / "bundle"), "--format", "lavis", "--out", str(root / "b.pth")]) == 0
    return fixture, root, config


def test_there_and_back_tensor_by_tensor(stage1):
    fixture, root, _ = stage1
    back = read(root / "b.pth")
    weights = load_file(fixture / "weights.safetensors")
    assert same(weights | {IDS: positions(weights)}, back)
    assert back["temp"].shape == ()
    tied = back["Qformer.cls.predictions.decoder.weight"], back["Qformer.bert.embeddings.word_embeddings.weight"]
    assert tied[0].data_ptr() == tied[1].data_ptr(), "written once"


def test_ours_there_and_back(stage1, tmp_path):
    _, root, config = stage1
    assert main(["import", str(root / "b.pth"), "--out", str(tmp_path / "again"), "--config", config]) == 0
    for name in ("trained.safetensors", "vision.safetensors"):
        assert same(load_file(root / "bundle" / name), load_file(tmp_path / "again" / name))


def test_the_bundle_has_lavis_s_losses(stage1):
    fixture, root, _ = stage1
    expected = json.loads((fixture / "expected.json").read_text())
    data = load_file(fixture / "batch.safetensors")
    source = read_bundle(root / "bundle", Options())
    model = build_alignment(source.config.model, 0, (0.0,) * 3, (1.0,) * 3)
    model.load_state_dict({name: tensor.read() for name, tensor in source.tensors.items()})
    batch = PairBatch(
        pixels=data["image"], text_ids=data["input_ids"], text_mask=data["attention_mask"].bool(),
        image_ids=torch.arange(len(data["image"])), valid=torch.ones(len(data["image"]), dtype=torch.bool), first_row=0,
    )  # fmt: skip
    losses = Objective(itc=Contrastive(gather="lavis"))
    objective = AlignmentObjective(model.eval(), losses, Ranks(), 0, dec_id=expected["dec_id"])
    units, output = objective.units(batch), objective(batch)
    for ours, theirs in (("itc", "loss_itc"), ("itg", "loss_lm"), ("itm", "loss_itm")):
        if ours != "itm" or expected["batch"] == 2:  # else sampled, see the fixtures' README
            assert (output.sums[ours] / units[ours]).item() == pytest.approx(expected["losses"][theirs], rel=1e-4)


def test_report_tells_what_became_of_every_key(stage1, tmp_path, capsys):
    _, root, config = stage1
    main(["import", str(root / "a.pth"), "--out", str(tmp_path / "bundle"), "--config", config])
    out = capsys.readouterr().out
    assert "dropped (3): " in out
    for name in ("position_ids", "cls.predictions.decoder.weight", "Qformer.cls.predictions.bias"):
        assert name in out
    assert "new (0): none" in out


def test_other_image_sizes(stage1, tmp_path):
    _, root, config = stage1
    out = tmp_path / "bundle"
    command = ["import", str(root / "a.pth"), "--out", str(out), "--config", config, "--image-size"]
    assert main([*command, "84"]) == 0
    before, after = (load_file(folder / "vision.safetensors")["positions"] for folder in (root / "bundle", out))
    assert after.shape[0] == 1 + 6 * 6
    assert torch.equal(after, interpolate(before, round((len(before) - 1) ** 0.5), 6))
    assert read_bundle(out, Options()).config.model.vision.image_size == 84


def test_heads_are_asked_for(stage1, tmp_path, capsys):
    assert main(["import", str(stage1[1] / "a.pth"), "--out", str(tmp_path / "bundle")]) == 2
    assert "model.vision.heads by --config" in capsys.readouterr().err


def test_without_the_encoder(stage1, tmp_path, capsys):
    """As a run saves what it trained: the encoder stands in a file of its own, with a block too many."""
    fixture, root, _ = stage1
    weights = load_file(fixture / "weights.safetensors")
    own = {name: value for name, value in weights.items() if not name.startswith("visual_encoder.")}
    eva = {name.removeprefix("visual_encoder."): value for name, value in weights.items() if name not in own}
    depth = 1 + max(int(name.split(".")[1]) for name in eva if name.startswith("blocks."))
    last = {name.replace("blocks.0.", f"blocks.{depth}."): value for name, value in eva.items() if "blocks.0." in name}
    torch.save({"model": own}, tmp_path / "a.pth")
    torch.save(eva | last | {"norm.weight": torch.ones(3), "head.bias": torch.ones(3)}, tmp_path / "eva.pth")
    source = read_bundle(root / "bundle", Options())
    data = replace(tiny.config(), model=replace(source.config.model, qformer=replace(source.config.model.qformer)))
    (tmp_path / "run.yaml").write_text(dump(data))
    command = [
        "import",
        str(tmp_path / "a.pth"),
        "--out",
        str(tmp_path / "bundle"),
        "--config",
        str(tmp_path / "run.yaml"),
    ]
    assert main(command) == 2
    assert "--vision" in capsys.readouterr().err
    assert main([*command, "--vision", str(tmp_path / "eva.pth")]) == 0
    assert main(["diff", str(tmp_path / "bundle"), str(tmp_path / "a.pth"), "--config", str(tmp_path / "run.yaml"),
                 "--vision", str(tmp_path / "eva.pth")]) == 0  # fmt: skip
    ours = read_bundle(tmp_path / "bundle", Options()).tensors
    assert same({n: t.read() for n, t in ours.items()}, {n: t.read() for n, t in source.tensors.items()})
    assert main(["export", str(tmp_path / "bundle"), "--format", "lavis", "--out", str(tmp_path / "b.pth")]) == 0
    assert same(read(tmp_path / "b.pth"), own | {IDS: positions(weights)})


@pytest.fixture(scope="module", params=["opt", "t5"])
def stage2(request, tmp_path_factory):
    """LAVIS's stage two made from a small model of transformers: what was trained, the frozen models apart."""
    root = tmp_path_factory.mktemp(f"stage2_{request.param}")
    theirs = blip2_folders.generation(request.param)
    theirs.save_pretrained(root / "hf")
    theirs.language_model.save_pretrained(root / "language")
    assert main(["import", str(root / "hf"), "--out", str(root / "whole")]) == 0
    table = lavis_stage2({"opt": "causal", "t5": "seq2seq"}[request.param]).inverse()
    trained = table.apply(read_trained(root / "whole"))
    vision = load_file(root / "whole" / "vision.safetensors")
    eva = table.apply({f"vision.encoder.{name}": value for name, value in vision.items()})
    save_file({n.removeprefix("visual_encoder."): v.contiguous() for n, v in eva.items()}, root / "eva.safetensors")
    trained[IDS] = torch.arange(16)[None]
    torch.save({"model": trained}, root / "lavis.pth")
    own = read_bundle(root / "whole", Options()).config
    (root / "run.yaml").write_text(dump(replace(own, model=replace(own.model, language=None))))
    return theirs, root, trained


def imported(root, out):
    return main(["import", str(root / "lavis.pth"), "--out", str(out), "--config", str(root / "run.yaml"),
                 "--vision", str(root / "eva.safetensors"), "--language", str(root / "language")])  # fmt: skip


def test_stage_two_without_its_frozen_parts(stage2, tmp_path, capsys):
    _, root, trained = stage2
    assert imported(root, tmp_path / "bundle") == 0
    report = capsys.readouterr().out
    assert "language stays where it is" in report
    assert "vision stays where it is" in report
    assert not (tmp_path / "bundle" / "language.safetensors").exists()
    assert (
        main(["diff", str(tmp_path / "bundle" / "trained.safetensors"), str(root / "whole" / "trained.safetensors")])
        == 0
    )
    assert main(["export", str(tmp_path / "bundle"), "--format", "lavis", "--out", str(tmp_path / "b.pth")]) == 0
    assert same(read(tmp_path / "b.pth"), trained)


def test_stage_two_becomes_a_hugging_face_folder(stage2, tmp_path):
    """From LAVIS, with a frozen language model elsewhere, to transformers: the same words."""
    import transformers

    theirs, root, _ = stage2
    assert imported(root, tmp_path / "bundle") == 0
    assert main(["export", str(tmp_path / "bundle"), "--format", "hf-blip2", "--out", str(tmp_path / "hf")]) == 0
    back, report = transformers.Blip2ForConditionalGeneration.from_pretrained(
        tmp_path / "hf", output_loading_info=True, dtype=torch.float32
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = blip2_folders.logits(theirs, pixels)
    torch.testing.assert_close(blip2_folders.logits(back.eval(), pixels), expected, atol=1e-4, rtol=1e-4)


def test_stage_two_asks_for_its_language_model(stage2, tmp_path, capsys):
    _, root, _ = stage2
    assert (
        main(["import", str(root / "lavis.pth"), "--out", str(tmp_path / "b"), "--config", str(root / "run.yaml")]) == 2
    )
    assert "--language" in capsys.readouterr().err
