"""VisualGLM as a client: SAT's own code opens our export of a small vocabulary, key by key and id by id."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from precision import like
from safetensors.torch import load_file, save_file

from data_tools.chatglm_tokenizer.train import train_ice_text
from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.config.data import Image
from vglm_train.config.language import Decoding, Language
from vglm_train.config.run import Run
from vglm_train.model.visual_language import build_visual_language
from vglm_train.prompt.chatglm import build_chatglm
from vglm_train.prompt.dialogue import Dialogue

ROOT = Path(__file__).resolve().parents[3]
NEW = 8  # ids that both write
SENTENCES = [f"a photo of the number {number}" for number in range(60)]


def made_bundle(root: Path, cross_every: int, vocabulary: int = 0) -> tuple[Path, Path]:
    """A bundle whose tokenizer was trained here, and the tokenizer's file."""
    file = root / "ice_text.model"
    pieces = train_ice_text(SENTENCES, file, 400)
    tokenizer = build_chatglm(file)
    language = Language(layers=2, width=32, heads=2, mlp_width=64, vocabulary=max(pieces, vocabulary), positions=96,
                        dtype="fp32", tokenizer=str(file))  # fmt: skip
    qformer = replace(tiny.MODEL.qformer, layers=4, cross_every=cross_every)
    shape = replace(tiny.MODEL, qformer=qformer, language=language)
    config = tiny.config(run=Run(name="small", stage="generate"), model=shape)
    torch.manual_seed(3)
    model = build_visual_language(shape, Image().mean, Image().std, sop_id=tokenizer.sop_id)
    with torch.no_grad():  # as initialised, a picture makes no difference
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)
    save_bundle(root / "bundle", config, model, tokenizer, {})
    return root / "bundle", file


@pytest.fixture(scope="module", params=[1, 2])
def case(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(f"every_{request.param}")
    bundle, file = made_bundle(root, request.param)
    assert main(["export", str(bundle), "--format", "visualglm-sat", "--out", str(root / "sat")]) == 0
    return root, build_chatglm(file)


def test_every_key_of_the_configuration(case):
    root, tokenizer = case
    shape = open_bundle(root / "bundle", torch.device("cpu")).config.model
    vision, qformer, language = shape.vision, shape.qformer, shape.language
    dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "model_parallel_size": 1}
    assert json.loads((root / "sat" / "model_config.json").read_text()) == {
        "model_class": "VisualGLMModel", "layernorm_order": "post", "sat_version": "0.4.12", **dropout,
        "bos_token_id": tokenizer.sop_id, "mask_token_id": tokenizer.find("[MASK]"),
        "gmask_token_id": tokenizer.gmask_id, "pad_token_id": tokenizer.pad_id,
        "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "inner_hidden_size": 64,
        "vocab_size": language.vocabulary, "max_sequence_length": 96, "image_length": qformer.queries,
        "eva_args": {
            "vocab_size": 1, "layernorm_order": "pre", "use_final_layernorm": False, "layernorm_epsilon": 1e-6,
            "row_parallel_linear_final_bias": False, "pre_len": 1, "post_len": 0, "in_channels": 3, **dropout,
            "num_classes": 1000, "num_layers": vision.depth, "hidden_size": vision.width, "image_size": [16, 16],
            "num_attention_heads": vision.heads, "inner_hidden_size": vision.mlp_width, "patch_size": vision.patch,
        },
        "qformer_args": {
            "layernorm_order": "post", "max_sequence_length": 0, "layernorm_epsilon": 1e-12, **dropout,
            "num_layers": 4, "hidden_size": qformer.width, "num_attention_heads": qformer.heads,
            "inner_hidden_size": qformer.mlp_width, "vocab_size": qformer.queries,
            "is_decoder": [number % qformer.cross_every == 0 for number in range(4)],
            "cross_attn_hidden_size": vision.width,
        },
    }  # fmt: skip


def test_sats_own_code_opens_it_and_writes_the_same(case):
    """In a process that has built one of our ChatGLMs before."""
    root, tokenizer = case
    bundle = open_bundle(root / "bundle", torch.device("cpu"))
    prompt = bundle.template.encode_prompt(Dialogue("what number?", None))
    pixels = tiny.batch(0, 2).pixels
    fields = bundle.template.collate([prompt, prompt])
    valid = torch.ones(2, dtype=torch.bool)
    batch = PromptBatch(pixels=pixels, valid=valid, **fields)
    normalised = (pixels / 255 - torch.tensor(Image().mean)[:, None, None]) / torch.tensor(Image().std)[:, None, None]
    inputs = {"input_ids": batch.input_ids, "image": normalised, "new": torch.tensor(NEW),
              "pre_image": torch.tensor(prompt.image_starts[0])}  # fmt: skip
    save_file({name: value.contiguous() for name, value in inputs.items()}, root / "in.safetensors")
    files = [str(root / name) for name in ("sat", "in.safetensors", "out.safetensors")]
    command = [sys.executable, str(ROOT / "tests" / "sat_client.py"), *files]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "DS_ACCELERATOR": "cpu"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = load_file(root / "out.safetensors")
    wanted = tokenizer.sop_id, tokenizer.find("[MASK]"), tokenizer.gmask_id, tokenizer.pad_id
    assert theirs["ids"].tolist() == list(wanted)
    everywhere = replace(batch, labels=batch.input_ids.clone().index_fill(1, torch.tensor([0]), IGNORED))
    with torch.no_grad():
        logits = bundle.model.score(everywhere)[0].view(2, -1, theirs["logits"].shape[-1])
    torch.testing.assert_close(logits, theirs["logits"][:, :-1], **like(logits))
    written = bundle.model.generate(batch, Decoding(max_new=NEW), end_id=-1)
    assert written.tolist() == theirs["written"].tolist()
    assert len({tuple(row) for row in written.tolist()}) == 2, "each picture has its own words"


def test_the_tokenizer_travels_and_the_folder_comes_back(case, tmp_path):
    root, tokenizer = case
    assert build_chatglm(root / "sat").sop_id == tokenizer.sop_id
    run = root / "bundle" / "config.yaml"
    assert main(["import", str(root / "sat"), "--out", str(tmp_path / "again"), "--config", str(run)]) == 0
    assert main(["diff", str(root / "bundle"), str(tmp_path / "again")]) == 0
    assert main(["export", str(tmp_path / "again"), "--format", "visualglm-sat", "--out", str(tmp_path / "sat")]) == 0
    before, after = (
        json.loads((folder / "model_config.json").read_text()) for folder in (root / "sat", tmp_path / "sat")
    )
    assert after == before


def test_without_a_tokenizer_ids_are_never_guessed(case, tmp_path, capsys):
    root, tokenizer = case
    bundle = tmp_path / "bundle"
    assert main(["import", str(root / "sat"), "--out", str(bundle)]) == 0
    document = json.loads((bundle / "bundle.json").read_text())
    (bundle / "tokenizer" / "ice_text.model").unlink()
    assert main(["export", str(bundle), "--format", "visualglm-sat", "--out", str(tmp_path / "recorded")]) == 0
    content = json.loads((tmp_path / "recorded" / "model_config.json").read_text())
    assert content["bos_token_id"] == tokenizer.sop_id, "as the imported folder recorded it"
    (bundle / "bundle.json").write_text(json.dumps(document | {"origin": {}}))
    command = ["export", str(bundle), "--format", "visualglm-sat", "--out", str(tmp_path / "x")]
    assert main(command) == 2
    assert "--tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert main([*command, "--tokenizer", str(root / "ice_text.model")]) == 0
    assert json.loads((tmp_path / "x" / "model_config.json").read_text())["gmask_token_id"] == tokenizer.gmask_id


def test_a_tokenizer_of_other_weights(case, tmp_path, capsys):
    """Its ids are beyond the model's, or are not those that the folder records."""
    root, _ = case
    larger = tmp_path / "larger.model"
    train_ice_text([f"{text} {chr(0x4E00 + n)}" for n, text in enumerate(SENTENCES)], larger, 450)
    command = ["export", str(root / "bundle"), "--format", "visualglm-sat", "--out", str(tmp_path / "x")]
    assert main([*command, "--tokenizer", str(larger)]) == 2
    assert "largest id" in capsys.readouterr().err
    smaller = tmp_path / "smaller.model"
    train_ice_text(SENTENCES, smaller, 390)
    assert main(["import", str(root / "sat"), "--out", str(tmp_path / "b"), "--tokenizer", str(smaller)]) == 2
    assert "bos_token_id" in capsys.readouterr().err


def test_what_visualglms_code_has_built_in_is_told(case, tmp_path, capsys):
    root, _ = case
    main(["export", str(root / "bundle"), "--format", "visualglm-sat", "--out", str(tmp_path / "x")])
    told = capsys.readouterr().out
    for words in ("queries 32, here 4", "width of ChatGLM 4096, here 32", "image size 224, here 16"):
        assert words in told
    assert "image mean" not in told
