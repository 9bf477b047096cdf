"""A language model in few bits on load: what it answers, what fits, what is told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from run import speaking

from vglm_train.chat import memory
from vglm_train.chat.__main__ import main
from vglm_train.chat.memory import Fit, language_bytes, need
from vglm_train.chat.model import load
from vglm_train.checkpoint.__main__ import main as checkpoint
from vglm_train.checkpoint.bundle.adapter import base_of, save_adapter
from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.bundle.write import save_finetuned
from vglm_train.config.load import load as load_config
from vglm_train.config.tuning import Lora, Rule, Tuning
from vglm_train.errors import UserError
from vglm_train.model.language.linears import linears
from vglm_train.model.language.packed import PackedLinear
from vglm_train.model.tuning import apply_tuning
from vglm_train.model.visual_language import build_visual_language

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.mark.parametrize("family", speaking.FAMILIES)
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_a_quantised_model_answers(bundles, pictures, family, form):
    """One at a time, together and streamed; as the same weights in full answer."""
    prompts = ["what number", "which", "this is number"]
    with load(bundles[family], device="cpu", quantize=form) as model:
        assert model.quantize == form
        single = [
            model.chat(picture, prompt, max_new=10, sample=False)[0] for picture, prompt in zip(pictures, prompts)
        ]
        assert model.generate(pictures[:3], prompts, max_new=10, sample=False) == single
        assert "".join(model.stream(pictures[0], prompts[0], max_new=10, sample=False)) == single[0]
        packed = {linear.name: linear.module.full() for linear in linears(model.bundle.model.language)}
    with load(bundles[family], device="cpu") as full:
        assert full.quantize is None
        for linear in linears(full.bundle.model.language):
            linear.module.weight.copy_(packed[linear.name].T if linear.transposed else packed[linear.name])
        assert full.generate(pictures[:3], prompts, max_new=10, sample=False) == single


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_quantising_is_the_same_each_time(bundles, form):
    first, second = (open_bundle(bundles["causal"], CPU, quantize=form).model.state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def visualglm():
    """At full size, without memory."""
    towers = [f"model.{part}.weights=null" for part in ("vision", "qformer", "language")]
    preset = ROOT / "configs/pretrain/visualglm_stage2.yaml"
    config = load_config(preset, [*towers, "model.language.tokenizer=nowhere", "model.language.dtype=fp16"])
    with torch.device("meta"):
        return build_visual_language(config.model, (0.5,) * 3, (0.5,) * 3)


def test_the_most_precise_form_that_fits_is_taken(visualglm, monkeypatch):
    needed = {form: need(visualglm, form, 2048) for form in memory.ORDER}
    sizes = [needed[form] / 2**30 for form in memory.ORDER]
    assert 15 < sizes[0] < 20
    assert 10 < sizes[1] < 13
    assert 7 < sizes[2] < 10.5
    fit = Fit("B", CPU, 2048)
    for free, form in ((needed[None], None), (needed[None] - 1, "int8"), (needed["int8"] - 1, "int4")):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        assert fit(visualglm) == form
        assert fit.reason.startswith(f"quantize: {form or 'fp16'}; fp16 needs ")
    monkeypatch.setattr(memory, "free_memory", lambda device: needed["int4"] - 1)
    with pytest.raises(UserError, match=r"B does not fit: fp16 needs .*, int8 needs .*, int4 needs .* of 2048 tokens"):
        fit(visualglm)
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    assert fit(visualglm) is None
    assert "nothing says" in fit.reason


def test_auto_opens_what_it_chose(bundles, monkeypatch):
    monkeypatch.setattr(memory, "need", lambda model, form, tokens: {None: 3, "int8": 2, "int4": 1}[form])
    for free, form in ((3, None), (2, "int8"), (1, "int4")):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        with load(bundles["causal"], device="cpu", quantize="auto") as model:
            assert model.quantize == form
            assert model.memory().startswith(f"quantize: {form or 'fp32'}; fp32 needs 3 B")
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    with pytest.raises(UserError, match="does not fit"):
        load(bundles["causal"], device="cpu", quantize="auto")


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_bytes_are_counted_before_there_are_any(bundles, family):
    """For a model on the meta device, and one that has its weights, whatever they are in."""
    counted = {}

    def count(model):
        counted.update({form: language_bytes(model.language, form) for form in memory.ORDER})

    open_bundle(bundles[family], CPU, quantize=count)
    for form in memory.ORDER:
        language = open_bundle(bundles[family], CPU, quantize=form).model.language
        held = sum(tensor.nbytes for tensor in (*language.parameters(), *language.buffers()))
        assert counted[form] == held
        assert {each: language_bytes(language, each) for each in memory.ORDER} == counted


def test_a_form_that_is_none_is_named(bundles):
    with pytest.raises(UserError, match="int8, int4 or auto, not 'int3'"):
        load(bundles["causal"], device="cpu", quantize="int3")


def test_the_command_tells_what_it_takes(bundles, pictures, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(pictures[0].read_bytes())
    out = tmp_path / "out.jsonl"
    arguments = [
        str(bundles["causal"]),
        "--device",
        "cpu",
        "--batch",
        str(folder),
        "--prompt",
        "what",
        "--max-new",
        "4",
    ]
    assert main([*arguments, "--out", str(out), "--quantize", "int4"]) == 0
    printed = capsys.readouterr().err
    assert "language model: " in printed
    assert " in int4 on cpu" in printed
    assert main([*arguments, "--out", str(out)]) == 2
    assert "quantize" in capsys.readouterr().err


FROZEN = (Rule(match="*", train=False),)
EVERY = Tuning(rules=FROZEN, lora=Lora(rank=2, targets=("*",)))


def tuned(folder, tuning=EVERY):
    """A bundle with random updates of every layer."""
    bundle = open_bundle(folder, CPU)
    apply_tuning(bundle.model, tuning, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in bundle.model.trained_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return bundle


@pytest.mark.parametrize("family", speaking.FAMILIES)
def test_adapters_work_on_quantised_blocks_and_merged_ones_are_quantised(bundles, pictures, tmp_path, family):
    folder, adapter, merged = bundles[family], tmp_path / "adapter", tmp_path / "merged"
    parts = base_of(folder, read_document(folder))
    save_adapter(adapter, tuned(folder).model.trained_parameters(), EVERY, parts, {})
    assert checkpoint(["merge", str(folder), "--adapter", str(adapter), "--out", str(merged)]) == 0
    answers = []
    for path, added in ((folder, []), (folder, [str(adapter)]), (merged, [])):
        with load(path, added, device="cpu", quantize="int8") as model:
            layers = [linear.module for linear in linears(model.bundle.model.language)]
            assert all(isinstance(layer, PackedLinear) for layer in layers)
            assert all(hasattr(layer, "adapter") == bool(added) for layer in layers)
            answers.append(model.chat(pictures[0], "what number", max_new=10, sample=False)[0])
    assert answers[0] not in answers[1:]


def test_what_was_fine_tuned_in_four_bits_stays_in_them(bundles, tmp_path):
    base, folder = bundles["causal"], tmp_path / "tuned"
    tuning = replace(EVERY, quantize="nf4")
    bundle = tuned(base, tuning)
    config = replace(bundle.config, tuning=tuning)
    save_finetuned(folder, config, base, bundle.model, bundle.template.tokenizer, {})
    for quantize in (None, "auto"):
        with load(folder, device="cpu", quantize=quantize) as model:
            assert model.quantize == "nf4"
            ours, theirs = model.bundle.model.state_dict(), bundle.model.state_dict()
            assert ours.keys() == theirs.keys()
            changed = [name for name in ours if not torch.equal(ours[name], theirs[name])]
            assert all(name.endswith("adapter.lora_b") for name in changed), "an adapter is read with its scale"
    with pytest.raises(UserError, match=r"fine-tuned on a language model in nf4.*without quantize=int8"):
        load(folder, device="cpu", quantize="int8")
