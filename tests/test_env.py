"""`vglm env` on this machine, and on ones that lack something."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import transformers
from transformers import OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

from vglm_train import env
from vglm_train.config.language import Language
from vglm_train.config.model import Model
from vglm_train.model.visual_language import build_visual_language

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30


def rows(text: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in text.partition("\n\n")[0].splitlines())


def test_the_command_prints_versions_and_this_machine():
    command = [sys.executable, "-m", "vglm_train.env"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = rows(result.stdout)
    assert found["torch"] == torch.__version__
    assert found["transformers"] == transformers.__version__
    assert found["python"].startswith("3.")
    assert found["RAM"].endswith("GiB")
    assert result.returncode == ("for everything: missing" in result.stdout)
    assert all(f"for {purpose}: " in result.stdout for purpose in env.PURPOSES)
    assert "ChatGLM-6B: fp16 16." in result.stdout


def test_json_says_the_same(capsys):
    assert env.main(["--json"]) == int("everything" in env.environment()["missing"])
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["numpy"][0].isdigit()
    assert found["ram"] > GIB / 2
    assert {fit["form"] for fit in found["fits"]} == set(env.BYTES)


def test_every_declared_dependency_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {requirement.partition(">")[0] for requirement in requirements}

    assert names(project["dependencies"]) == set(env.BACKBONE)
    for extra, packages in env.EXTRAS.items():
        assert names(project["optional-dependencies"][extra]) == set(packages)
    assert any(f'"{requirement}"' in env.SAT for requirement in project["optional-dependencies"]["train"])


def test_what_is_missing_stands_under_its_purpose_with_a_command(monkeypatch, capsys):
    absent = {"deepspeed", "wandb", "fastapi", "SwissArmyTransformer"}
    real = env.installed
    monkeypatch.setattr(env, "installed", lambda name: None if name in absent else real(name))
    env.main([])
    text = capsys.readouterr().out
    assert 'for training: missing: deepspeed, SwissArmyTransformer, wandb. pip install "vglm_train[train]"' in text
    assert 'for serving and the web page: missing: fastapi. pip install "vglm_train[chat]"' in text
    assert "for chatting with ChatGLM: missing: SwissArmyTransformer. " in text
    assert 'pip install --no-deps "SwissArmyTransformer' in text
    assert "for everything: all there" in text
    monkeypatch.setattr(env, "installed", lambda name: None if name == "torch" else real(name))
    assert env.main([]) == 1


def test_a_machine_without_gpus_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", "")
    env.main([])
    text = capsys.readouterr().out
    assert rows(text)["GPU"] == "none that torch can use"
    assert rows(text)["driver"] == "not found (no nvidia-smi that works)"
    assert "as there is no GPU" in text
    assert "for quantising: all there" in text, "it is about GPUs"


def smi(folder: Path, *lines: str) -> None:
    """An nvidia-smi that knows these GPUs."""
    program = folder / "nvidia-smi"
    cards = "\n".join(lines)
    program.write_text(f"#!/bin/sh\ncase $1 in *driver*) echo 570.1;; *) echo '{cards}';; esac\n")
    program.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_without_a_torch_that_works_the_driver_tells_of_the_cards(monkeypatch, tmp_path, capsys):
    smi(tmp_path, "NVIDIA RTX 4090, 24564, 1000, 23564", "NVIDIA A2, 15356, 15000, 356")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch", None)
    env.main([])
    text = capsys.readouterr().out
    assert "NVIDIA RTX 4090, 24.0 GiB, 1.0 GiB used, 23.0 GiB free" in text
    assert "installed, but cannot be imported" in text
    assert "not usable: torch is missing" in text
    assert "What fits the 23.0 GiB free on the largest GPU" in text
    assert rows(text)["driver"] == "570.1"


def test_what_fits_is_counted_from_the_models_themselves():
    """Numbers in the matrices of the blocks, and all others, of the shapes as they were released."""
    with torch.device("meta"):
        whole = build_visual_language(Model(language=Language(tokenizer="none")), (0.0,) * 3, (1.0,) * 3)
        opt = OPTForCausalLM(OPTConfig(vocab_size=50304, hidden_size=2560, ffn_dim=10240, num_hidden_layers=32,
                                       num_attention_heads=32, word_embed_proj_dim=2560))  # fmt: skip
        t5 = T5ForConditionalGeneration(T5Config(
            vocab_size=32128, d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32,
            feed_forward_proj="gated-gelu",
        ))  # fmt: skip
        t5.lm_head = torch.nn.Linear(2048, 32128, bias=False)  # Flan-T5's is not its embeddings
    for name, model in (("ChatGLM-6B", whole.language), ("OPT-2.7B", opt), ("Flan-T5-XL", t5)):
        numbers = {key: value for key, value in model.named_parameters()}
        blocks = sum(value.numel() for key, value in numbers.items()
                     if value.dim() == 2 and (".layers." in key or "block." in key) and "bias" not in key)  # fmt: skip
        everything = sum(value.numel() for value in numbers.values())
        assert env.SIZES[name] == pytest.approx((blocks, everything - blocks), rel=1e-3), name
    language = {id(value) for value in whole.language.parameters()}
    vision = sum(value.numel() for value in whole.vision.parameters())
    rest = sum(value.numel() for value in whole.parameters() if id(value) not in language) - vision
    assert 2 * vision + 4 * rest == env.IMAGE_SIDE


def test_int4_fits_where_fp16_does_not():
    found = {(fit.model, fit.form): fit for fit in env.fits(12 * GIB)}
    assert [found["ChatGLM-6B", form].fits for form in ("fp16", "int8", "int4")] == [False, True, True]
    assert found["ChatGLM-6B", "fp16"].needs == 2 * sum(env.SIZES["ChatGLM-6B"]) + env.IMAGE_SIDE + env.WORKING
    assert not any(fit.fits for fit in env.fits(None))
