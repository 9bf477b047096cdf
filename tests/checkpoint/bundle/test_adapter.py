"""Adapters as files, and merged into bundles."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_language
import torch
from made_bundles import built, parts, spoken_logits
from precision import like
from run import runs, speaking

from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.bundle.adapter import base_of, check_base, parse_scaled, read_adapter, save_adapter
from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.bundle.write import save_finetuned
from vglm_train.config.language import Language
from vglm_train.config.tuning import Lora, Prefix, Rule, Tuning
from vglm_train.errors import UserError
from vglm_train.model.language import build_language
from vglm_train.model.tuning import apply_tuning, is_adapter
from vglm_train.model.tuning.lora import attach_lora

CPU = torch.device("cpu")
FROZEN = (Rule(match="*", train=False),)
LORA = Tuning(rules=FROZEN, lora=Lora(rank=2, alpha=4.0))


def tuned(model, tuning=LORA, seed=0):
    apply_tuning(model, tuning, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.trained_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def test_it_comes_back(tmp_path):
    model = tuned(tiny_language.build(tiny_language.CHATGLM))
    size = save_adapter(tmp_path / "a", model.trained_parameters(), LORA, {"language": "1"}, {"step": 3})
    found = read_adapter(tmp_path / "a")
    assert size == sum(file.stat().st_size for file in (tmp_path / "a").iterdir())
    assert found.scale == 2.0
    assert found.document["origin"] == {"step": 3}
    assert found.document["tuning"]["rules"][0] == {"match": "*", "train": False, "lr": 1.0}
    assert {name: tuple(t.shape) for name, t in found.tensors.items()} == {
        name: tuple(p.shape) for name, p in model.trained_parameters()
    }
    assert all(torch.equal(found.tensors[name], p) for name, p in model.trained_parameters())
    save_adapter(tmp_path / "a", model.trained_parameters(), LORA, {}, {"step": 4})
    assert read_adapter(tmp_path / "a").document["origin"] == {"step": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_rank_10_on_two_layers_of_chatglm_6b_is_below_10_mb(tmp_path):
    with torch.device("meta"):
        model = build_language(Language(tokenizer="none"))
    attach_lora(model, Lora(rank=10, layers=(0, 14)), 0)
    made = {name: torch.zeros(p.shape) for name, p in model.named_parameters() if is_adapter(name)}
    assert len(made) == 8
    size = save_adapter(tmp_path / "a", made.items(), LORA, {}, {})
    assert 1.9e6 < size < 2.0e6  # 491,520 numbers of four bytes


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UserError, match=r"is not an adapter: there is no adapter\.json"):
        read_adapter(tmp_path)
    save_adapter(tmp_path / "a", {"x.lora_a": torch.zeros(1)}.items(), LORA, {}, {})
    document = json.loads((tmp_path / "a" / "adapter.json").read_text())
    (tmp_path / "a" / "adapter.json").write_text(json.dumps(document | {"version": 9}))
    with pytest.raises(UserError, match="version 9, this program reads 1"):
        read_adapter(tmp_path / "a")
    (tmp_path / "a" / "adapter.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"cannot be read .* Copy it again"):
        read_adapter(tmp_path / "a")


def test_another_models_adapter_is_refused(tmp_path):
    save_adapter(tmp_path / "a", {"x.lora_a": torch.zeros(1)}.items(), LORA, {"language": "1", "vision": "2"}, {})
    adapter = read_adapter(tmp_path / "a")
    check_base(adapter, {"language": "1", "vision": "2", "trained": "3"}, tmp_path)
    with pytest.raises(UserError, match=r"was not trained on .*: the fingerprint of its vision differs"):
        check_base(adapter, {"language": "1", "vision": "3"}, tmp_path)


def test_weights_on_the_command_line(tmp_path):
    (tmp_path / "a:0.5").mkdir()
    assert parse_scaled("b:0.25") == (Path("b"), 0.25)
    assert parse_scaled("b") == (Path("b"), 1.0)
    assert parse_scaled(str(tmp_path / "a:0.5")) == (tmp_path / "a:0.5", 1.0)
    for weight in ("half", "nan", "inf", "-inf"):
        with pytest.raises(UserError, match=f"'{weight}' is no number"):
            parse_scaled(f"b:{weight}")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """A stage-two bundle of each family, its configuration beside it."""
    folder = tmp_path_factory.mktemp("spoken")
    run = runs.write_run(folder)
    aligned = speaking.write_bundle(run, folder / "aligned")
    made = {}
    for family in speaking.FAMILIES:
        config = speaking.write_run(run, aligned, folder / "made", family)
        stage, model = built(config)
        stage.save(folder / family, model, {"run": "made"})
        made[family] = folder / family
    return made


def adapters(bundle, folder):
    """Two adapters of that bundle."""
    for number, tuning in enumerate((LORA, Tuning(rules=(Rule(match="projection.*"), *FROZEN), lora=Lora(rank=3)))):
        model = tuned(open_bundle(bundle, CPU).model, tuning, number)
        save_adapter(
            folder / f"a{number}", model.trained_parameters(), tuning, base_of(bundle, read_document(bundle)), {}
        )
    return folder / "a0", folder / "a1"


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_a_merged_bundle_answers_as_the_tuned_model_and_needs_nothing_else(spoken, tmp_path, family, capsys):
    first, _ = adapters(spoken[family], tmp_path)
    bundle = open_bundle(spoken[family], CPU)
    plain = spoken_logits(bundle.model, bundle.template)
    wanted = spoken_logits(tuned(bundle.model).eval(), bundle.template)
    assert main(["merge", str(spoken[family]), "--adapter", str(first), "--out", str(tmp_path / "out")]) == 0
    assert "merged" in capsys.readouterr().out
    shutil.rmtree(first)
    there = shutil.move(tmp_path / "out", tmp_path / "there")
    found = spoken_logits(*parts(open_bundle(Path(there), CPU)))
    torch.testing.assert_close(found, wanted, **like(wanted, 4096))  # these wide weights amplify rounding
    assert not torch.allclose(found, plain, atol=1e-2)


def test_a_merged_q_former_that_reads_keeps_its_tokenizer(tmp_path):
    run = runs.write_run(tmp_path)
    aligned = speaking.write_bundle(run, tmp_path / "aligned")
    config = speaking.write_run(run, aligned, tmp_path / "made")
    words = [
        f"model.text.tokenizer={tmp_path / 'vocab.txt'}",
        "model.text={max_length: 10, processor: plain, language_token: true}",
    ]
    stage, model = built(config, "model.qformer.reads_question=true", *reversed(words))
    stage.save(tmp_path / "reads", model, {})
    first, _ = adapters(tmp_path / "reads", tmp_path)
    command = ["merge", str(tmp_path / "reads"), "--adapter", str(first), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert open_bundle(tmp_path / "out", CPU).template.text is not None


@pytest.mark.parametrize("option", ["--vision-weights", "--vision"])
def test_a_large_encoder_that_moved_is_named_where_it_is(spoken, tmp_path, monkeypatch, capsys, option):
    """By the option that the message gives."""
    monkeypatch.setattr("vglm_train.checkpoint.bundle.towers.SMALL", 1000)
    aligned = spoken["chatglm"].parent / "aligned"
    file = Path(shutil.copy(aligned / "vision.safetensors", tmp_path / "encoder.safetensors"))
    stage, model = built(aligned.parent / "made" / "chatglm.yaml", f"model.vision.weights={file}")
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    stage.save(bundle, model, {})
    first, _ = adapters(bundle, tmp_path)
    moved = file.rename(tmp_path / "moved.safetensors")
    command = ["merge", str(bundle), "--adapter", str(first), "--out", str(out)]
    assert main(command) == 2
    assert "give their path with --vision-weights" in capsys.readouterr().err
    assert main([*command, option, str(moved)]) == 0
    assert read_document(out)["towers"]["vision"]["file"] == str(moved.resolve())
    open_bundle(out, CPU)


def test_two_adapters_with_weights(spoken, tmp_path):
    bundle = spoken["chatglm"]
    first, second = adapters(bundle, tmp_path)
    command = ["merge", str(bundle), "--adapter", str(first), "--adapter", f"{second}:0.5"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    base, out = open_bundle(bundle, CPU).model, open_bundle(tmp_path / "out", CPU).model
    tensors = read_adapter(second).tensors["projection.weight"]
    torch.testing.assert_close(out.projection.weight, (base.projection.weight + tensors) / 2)
    assert json.loads((tmp_path / "out" / "bundle.json").read_text())["origin"]["merged"] == [
        f"{first}:1",
        f"{second}:0.5",
    ]


def test_what_cannot_be_merged_is_told(spoken, tmp_path, capsys):
    bundle, other = spoken["chatglm"], spoken["causal"]
    first, _ = adapters(bundle, tmp_path)
    out = ["--out", str(tmp_path / "out")]

    def said(*words):
        assert main(["merge", *words, *out]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "was not trained on" in said(str(other), "--adapter", str(first))
    assert "nothing to merge; give --adapter" in said(str(bundle))
    again = f"{first.parent / '.' / 'x' / '..' / first.name}:0.5"
    assert "is given 2 times; give it once" in said(str(bundle), "--adapter", f"{first}:0.5", "--adapter", again)
    tuning = Tuning(rules=FROZEN, prefix=Prefix(length=2))
    model = tuned(open_bundle(bundle, CPU).model, tuning)
    save_adapter(tmp_path / "p", model.trained_parameters(), tuning, base_of(bundle, read_document(bundle)), {})
    assert "prefix is no change of weights" in said(str(bundle), "--adapter", str(tmp_path / "p"))


def test_what_a_fine_tuning_added_is_merged_before_it_leaves(spoken, tmp_path, capsys):
    base, folder, out = spoken["causal"], tmp_path / "tuned", tmp_path / "out"
    bundle = open_bundle(base, CPU)
    config = replace(bundle.config, tuning=LORA)
    save_finetuned(folder, config, base, tuned(bundle.model), bundle.template.tokenizer, {})
    command = f"vglm checkpoint merge {base} --adapter {folder} --out MERGED"
    wanted = f"is what a fine-tuning added to another bundle: merge it first, {command}"
    for words in (["merge", str(folder), "--adapter", str(folder)], ["export", str(folder), "--format", "hf-blip2"]):
        assert main([*words, "--out", str(out)]) == 2
        assert f"{folder} {wanted}" in capsys.readouterr().err
        assert not out.exists()
    assert main(["inspect", str(folder)]) == 0
    said = capsys.readouterr().out
    assert wanted in said
    assert "can become" not in said


def test_others_may_read_it_as_any_new_file(tmp_path):
    (tmp_path / "new").write_text("")
    save_adapter(tmp_path / "a", [("x", torch.zeros(1))], LORA, {}, {})
    assert (tmp_path / "a" / "adapter.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode
