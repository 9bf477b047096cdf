"""VisualGLM's SAT folder and hub folder in and out; VisualGLM's own code computed the logits (../shared/fixtures)."""

import json
import shutil
from dataclasses import replace

import pytest
import tiny
import torch
from safetensors.torch import load_file

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.bundle.format import read_trained
from vglm_train.checkpoint.convert import qkv
from vglm_train.checkpoint.convert.bundle import read as read_bundle
from vglm_train.checkpoint.convert.source import Options, interpolate
from vglm_train.checkpoint.convert.visualglm import hub_table
from vglm_train.checkpoint.keymaps.sat import visualglm_table
from vglm_train.checkpoint.load.lazy_tensors import of_tensors
from vglm_train.config.language import Language
from vglm_train.config.load import dump
from vglm_train.config.run import Run
from vglm_train.model.visual_language import build_visual_language

WEIGHTS = "1/mp_rank_00_model_states.pt"
HEADS = {"eva_args": 4, "qformer_args": 4, "": 4}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def read(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / WEIGHTS, weights_only=True)["module"]


def ours(bundle) -> dict[str, torch.Tensor]:
    return {name: tensor.read() for name, tensor in read_bundle(bundle, Options()).tensors.items()}


def reordered(folder, out, fused):
    """The same model in a SAT folder whose fused products are in another order, made by the tables alone."""
    shutil.copytree(folder, out, copy_function=shutil.copyfile)
    out.chmod(0o755)
    (out / "1").chmod(0o755)
    mine = visualglm_table(4, HEADS, "thirds").apply(read(folder))
    torch.save({"module": visualglm_table(4, HEADS, fused).inverse().apply(mine)}, out / WEIGHTS)
    return out


@pytest.fixture(scope="module")
def case(shared, tmp_path_factory):
    root, folder = tmp_path_factory.mktemp("visualglm"), shared / "fixtures" / "visualglm_sat_a"
    assert main(["import", str(folder), "--out", str(root / "bundle")]) == 0
    assert main(["export", str(root / "bundle"), "--format", "visualglm-sat", "--out", str(root / "back")]) == 0
    return folder, root


def test_there_and_back_tensor_by_tensor(case):
    folder, root = case
    assert same(read(folder), read(root / "back"))
    before, after = (json.loads((place / "model_config.json").read_text()) for place in (folder, root / "back"))
    assert after == before | {"sat_version": after["sat_version"], "model_parallel_size": 1}
    assert (root / "back" / "latest").read_text() == "1"


def test_ours_there_and_back(case, tmp_path):
    _, root = case
    assert main(["import", str(root / "back"), "--out", str(tmp_path / "again")]) == 0
    assert same(ours(root / "bundle"), ours(tmp_path / "again"))


def test_logits_are_the_reference_s(case):
    folder, root = case
    source, data = read_bundle(root / "bundle", Options()), load_file(folder / "batch.safetensors")
    expected = json.loads((folder / "expected.json").read_text())
    model = build_visual_language(source.config.model, (0.0,) * 3, (1.0,) * 3)
    model.load_state_dict({name: tensor.read() for name, tensor in source.tensors.items()})
    ids, labels, start = data["input_ids"], data["labels"], expected["pre_image"]
    visual = torch.zeros_like(ids, dtype=torch.bool)
    visual[:, start : start + model.image_length] = True
    real = ~((labels == IGNORED) & (torch.arange(ids.shape[1]) >= expected["context_length"]))
    wanted = ids.clone()
    wanted[:, 0] = IGNORED
    batch = PromptBatch(
        pixels=data["image"], valid=torch.ones(len(ids), dtype=torch.bool), input_ids=ids, attention_mask=real,
        visual_mask=visual, labels=wanted,
    )  # fmt: skip
    with torch.no_grad():
        logits = model.eval().score(batch)[0].view(len(ids), -1, source.config.model.language.vocabulary)
    real = real[:, :-1]
    torch.testing.assert_close(logits[real], data["expected.logits"][:, :-1][real], atol=1e-4, rtol=1e-4)


def test_either_order_by_option_and_by_version(case, tmp_path, capsys):
    folder, root = case
    older = reordered(folder, tmp_path / "older", "heads")
    assert main(["import", str(older), "--out", str(tmp_path / "asked"), "--qkv", "heads"]) == 0
    assert same(ours(tmp_path / "asked"), ours(root / "bundle"))
    content = json.loads((older / "model_config.json").read_text())
    (older / "model_config.json").unlink()
    (older / "model_config.json").write_text(json.dumps(content | {"sat_version": "0.3.6"}))
    assert main(["import", str(older), "--out", str(tmp_path / "recorded")]) == 0
    assert same(ours(tmp_path / "recorded"), ours(root / "bundle"))
    assert main(["export", str(root / "bundle"), "--format", "visualglm-sat", "--out", str(tmp_path / "back"),
                 "--qkv", "heads"]) == 0  # fmt: skip
    assert same(read(tmp_path / "back"), read(older))
    capsys.readouterr()
    main(["import", str(tmp_path / "back"), "--out", str(tmp_path / "again")])
    assert "heads, as the format has it, which its numbers neither confirm nor deny" in capsys.readouterr().out


def published(folder):
    """The folder's weights, but without a bias on the encoder's keys, as every published EVA."""
    weights = read(folder)
    for name in weights:
        if ".vit." in name and name.endswith("query_key_value.bias"):
            weights[name].chunk(3)[1].zero_()
    return weights


@pytest.mark.parametrize("order", ["thirds", "heads"])
def test_numbers_tell_the_order(case, tmp_path, capsys, order):
    folder, _ = case
    there = reordered(folder, tmp_path / "there", "thirds")
    mine = visualglm_table(4, HEADS, "thirds").apply(published(folder))
    torch.save({"module": visualglm_table(4, HEADS, order).inverse().apply(mine)}, there / WEIGHTS)
    status = main(["import", str(there), "--out", str(tmp_path / "bundle")])
    out = capsys.readouterr()
    if order == "thirds":
        assert status == 0
        assert "its numbers agree" in out.out
    else:
        assert status == 2
        assert "--qkv heads" in out.err
        assert main(["import", str(there), "--out", str(tmp_path / "bundle"), "--qkv", "heads"]) == 0
        assert same({n: v for n, v in ours(tmp_path / "bundle").items()}, mine)


def test_weights_whose_parts_differ_tell_the_order():
    """As in trained language models: keys' and values' rows have other norms than queries'."""
    draw = torch.Generator().manual_seed(0)
    heads, width = 8, 64
    thirds = torch.cat([scale * torch.randn(width, width, generator=draw) for scale in (1.0, 0.9, 0.5)])
    per_head = thirds.view(3, heads, -1, width).transpose(0, 1).reshape(3 * width, width)
    name = "transformer.layers.0.attention.query_key_value.weight"
    assert qkv.measured_order(of_tensors({name: thirds}), heads) == "thirds"
    assert qkv.measured_order(of_tensors({name: per_head}), heads) == "heads"
    assert qkv.measured_order(of_tensors({name: torch.randn(3 * width, width, generator=draw)}), heads) is None


def test_hub_layout(case, tmp_path, capsys):
    """ChatGLM's names per head, the image side under SAT's names in thirds, in several .bin files."""
    folder, root = case
    there = tmp_path / "there"
    there.mkdir()
    weights = hub_table(4, HEADS).inverse().apply(ours(root / "bundle"))
    assert "image_encoder.glm_proj.weight" in weights
    weights["transformer.rotary_emb.inv_freq"] = torch.ones(8)
    index = {}
    for part in range(3):
        tensors = dict(list(weights.items())[part::3])
        torch.save(tensors, there / f"pytorch_model-{part + 1:05}-of-00003.bin")
        index |= dict.fromkeys(tensors, f"pytorch_model-{part + 1:05}-of-00003.bin")
    (there / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    content = json.loads((folder / "model_config.json").read_text())
    content |= {"model_type": "chatglm", "eva_config": content.pop("eva_args")}
    content |= {"qformer_config": content.pop("qformer_args")}
    (there / "config.json").write_text(json.dumps(content))
    assert main(["import", str(there), "--out", str(tmp_path / "bundle")]) == 0
    assert "(visualglm-hub)" in capsys.readouterr().out
    assert same(ours(tmp_path / "bundle"), ours(root / "bundle"))
    assert main(["diff", str(there), str(folder)]) == 0, "two formats, compared under our names"


def test_chatglm_alone_needs_a_run(case, tmp_path, capsys):
    """A part of a model: with a configuration, the bundle is what that run would begin with."""
    folder, root = case
    there = tmp_path / "there"
    shutil.copytree(folder, there, copy_function=shutil.copyfile)
    content = json.loads((folder / "model_config.json").read_text())
    (there / "model_config.json").unlink()
    (there / "model_config.json").write_text(json.dumps({k: v for k, v in content.items() if not k.endswith("_args")}))
    assert main(["import", str(there), "--out", str(tmp_path / "bundle")]) == 2
    assert "--config" in capsys.readouterr().err
    language = Language(
        layers=2, width=64, heads=4, mlp_width=256, vocabulary=500, positions=256, dtype="fp32", tokenizer="none",
        weights=str(there),
    )  # fmt: skip
    run = tiny.config(run=Run(name="tiny", stage="generate"), model=replace(tiny.MODEL, language=language))
    (tmp_path / "run.yaml").write_text(dump(run))
    assert main(["import", str(there), "--out", str(tmp_path / "bundle"), "--config", str(tmp_path / "run.yaml")]) == 0
    found, whole = ours(tmp_path / "bundle"), ours(root / "bundle")
    for name in (name for name in found if name.startswith("language.")):
        assert torch.equal(found[name], whole[name])
    assert "qformer.query_tokens" in read_trained(tmp_path / "bundle")
    older = reordered(folder, tmp_path / "older", "heads")
    (older / "model_config.json").unlink()
    command = ["import", str(older), "--out", str(tmp_path / "asked"), "--config", str(tmp_path / "run.yaml")]
    assert main([*command, "--format", "chatglm-sat", "--qkv", "heads"]) == 0
    assert main(["diff", str(tmp_path / "asked"), str(tmp_path / "bundle")]) == 0


def test_positions_for_other_sizes():
    """A grid that is the same everywhere stays so, the class token stays, and the first axis is the rows."""
    rows = torch.arange(4.0).repeat_interleave(4)[:, None]
    positions = torch.cat((torch.full((1, 1), 9.0), rows))
    found = interpolate(positions, 4, 8)
    assert found.shape == (65, 1)
    assert found[0] == 9
    grid = found[1:].view(8, 8)
    torch.testing.assert_close(grid, grid[:, :1].expand(8, 8))
    assert (grid[1:, 0] >= grid[:-1, 0] - 0.1).all()
    assert torch.equal(interpolate(torch.ones(17, 3), 4, 2), torch.ones(5, 3))
