"""Models as they were released, opened as they are."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import blip2_folders
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import vglm_train
from vglm_train.chat.model import ChatModel
from vglm_train.checkpoint.__main__ import main as checkpoint
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.convert import released
from vglm_train.checkpoint.convert.bundle import read as read_bundle
from vglm_train.checkpoint.convert.released import as_bundle
from vglm_train.checkpoint.convert.source import Options
from vglm_train.checkpoint.convert.visualglm import hub_table
from vglm_train.checkpoint.keymaps.lavis import lavis_stage2
from vglm_train.errors import UserError
from vglm_train.files import lock
from vglm_train.image import eval_pixels, open_image
from vglm_train.weights.found import read_object

ROOT = Path(__file__).resolve().parents[2]
GREEDY = {"sample": False, "repetition_penalty": 1.0, "max_new": 8}
LAYOUTS = ("hf-blip2 causal", "hf-blip2 seq2seq", "hf-blip2 bin", "visualglm-sat", "visualglm-hub")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of each test's own."""
    monkeypatch.setenv("VGLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def downloads(bundles, tmp_path_factory) -> dict[str, Path]:
    """Folders in the layouts that are downloaded."""
    root = tmp_path_factory.mktemp("released")
    for family, kind, name in (
        ("causal", "hf-blip2", "hf-blip2 causal"),
        ("seq2seq", "hf-blip2", "hf-blip2 seq2seq"),
        ("chatglm", "visualglm-sat", "visualglm-sat"),
    ):
        assert checkpoint(["export", str(bundles[family]), "--format", kind, "--out", str(root / name)]) == 0
    _as_bin(root / "hf-blip2 causal", root / "hf-blip2 bin")
    _as_hub(bundles["chatglm"], root / "visualglm-sat", root / "visualglm-hub")
    return {name: root / name for name in LAYOUTS}


def _as_bin(there: Path, out: Path) -> None:
    """pytorch_model.bin in two parts, as transformers 4 wrote it."""
    shutil.copytree(there, out, ignore=shutil.ignore_patterns("*.safetensors"))
    _write_parts(load_file(there / "model.safetensors"), out)


def _as_hub(bundle: Path, sat: Path, out: Path) -> None:
    source = read_bundle(bundle, Options())
    model = source.config.model
    heads = {"eva_args": model.vision.heads, "qformer_args": model.qformer.heads, "": model.language.heads}
    weights = {name: tensor.read() for name, tensor in source.tensors.items()}
    out.mkdir()
    _write_parts(hub_table(model.qformer.layers, heads).inverse().apply(weights), out)
    content = json.loads((sat / "model_config.json").read_text("utf-8"))
    content |= {"model_type": "chatglm", "eva_config": content.pop("eva_args")}
    content |= {"qformer_config": content.pop("qformer_args")}
    (out / "config.json").write_text(json.dumps(content), "utf-8")
    shutil.copyfile(sat / "ice_text.model", out / "ice_text.model")


def _write_parts(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    names, index = list(tensors), {}
    for part in range(2):
        file = f"pytorch_model-{part + 1:05}-of-00002.bin"
        torch.save({name: tensors[name].contiguous() for name in names[part::2]}, folder / file)
        index |= dict.fromkeys(names[part::2], file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}), "utf-8")


def answers(model: ChatModel, pictures: list[Path]) -> list[str]:
    return model.generate(pictures, ["what number"] * len(pictures), **GREEDY)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_answers_are_those_of_the_bundle_imported_by_hand(downloads, pictures, tmp_path, cache, capsys, layout):
    folder = downloads[layout]
    assert checkpoint(["import", str(folder), "--out", str(tmp_path / "by_hand")]) == 0
    with vglm_train.load(tmp_path / "by_hand", device="cpu") as model:
        wanted = answers(model, pictures)
    assert len(set(wanted)) > 1 or "seq2seq" in layout, "answers that are all alike show nothing"
    assert not (cache / "imported").exists(), "a bundle is opened where it is"
    capsys.readouterr()
    with vglm_train.load(folder, device="cpu") as model:
        assert answers(model, pictures) == wanted
    said = capsys.readouterr().err
    assert f"{folder} is " in said
    assert "imported once" in said
    with vglm_train.load(folder, device="cpu") as model:
        assert answers(model, pictures) == wanted
    assert "imported" not in capsys.readouterr().err, "the second time it is there"
    (kept,) = [path for path in (cache / "imported").iterdir() if path.is_dir()]
    assert released.as_bundle(folder) == kept


@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_the_answers_are_those_of_transformers(downloads, pictures, family):
    folder = downloads[f"hf-blip2 {family}"]
    theirs = transformers.Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    with vglm_train.load(folder, device="cpu") as model:
        template, image, answered = model.template, model.bundle.config.data.image, set()
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (image.mean, image.std))
        for picture in pictures:
            asked = model.ask(picture, "what number", **GREEDY)
            prompt = asked.request.prompt
            ids = torch.tensor([prompt.input_ids])
            start = prompt.image_starts[0]
            ids[:, start : start + template.image_length] = theirs.config.image_token_index
            pixels = eval_pixels(open_image(picture.read_bytes()), model.bundle.config.model.vision.image_size)
            written = theirs.generate(
                pixel_values=((pixels / 255 - mean) / std)[None], input_ids=ids,
                attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False,
            )[0].tolist()  # fmt: skip
            written = written[1:] if family == "seq2seq" else written[ids.shape[1] :]
            written = written[: written.index(template.end_id)] if template.end_id in written else written
            answered.add(text := model.answer(asked).text)
            assert text == template.polish(template.tokenizer.decode(written)).rstrip()
        assert len(answered) > 1 or family == "seq2seq"


def test_the_answers_are_those_of_visualglms_own_code(downloads, pictures, tmp_path):
    """SAT's loader and classes as VisualGLM-6B puts them together, in a process of their own."""
    folder = downloads["visualglm-sat"]
    with vglm_train.load(folder, device="cpu") as model:
        asked = [model.ask(picture, "what number", **GREEDY) for picture in pictures[:3]]
        mine, template, image = (
            [model.answer(each).text for each in asked],
            model.template,
            model.bundle.config.data.image,
        )
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (image.mean, image.std))
    prompts = [each.request.prompt for each in asked]
    inputs = {
        "input_ids": torch.tensor([prompt.input_ids for prompt in prompts]), "new": torch.tensor(8),
        "image": torch.stack([(each.request.pixels[0] / 255 - mean) / std for each in asked]),
        "pre_image": torch.tensor(prompts[0].image_starts[0]),
    }  # fmt: skip
    save_file(inputs, tmp_path / "in.safetensors")
    files = [str(folder), str(tmp_path / "in.safetensors"), str(tmp_path / "out.safetensors")]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "DS_ACCELERATOR": "cpu"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, str(ROOT / "tests" / "sat_client.py"), *files]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = []
    for row in load_file(tmp_path / "out.safetensors")["written"].tolist():
        ids = row[: row.index(template.end_id)] if template.end_id in row else row
        theirs.append(template.polish(template.tokenizer.decode(ids)).rstrip())
    assert mine == theirs
    assert len(set(mine)) > 1


def test_the_command_goes_from_the_download_to_an_answer(downloads, pictures, tmp_path):
    command = [sys.executable, "-m", "vglm_train", "chat", str(downloads["visualglm-hub"]), "--device", "cpu"]
    command += ["--image", str(pictures[0]), "--max-new", "8", "--temperature", "0"]
    done = subprocess.run(command, input="what number\n", capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "imported once" in done.stderr


def test_a_folder_that_moves_is_known_and_one_that_changes_is_not(downloads, tmp_path, cache):
    there = tmp_path / "there"
    shutil.copytree(downloads["hf-blip2 causal"], there)
    first = as_bundle(there)
    there.rename(tmp_path / "moved")
    assert as_bundle(tmp_path / "moved") == first
    tensors = load_file(tmp_path / "moved" / "model.safetensors")
    tensors["language_projection.bias"] += 1
    save_file(tensors, tmp_path / "moved" / "model.safetensors", {"format": "pt"})
    assert as_bundle(tmp_path / "moved") != first


def test_two_processes_import_it_once(downloads, tmp_path, cache):
    """The second waits for the first, which holds the lock, and takes what that one made."""
    folder = downloads["hf-blip2 causal"]
    out = as_bundle(folder)
    aside = tmp_path / "aside"
    out.rename(aside)
    code = (
        "import sys, pathlib as p, vglm_train.checkpoint.convert.released as r; print(r.as_bundle(p.Path(sys.argv[1])))"
    )
    with open(f"{out}.lock", "ab") as file:
        assert lock(file)
        second = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=-1, stderr=-1, text=True, cwd=ROOT)
        assert second.stderr is not None
        assert "another process is importing" in second.stderr.readline()
        aside.rename(out)
        before = (out / "bundle.json").stat().st_mtime_ns
    said, more = second.communicate(timeout=300)
    assert (second.returncode, said.strip()) == (0, str(out)), more
    assert "imported once" not in more
    assert (out / "bundle.json").stat().st_mtime_ns == before


def test_an_import_that_is_stopped_leaves_nothing(downloads, cache, monkeypatch):
    folder, whole = downloads["hf-blip2 causal"], released.bundle_format.write_document

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(released.bundle_format, "write_document", stopped)
    with pytest.raises(KeyboardInterrupt):
        as_bundle(folder)
    assert [path.suffix for path in (cache / "imported").iterdir()] == [".lock"]
    monkeypatch.setattr(released.bundle_format, "write_document", whole)
    assert open_bundle(as_bundle(folder), torch.device("cpu")).document["stage"] == "generate"


def test_a_killed_import_is_begun_again(downloads, cache):
    folder = downloads["hf-blip2 causal"]
    code = (
        "import os, signal, sys, pathlib, vglm_train.checkpoint.convert.released as released\n"
        "def write(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "released.bundle_format.write_document = write\n"
        "released.as_bundle(pathlib.Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == -signal.SIGKILL
    left = {path.name.partition(".")[2] for path in (cache / "imported").iterdir()}
    assert left == {"lock", "tmp-0"}
    out = as_bundle(folder)
    assert {path.name for path in (cache / "imported").iterdir()} == {out.name, f"{out.name}.lock"}


def test_a_disk_that_fills_while_it_is_written(downloads, cache, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(released.bundle_format, "write_document", full)
    with pytest.raises(UserError, match=r"the disk is full.*VGLM_CACHE"):
        as_bundle(downloads["hf-blip2 causal"])
    assert [path.suffix for path in (cache / "imported").iterdir()] == [".lock"]


def test_without_locks_what_another_process_made_is_taken(downloads, monkeypatch):
    """As on Windows, where it cannot be replaced while that process has it open."""
    write = released.bundle_format.write

    def write_then_fail(*given: object, **named: object) -> None:
        write(*given, **named)
        raise UserError("was not written: it is in use.")

    monkeypatch.setattr(released, "lock", lambda *_, **__: None)
    monkeypatch.setattr(released.bundle_format, "write", write_then_fail)
    assert open_bundle(as_bundle(downloads["hf-blip2 causal"]), torch.device("cpu")).document["stage"] == "generate"


def test_a_disk_that_is_too_small(downloads, monkeypatch):
    monkeypatch.setattr(released, "SPARE", 1 << 60)
    with pytest.raises(UserError, match=r"takes .*GiB, and .* has .* left.*VGLM_CACHE"):
        as_bundle(downloads["hf-blip2 causal"])


def test_a_cache_that_cannot_be_written(downloads, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VGLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"VGLM_CACHE.*file is no folder"):
        as_bundle(downloads["hf-blip2 causal"])


def test_a_tokenizer_that_stands_elsewhere(downloads, pictures, tmp_path):
    """SAT's release holds none."""
    there = tmp_path / "there"
    shutil.copytree(downloads["visualglm-sat"], there)
    (there / "ice_text.model").rename(tmp_path / "ice_text.model")
    with pytest.raises(UserError, match=r"holds no tokenizer: copy ice_text.model.*--tokenizer"):
        vglm_train.load(there)
    with pytest.raises(UserError, match="--tokenizer: no such file or folder"):
        vglm_train.load(there, tokenizer=tmp_path / "nothing")
    found = []
    for folder, beside in ((there, tmp_path / "ice_text.model"), (downloads["visualglm-sat"], None)):
        with vglm_train.load(folder, device="cpu", tokenizer=beside) as model:
            found.append(answers(model, pictures))
    assert found[0] == found[1]


def test_lavis_stage_two_with_its_frozen_parts(tmp_path, pictures):
    """The widths of the release tell the heads, so this one is as wide, and has one layer."""
    vision = {**blip2_folders.VISION, "hidden_size": 1408, "num_attention_heads": 16, "num_hidden_layers": 1}
    qformer = {**blip2_folders.QFORMER, "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 1,
               "encoder_hidden_size": 1408}  # fmt: skip
    text = transformers.CONFIG_MAPPING["opt"].from_dict(dict(blip2_folders.OPT)).to_dict()
    config = transformers.Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text,
                                      num_query_tokens=4, image_token_index=63)  # fmt: skip
    theirs = blip2_folders.randomised(transformers.Blip2ForConditionalGeneration(config))
    from checkpoint.convert.test_convert_use import tokenizer

    theirs.save_pretrained(tmp_path / "hf")
    theirs.language_model.save_pretrained(tmp_path / "opt")
    for folder in ("hf", "opt"):
        tokenizer(tmp_path / folder)
    whole = read_bundle(as_bundle(tmp_path / "hf"), Options())
    weights = {name: tensor.read() for name, tensor in whole.tensors.items() if not name.startswith("language.")}
    trained = lavis_stage2("causal").inverse().apply(weights)
    trained["Qformer.bert.embeddings.position_ids"] = torch.arange(16)[None]
    torch.save({"model": trained}, tmp_path / "lavis.pth")
    with pytest.raises(UserError, match=r"frozen OPT that stands elsewhere.*--language-weights\.$"):
        vglm_train.load(tmp_path / "lavis.pth")
    found = []
    for path, language in ((tmp_path / "lavis.pth", tmp_path / "opt"), (tmp_path / "hf", None)):
        with vglm_train.load(path, device="cpu", language_weights=language) as model:
            found.append([model.chat(each, "w9 w17", **GREEDY)[0] for each in pictures[:2]])
    assert found[0] == found[1]


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}
ALONE = {
    "a language model": (LLAMA, ["language model alone", "model.language.weights"]),
    "CLIP": ({"model_type": "clip", "vision_config": {}}, ["image encoder alone", "model.vision.weights"]),
    "BERT": ({"model_type": "bert"}, ["encoder of texts", "model.qformer.weights"]),
    "stage one": ({"model_type": "blip-2", "architectures": ["Blip2ForImageTextRetrieval"]},
                  ["compares pictures with texts", "vglm checkpoint import"]),
    "another": ({"model_type": "llava", "vision_config": {}, "text_config": {}},
                ["llava", "To talk, give VisualGLM-6B"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_talk_is_named(tmp_path, cache, name):
    content, words = ALONE[name]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text(json.dumps(content))
    save_file({"model.norm.weight": torch.ones(4)}, tmp_path / "there" / "model.safetensors")
    with pytest.raises(UserError) as error:
        vglm_train.load(tmp_path / "there")
    assert all(word in str(error.value) for word in [str(tmp_path / "there"), *words]), error.value
    assert not (cache / "imported").exists()


def test_a_peft_adapter_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    save_file({"x.lora_A.weight": torch.ones(4)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"PEFT adapter \(LORA, rank 8\).*[Mm]erge"):
        vglm_train.load(tmp_path)


def test_a_download_that_is_not_complete(downloads, tmp_path):
    shutil.copytree(downloads["hf-blip2 bin"], tmp_path / "there")
    (tmp_path / "there" / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match=r"lacks pytorch_model-00002-of-00002.bin.*Complete the download"):
        vglm_train.load(tmp_path / "there")


def test_what_is_imported_says_where_it_came_from(downloads):
    document = read_object(as_bundle(downloads["visualglm-sat"]) / "bundle.json")
    assert document["origin"]["format"] == "visualglm-sat"


def test_lora_that_sat_did_not_merge(downloads, tmp_path):
    """As VisualGLM's fine-tuning saves it."""
    shutil.copytree(downloads["visualglm-sat"], tmp_path / "there")
    file = tmp_path / "there" / "1" / "mp_rank_00_model_states.pt"
    content = torch.load(file, weights_only=True)
    content["module"]["transformer.layers.0.attention.query_key_value.matrix_A.0"] = torch.ones(2, 2)
    torch.save(content, file)
    with pytest.raises(UserError, match=r"holds LoRA beside .*matrix_A\.0.*merge_lora"):
        vglm_train.load(tmp_path / "there")
